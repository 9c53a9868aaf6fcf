"""Exact values and optimal policies against brute force on small MDPs."""

import itertools

import pytest
import torch

from irecgan_ext.simulators import (
    MDP,
    BeliefPolicy,
    FixedPolicy,
    OraclePolicy,
    best_fixed_slate,
    counts_policy,
    oracle_values,
    policy_values,
    simulate,
)
from irecgan_ext.simulators.optimal import belief_slates, best_slates
from irecgan_ext.types import BOS, END, PAD, Trajectories


def iterate_values(mdp: MDP, slates: list[tuple[int, ...]], sweeps: int = 2_000) -> list[float]:
    """Value of a state-dependent slate policy by repeated substitution, in plain Python."""
    rewards, transitions = mdp.rewards.tolist(), mdp.transitions.tolist()
    values = [0.0] * mdp.states
    for _ in range(sweeps):
        values = [
            sum(
                rewards[s][j] / sum(rewards[s][i] for i in slate) * rewards[s][j]
                * (1 + sum(p * v for p, v in zip(transitions[s][j], values, strict=True)))
                for j in slate
            )
            for s, slate in enumerate(slates)
        ]  # fmt: skip
    return values


def belief_value(belief: torch.Tensor, gains: torch.Tensor, weights: torch.Tensor, slate: tuple[int, ...]) -> float:
    """sum_s b_s (sum_j n_js) / (sum_j d_js)."""
    index = torch.tensor(slate)
    return float((belief * gains[:, index].sum(1) / weights[:, index].sum(1)).sum())


def test_policy_values_in_closed_form() -> None:
    alone = MDP(torch.tensor([[0.75]], dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64))
    assert policy_values(alone, torch.tensor([[0]])).tolist() == pytest.approx([3.0])
    # State 0: item 0 (r = 1/2) moves to state 1, where item 1 (r = 1/4) stays: V1 = 1/3, V0 = 1/2 (1 + 1/3).
    rewards = torch.tensor([[0.5, 0.9], [0.9, 0.25]], dtype=torch.float64)
    transitions = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(2, 2, 2)
    values = policy_values(MDP(rewards, transitions), torch.tensor([[0], [1]]))
    assert values.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_policy_values_agree_with_repeated_substitution_and_batch() -> None:
    mdp = MDP.random(states=3, items=5, seed=7)
    slates = [[(0, 1), (2, 4), (3, 1)], [(4, 3), (0, 2), (1, 2)]]
    values = policy_values(mdp, torch.tensor(slates))
    for row, slate in zip(values.tolist(), slates, strict=True):
        assert row == pytest.approx(iterate_values(mdp, slate), rel=1e-9)


def test_policy_values_agree_with_simulation() -> None:
    mdp = MDP.random(states=4, items=8, seed=1, transition_temperature=0.1)
    slates = torch.rand(4, 8, generator=torch.Generator().manual_seed(2)).argsort(1)[:, :3]
    returns = simulate(mdp, OracleLike(slates), 20_000, slate_size=3, seed=4).returns()
    exact = float(policy_values(mdp, slates)[0])
    assert abs(float(returns.mean()) - exact) < 3.3 * float(returns.std()) / 20_000**0.5


class OracleLike(OraclePolicy):
    """The oracle's machinery with given slates."""

    def __init__(self, slates: torch.Tensor) -> None:
        self.slates, self.slate_size = slates, slates.shape[1]


def test_policies_that_keep_users_for_ever_are_refused() -> None:
    forever = MDP(torch.ones(2, 3, dtype=torch.float64), MDP.random(2, 3).transitions)
    with pytest.raises(ValueError, match="slates must let every session end"):
        policy_values(forever, torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="slates must let every session end"):
        oracle_values(forever, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_best_slates_agree_with_enumeration(size) -> None:
    generator = torch.Generator().manual_seed(size)
    weights = torch.rand(40, 7, generator=generator, dtype=torch.float64)
    payoffs = 5 * torch.rand(40, 7, generator=generator, dtype=torch.float64)
    weights[:10, :3] = 0
    weights[0] = 0
    slates, ratios = best_slates(weights, payoffs, size)
    for row in range(40):
        w, g = weights[row].tolist(), payoffs[row].tolist()
        totals = {a: sum(w[j] for j in a) for a in itertools.combinations(range(7), size)}
        values = {a: sum(w[j] * g[j] for j in a) / total if total else 0.0 for a, total in totals.items()}
        assert float(ratios[row]) == pytest.approx(max(values.values()), rel=1e-12)
        assert values[tuple(sorted(slates[row].tolist()))] == pytest.approx(float(ratios[row]), rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_oracle_agrees_with_enumeration_of_all_policies(size) -> None:
    mdp = MDP.random(states=2, items=4, seed=5, transition_temperature=0.2)
    slates = list(itertools.combinations(range(4), size))
    values = [iterate_values(mdp, list(pair), sweeps=400) for pair in itertools.product(slates, repeat=2)]
    oracle = oracle_values(mdp, size)
    assert oracle.values.tolist() == pytest.approx([max(v[s] for v in values) for s in (0, 1)], rel=1e-9)
    assert policy_values(mdp, oracle.slates).tolist() == pytest.approx(oracle.values.tolist(), rel=1e-12)


def test_the_highest_rewards_are_not_always_optimal() -> None:
    # Item 0 is the likelier click, but leads to a state whose users leave at once.
    rewards = torch.tensor([[0.9, 0.8], [0.0, 0.0]], dtype=torch.float64)
    transitions = torch.zeros(2, 2, 2, dtype=torch.float64)
    transitions[:, 0, 1] = transitions[:, 1, 0] = 1
    oracle = oracle_values(MDP(rewards, transitions), 1)
    assert oracle.slates[0].tolist() == [1]
    assert oracle.values.tolist() == pytest.approx([4.0, 0.0])


def test_oracle_policy_earns_its_value() -> None:
    mdp = MDP.random(states=5, items=15, seed=2)
    policy = OraclePolicy(mdp, 4)
    returns = simulate(mdp, policy, 20_000, slate_size=4, seed=1).returns()
    assert abs(float(returns.mean()) - float(policy.values[0])) < 3.3 * float(returns.std()) / 20_000**0.5


def test_belief_is_the_posterior_over_state_paths() -> None:
    mdp = MDP.random(states=3, items=6, seed=9, transition_temperature=0.2)
    slates = [(0, 3, 5), (1, 2, 3), (5, 4, 0)]
    clicks = [3, 1, 4]
    policy = BeliefPolicy(mdp, 3)
    policy.begin(2, seed=0)
    for slate, click in zip(slates, clicks, strict=True):
        policy.observe(torch.tensor([1]), torch.tensor([slate]), torch.tensor([click]))

    r, p = mdp.rewards.tolist(), mdp.transitions.tolist()
    weight = [0.0] * 3
    for path in itertools.product(range(3), repeat=3):
        states = (0, *path)
        chance = 1.0
        for t, (slate, click) in enumerate(zip(slates, clicks, strict=True)):
            s = states[t]
            chance *= r[s][click] ** 2 / sum(r[s][j] for j in slate) * p[s][click][states[t + 1]]
        weight[states[3]] += chance
    assert policy.beliefs[1].tolist() == pytest.approx([w / sum(weight) for w in weight], rel=1e-12)
    assert policy.beliefs[0].tolist() == [1.0, 0.0, 0.0]


def test_belief_matches_the_frequencies_of_the_simulator() -> None:
    mdp = MDP.random(states=3, items=4, seed=3, transition_temperature=0.2)
    slates = torch.tensor([[0, 2], [1, 3]])
    log = simulate(mdp, FixedPolicy(slates), 60_000, slate_size=2, seed=8)
    policy = BeliefPolicy(mdp, 2)
    policy.begin(1, seed=0)
    for slate, click in zip(slates, (2, 1), strict=True):
        policy.observe(torch.tensor([0]), slate[None], torch.tensor([click]))
    came = log.states[(log.clicks[:, 0] == 2) & (log.clicks[:, 1] == 1), 2]
    expected = policy.beliefs[0] * len(came)
    statistic = ((torch.bincount(came, minlength=3) - expected) ** 2 / expected).sum()
    assert len(came) > 1_000
    assert float(torch.special.gammaincc(torch.tensor(1.0, dtype=torch.float64), statistic / 2)) > 1e-3


def test_impossible_click_is_reported() -> None:
    rewards = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64)
    policy = BeliefPolicy(MDP(rewards, torch.ones(1, 3, 1, dtype=torch.float64)), 2)
    policy.begin(1, seed=0)
    with pytest.raises(ValueError, match="clicks must be possible under the belief, got item 0"):
        policy.observe(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([0]))


def test_belief_slates_are_optimal_for_a_known_state() -> None:
    mdp = MDP.random(states=5, items=30, seed=4)
    oracle = oracle_values(mdp, 6)
    gains = mdp.rewards.square() * (1 + mdp.transitions @ oracle.values)
    slates = belief_slates(torch.eye(5, dtype=torch.float64), gains, mdp.rewards, 6)
    assert torch.equal(slates.sort(1).values, oracle.slates.sort(1).values)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_belief_slates_against_enumeration(size) -> None:
    generator = torch.Generator().manual_seed(size)
    beliefs = torch.rand(50, 3, generator=generator, dtype=torch.float64)
    beliefs /= beliefs.sum(1, keepdim=True)
    weights = torch.rand(3, 7, generator=generator, dtype=torch.float64)
    gains = weights * 4 * torch.rand(3, 7, generator=generator, dtype=torch.float64)
    slates = belief_slates(beliefs, gains, weights, size)
    optimal = 0
    for belief, slate in zip(beliefs, slates.tolist(), strict=True):
        values = {a: belief_value(belief, gains, weights, a) for a in itertools.combinations(range(7), size)}
        value = values[tuple(sorted(slate))]
        swaps = [a for a in values if len(set(a) & set(slate)) == size - 1]
        assert value >= max(values[a] for a in swaps) * (1 - 1e-9)
        optimal += value >= max(values.values()) * (1 - 1e-9)
    assert optimal >= 45


def test_belief_policy_lies_between_the_best_fixed_slate_and_the_oracle() -> None:
    mdp = MDP.random(states=4, items=16, seed=11, transition_temperature=0.05)
    fixed = float(policy_values(mdp, best_fixed_slate(mdp, 4).expand(4, -1))[0])
    oracle = float(oracle_values(mdp, 4).values[0])
    returns = simulate(mdp, BeliefPolicy(mdp, 4), 1_000, slate_size=4, seed=3).returns()
    margin = 3.3 * float(returns.std()) / 1_000**0.5
    assert fixed + margin < float(returns.mean()) < oracle - margin


def test_belief_policy_is_the_oracle_where_there_is_one_state() -> None:
    mdp = MDP.random(states=1, items=20, seed=6)
    belief, oracle = (simulate(mdp, p(mdp, 4), 200, slate_size=4, seed=3) for p in (BeliefPolicy, OraclePolicy))
    assert torch.equal(belief.clicks, oracle.clicks)


@pytest.mark.parametrize("seed", range(5))
def test_best_fixed_slate_agrees_with_enumeration(seed) -> None:
    mdp = MDP.random(states=3, items=7, seed=seed, transition_temperature=0.1)
    values = {
        slate: float(policy_values(mdp, torch.tensor(slate).expand(3, -1))[0])
        for slate in itertools.combinations(range(7), 3)
    }
    slate = best_fixed_slate(mdp, 3)
    assert values[tuple(sorted(slate.tolist()))] == pytest.approx(max(values.values()), rel=1e-12)


def test_best_fixed_slate_of_the_whole_catalogue() -> None:
    assert sorted(best_fixed_slate(MDP.random(states=2, items=4), 4).tolist()) == [0, 1, 2, 3]


def log_of(sessions: list[list[tuple[list[int], int]]]) -> Trajectories:
    """Sessions of (slate, click); those that do not end with END are censored."""
    horizon = max(len(session) for session in sessions)
    rows = [session + [([PAD, PAD], PAD)] * (horizon - len(session)) for session in sessions]
    clicks = torch.tensor([[click for _, click in row] for row in rows])
    return Trajectories(
        start=torch.full((len(sessions),), BOS),
        slates=torch.tensor([[slate for slate, _ in row] for row in rows]),
        clicks=clicks,
        rewards=(clicks >= 0).float(),
        lengths=torch.tensor([len(session) for session in sessions]),
        censored=torch.tensor([session[-1][1] != END for session in sessions]),
    )


def test_counts_rank_by_clicks_per_showing_the_first_step_apart() -> None:
    log = log_of([[([0, 1], 1), ([2, 3], 3), ([3, 0], END)], [([0, 1], 1), ([3, PAD], 3)], [([2, 0], END)]])
    policy = counts_policy(log, items=5, slate_size=2, smoothing=1.0)
    # First step: clicks 2 of 6 showings, mean 1/3. Rates: item 1 (2 + 1/3) / 3; item 4 1/3; 2 (1/3) / 2; 0 (1/3) / 4.
    # Later: clicks 2 of 5 showings, mean 2/5. Rates: item 3 (2 + 2/5) / 4; items 1, 4 2/5; items 0, 2 (2/5) / 2.
    assert policy.slates[0].tolist() == [1, 4]
    assert policy.slates[1, 0] == 3
    assert policy.slates[1, 1] in (1, 4)
    assert policy.slate_size == 2


def test_counts_smoothing_doubts_the_rare() -> None:
    often = [[([0, 1], 0)]] * 8 + [[([0, 1], END)]] * 12
    log = log_of([*often, [([2, 1], 2)]])
    assert counts_policy(log, items=3, slate_size=1, smoothing=1e-3).slates[0].tolist() == [2]
    assert counts_policy(log, items=3, slate_size=1, smoothing=10.0).slates[0].tolist() == [0]
    with pytest.raises(ValueError, match="smoothing must be positive, got 0"):
        counts_policy(log, items=3, slate_size=1, smoothing=0)
    with pytest.raises(ValueError, match=r"slate_size must be in 1..C \(C = 3\), got 4"):
        counts_policy(log, items=3, slate_size=4)

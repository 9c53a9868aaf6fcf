"""The logging policies: which slates, how often, for whom."""

import itertools

import pytest
import torch

from irecgan_ext.simulators import MDP, FixedPolicy, MaxPolicy, MixPolicy, RandomPolicy, StatePolicy


def chi_square_p(observed: torch.Tensor, expected: float) -> float:
    """p-value of counts against the same expected count in every cell."""
    statistic = ((observed - expected) ** 2 / expected).sum().double()
    return float(torch.special.gammaincc(torch.tensor((len(observed) - 1) / 2, dtype=torch.float64), statistic / 2))


def test_random_policy_draws_every_ordered_slate_equally_often() -> None:
    policy, draws = RandomPolicy(5, 2), 40_000
    policy.begin(draws, seed=3)
    slates = policy.recommend(torch.arange(draws), torch.zeros(draws, dtype=torch.int64))
    counts = torch.bincount(slates[:, 0] * 5 + slates[:, 1], minlength=25)
    ordered = torch.tensor([5 * a + b for a, b in itertools.permutations(range(5), 2)])
    assert int(counts[ordered].sum()) == draws
    assert chi_square_p(counts[ordered], draws / 20) > 1e-3


def test_random_policy_is_fresh_at_every_step_and_repeats_with_its_seed() -> None:
    policy, rows, states = RandomPolicy(30, 6), torch.arange(20), torch.zeros(20, dtype=torch.int64)
    runs = []
    for seed in (1, 1, 2):
        policy.begin(20, seed)
        runs.append([policy.recommend(rows, states), policy.recommend(rows, states)])
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[0][1])
    assert not torch.equal(runs[0][0], runs[2][0])


def test_max_policy_shows_the_best_items_first() -> None:
    mdp = MDP.random(states=6, items=23, seed=1)
    states = torch.tensor([5, 0, 3])
    slates = MaxPolicy(mdp, 7).recommend(torch.arange(3), states)
    for state, slate in zip(states.tolist(), slates.tolist(), strict=True):
        rewards = mdp.rewards[state].tolist()
        assert slate == sorted(range(23), key=lambda item: -rewards[item])[:7]


def test_mix_policy_shows_the_best_or_the_middle_with_equal_chance() -> None:
    mdp, draws = MDP.random(states=3, items=20, seed=2), 20_000
    policy = MixPolicy(mdp, 3)
    policy.begin(draws, seed=0)
    states = torch.arange(draws) % 3
    rank = mdp.ranking.argsort(1)
    ranks = rank[states[:, None], policy.recommend(torch.arange(draws), states)]
    best = (ranks < 3).all(1)
    assert torch.equal(ranks[best].sort(1).values, torch.arange(3).expand(int(best.sum()), 3))
    assert chi_square_p(torch.stack([best.sum(), (~best).sum()]), draws / 2) > 1e-3
    middle = ranks[~best]  # the top 20% and 50% of 20 items: ranks 4..9
    assert int(middle.min()) == 4
    assert int(middle.max()) == 9
    assert all(len(set(slate)) == 3 for slate in middle.tolist())
    ordered = torch.bincount((middle[:, 0] - 4) * 36 + (middle[:, 1] - 4) * 6 + middle[:, 2] - 4, minlength=216)
    assert chi_square_p(ordered[ordered > 0], len(middle) / 120) > 1e-3
    assert int((ordered > 0).sum()) == 120


def test_mix_policy_needs_enough_items_in_the_middle() -> None:
    mdp = MDP.random(items=10)
    MixPolicy(mdp, 3)
    with pytest.raises(ValueError, match=r"top 20% and 50% \(3 of C = 10\), got 4"):
        MixPolicy(mdp, 4)


def test_fixed_policy_counts_the_steps_of_each_session() -> None:
    policy = FixedPolicy(torch.tensor([[0, 1], [2, 3], [4, 5]]))
    policy.begin(3, seed=0)
    everyone, states = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    assert policy.recommend(everyone, states).tolist() == [[0, 1]] * 3
    for _ in range(4):
        policy.observe(torch.tensor([2]), torch.tensor([[0, 1]]), torch.tensor([0]))
    policy.observe(torch.tensor([1]), torch.tensor([[0, 1]]), torch.tensor([1]))
    assert policy.recommend(everyone, states).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert policy.recommend(torch.tensor([1]), states[:1]).tolist() == [[2, 3]]
    policy.begin(3, seed=0)
    assert policy.recommend(everyone, states).tolist() == [[0, 1]] * 3


def test_fixed_policy_accepts_one_slate() -> None:
    policy = FixedPolicy(torch.tensor([4, 2, 7]))
    policy.begin(1, seed=0)
    assert policy.slate_size == 3
    assert policy.recommend(torch.tensor([0]), torch.tensor([9])).tolist() == [[4, 2, 7]]


def test_state_policy_looks_its_slates_up() -> None:
    policy = StatePolicy(torch.tensor([[0, 1], [2, 3]]))
    assert policy.recommend(torch.tensor([0, 4, 5]), torch.tensor([1, 0, 1])).tolist() == [[2, 3], [0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomPolicy(5, 6), r"slate_size must be in 1..C \(C = 5\), got 6"),
        (lambda: RandomPolicy(5, 0), r"slate_size must be in 1..C \(C = 5\), got 0"),
        (lambda: MaxPolicy(MDP.random(items=5), 6), r"slate_size must be in 1..C \(C = 5\), got 6"),
        (lambda: FixedPolicy(torch.zeros(2, 0, dtype=torch.int64)), r"slates must have shape .* got \[2, 0\]"),
        (lambda: StatePolicy(torch.zeros(3, dtype=torch.int64)), r"slates must have shape .* got \[3\]"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()

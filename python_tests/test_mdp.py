"""The simulated users: their law, their noise, their files."""

import itertools

import pytest
import torch
from safetensors.torch import save_file

from irecgan_ext.errors import UserError
from irecgan_ext.simulators import MDP, FixedPolicy, MaxPolicy, Policy, RandomPolicy, simulate
from irecgan_ext.simulators import mdp as mdp_module
from irecgan_ext.types import BOS, END, PAD


def chi_square_p(observed: torch.Tensor, expected: torch.Tensor) -> float:
    """p-value of counts against expected counts, cells with none expected left out (and required empty)."""
    assert not observed[expected == 0].any()
    observed, expected = observed[expected > 0].double(), expected[expected > 0].double()
    statistic = ((observed - expected).square() / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))


def one_state(*rewards: float) -> MDP:
    return MDP(torch.tensor([rewards], dtype=torch.float64), torch.ones(1, len(rewards), 1, dtype=torch.float64))


def two_states() -> MDP:
    rewards = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.8, 0.6]], dtype=torch.float64)
    to_first = torch.tensor([[0.7, 0.1, 0.5], [0.2, 0.9, 0.0]], dtype=torch.float64)
    return MDP(rewards, torch.stack([to_first, 1 - to_first], dim=2))


def test_random_has_uniform_rewards_and_softmax_transitions() -> None:
    mdp = MDP.random(states=20, items=500, seed=3)
    assert mdp.rewards.shape == (20, 500)
    assert mdp.transitions.shape == (20, 500, 20)
    assert mdp.rewards.dtype == mdp.transitions.dtype == torch.float64
    counts = torch.histc(mdp.rewards.flatten(), bins=20, min=0, max=1)
    assert chi_square_p(counts, torch.full((20,), 500.0)) > 1e-3
    assert float((mdp.transitions.amax(2) / mdp.transitions.amin(2)).max()) <= torch.e
    # -log of a softmax of uniforms, less its minimum, is (largest uniform - uniform): its mean is n/(n+1) - 1/2.
    logits = mdp.transitions.log()
    gap = (logits.amax(2, keepdim=True) - logits).mean()
    assert float(gap) == pytest.approx(20 / 21 - 1 / 2, abs=0.005)


def test_temperature_divides_the_same_uniforms() -> None:
    mild, peaked = MDP.random(seed=5), MDP.random(seed=5, transition_temperature=0.05)
    assert torch.equal(mild.rewards, peaked.rewards)
    logits, peaked_logits = mild.transitions.log(), peaked.transitions.log()
    torch.testing.assert_close(
        (peaked_logits - peaked_logits[..., :1]) * 0.05, logits - logits[..., :1], rtol=0, atol=1e-12
    )


def test_seed_decides_the_draw() -> None:
    assert torch.equal(MDP.random(seed=1).transitions, MDP.random(seed=1).transitions)
    assert not torch.equal(MDP.random(seed=1).rewards, MDP.random(seed=2).rewards)


def test_file_round_trip_is_exact(tmp_path) -> None:
    mdp = MDP.random(states=3, items=7, seed=4)
    mdp.save(tmp_path / "users.safetensors")
    loaded = MDP.load(tmp_path / "users.safetensors")
    assert torch.equal(loaded.rewards, mdp.rewards)
    assert torch.equal(loaded.transitions, mdp.transitions)
    assert [path.name for path in tmp_path.iterdir()] == ["users.safetensors"]


def test_load_names_the_file_and_the_rule(tmp_path) -> None:
    foreign, text = tmp_path / "foreign.safetensors", tmp_path / "text.safetensors"
    save_file({"rewards": torch.zeros(1, 1)}, foreign)
    text.write_text("not a tensor")
    for path, rule in ((foreign, "schema must be 'irecgan_ext.mdp/1', got None"), (text, ""), (tmp_path / "none", "")):
        with pytest.raises(UserError) as caught:
            MDP.load(path)
        assert str(caught.value).startswith(f"{path}: not a saved MDP: {rule}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, p: (r.float(), p), "rewards must be float64, got torch.float32"),
        (lambda r, p: (r[0], p), r"rewards must have shape \[M, C\] with M, C >= 1, got \[3\]"),
        (lambda r, p: (r, p[:, :2]), r"transitions must have shape \[M, C, M\] = \[2, 3, 2\], got \[2, 2, 2\]"),
        (lambda r, p: (r + 0.2, p), r"rewards must be in 0..1, got 1.1 at state 0, item 0"),
        (lambda r, p: (r * torch.nan, p), "rewards must be in 0..1, got nan at state 0, item 0"),
        (lambda r, p: (r, p * 0.9), "sum to 1, got a row with sum 0.9 .* at state 0, item 0"),
        (lambda r, p: (r, 2 * p - 0.5), "sum to 1, got a row with sum 1 and minimum -0.3 at state 0, item 1"),
    ],
)
def test_invalid_tensors_are_refused(change, message) -> None:
    mdp = two_states()
    with pytest.raises(ValueError, match=message):
        MDP(*change(mdp.rewards, mdp.transitions))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"states": 0}, "states must be at least 1, got 0"),
        ({"items": 0}, "items must be at least 1, got 0"),
        ({"transition_temperature": 0.0}, "transition_temperature must be positive, got 0.0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_random_refuses_arguments_out_of_range(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        MDP.random(**arguments)


@pytest.mark.parametrize("state", [0, 1])
def test_step_has_the_law_of_the_paper(state) -> None:
    mdp, draws = two_states(), 40_000
    slate = torch.tensor([2, 0])
    uniforms = torch.rand(draws, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    clicks, rewards, following = mdp.step(torch.full((draws,), state), slate.repeat(draws, 1), uniforms)

    shown = mdp.rewards[state, slate]
    clicked = shown * shown / shown.sum()
    expected = torch.cat(
        [(clicked[:, None] * mdp.transitions[state, slate]).flatten(), 1 - clicked.sum(0, keepdim=True)]
    )
    cells = [((clicks == item) & (following == s)).sum() for item in slate for s in (0, 1)]
    observed = torch.stack([*cells, (clicks == END).sum()])
    assert int(observed.sum()) == draws
    assert chi_square_p(observed, expected * draws) > 1e-3
    assert rewards.dtype == torch.float32
    assert torch.equal(rewards == 1, clicks != END)


def test_step_does_not_depend_on_the_order_of_the_slate() -> None:
    mdp = MDP.random(states=4, items=9, seed=1)
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand(200, 3, generator=generator, dtype=torch.float64)
    states = torch.randint(4, (200,), generator=generator)
    slates = torch.rand(200, 9, generator=generator).argsort(1)[:, :5]
    for a, b in zip(mdp.step(states, slates, uniforms), mdp.step(states, slates.flip(1), uniforms), strict=True):
        assert torch.equal(a, b)


def test_items_of_reward_zero_are_never_clicked_and_of_reward_one_always() -> None:
    mdp = one_state(0.0, 1.0, 0.0)
    edge = 1 - 2**-53  # the largest uniform
    uniforms = torch.tensor([[0.0, 0.0, 0.0], [edge, edge, edge]], dtype=torch.float64)
    states = torch.zeros(2, dtype=torch.int64)
    assert mdp.step(states, torch.tensor([[0, 1, 2]] * 2), uniforms)[0].tolist() == [1, 1]
    assert mdp.step(states, torch.tensor([[0, 2]] * 2), uniforms)[0].tolist() == [END, END]


def test_simulate_gives_valid_sessions_that_all_end() -> None:
    mdp = MDP.random(states=4, items=12, seed=2)
    log = simulate(mdp, RandomPolicy(12, 3), 500, slate_size=3, seed=0)
    log.validate(12)
    assert len(log) == 500
    assert log.slate_size == 3
    assert log.horizon == int(log.lengths.max())
    assert not log.censored.any()
    assert (log.start == BOS).all()
    assert (log.states[:, 0] == 0).all()
    assert (log.states[log.step_mask()] >= 0).all()
    for padding in (log.states, log.clicks, log.slates):
        assert (padding[~log.step_mask()] == PAD).all()
    assert torch.equal(log.rewards, log.click_mask().float())


def test_states_follow_the_transitions() -> None:
    mdp = two_states()
    log = simulate(mdp, FixedPolicy(torch.tensor([0, 1])), 20_000, slate_size=2, seed=3)
    before, after, clicks = log.states[:, :-1], log.states[:, 1:], log.clicks[:, :-1]
    for state, item in itertools.product((0, 1), (0, 1)):
        came = after[(before == state) & (clicks == item)]
        observed = torch.bincount(came, minlength=2)
        assert chi_square_p(observed, mdp.transitions[state, item] * len(came)) > 1e-3


def test_session_lengths_are_geometric() -> None:
    log = simulate(one_state(0.6, 0.6, 0.6), RandomPolicy(3, 2), 20_000, slate_size=2, seed=11)
    observed = torch.bincount(log.lengths.clamp(max=10) - 1, minlength=10)
    chance = torch.tensor([0.6**t * 0.4 for t in range(9)] + [0.6**9])
    assert chi_square_p(observed, chance * 20_000) > 1e-3


def test_random_policy_earns_its_exact_value() -> None:
    mdp = two_states()
    pairs = [torch.tensor(pair) for pair in itertools.combinations(range(3), 2)]
    gain, kernel = torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for state, pair in itertools.product((0, 1), pairs):
        shown = mdp.rewards[state, pair]
        clicked = shown.square() / shown.sum() / len(pairs)
        gain[state] += clicked.sum()
        kernel[state] += clicked @ mdp.transitions[state, pair]
    exact = torch.linalg.solve(torch.eye(2, dtype=torch.float64) - kernel, gain)[0]
    returns = simulate(mdp, RandomPolicy(3, 2), 40_000, slate_size=2, seed=5).returns()
    assert abs(float(returns.mean()) - float(exact)) < 3.3 * float(returns.std()) / 200


def test_cap_marks_the_sessions_it_cuts_and_changes_nothing_else() -> None:
    mdp = MDP.random(states=4, items=12, seed=2)
    whole = simulate(mdp, MaxPolicy(mdp, 3), 300, slate_size=3, seed=9)
    cut = simulate(mdp, MaxPolicy(mdp, 3), 300, slate_size=3, seed=9, max_steps=4)
    cut.validate(12)
    assert cut.horizon == 4
    assert torch.equal(cut.clicks, whole.clicks[:, :4])
    assert torch.equal(cut.slates, whole.slates[:, :4])
    assert torch.equal(cut.censored, whole.lengths > 4)
    assert 0 < int(cut.censored.sum()) < 300


class Stubborn(Policy):
    """Shows slate `even` to sessions of even number and `odd` to the others."""

    slate_size = 2

    def __init__(self, even: list[int], odd: list[int]) -> None:
        self.slates = torch.tensor([even, odd])

    def recommend(self, rows: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.slates[rows % 2]


def test_sessions_meet_the_same_noise_whatever_happens_to_the_others() -> None:
    mdp = two_states()
    one = simulate(mdp, Stubborn([0, 1], [0, 2]), 2_000, slate_size=2, seed=6)
    two = simulate(mdp, Stubborn([0, 1], [1, 2]), 2_000, slate_size=2, seed=6)
    even = torch.arange(0, 2_000, 2)
    assert torch.equal(one.select(even).clicks, two.select(even).clicks)
    assert torch.equal(one.select(even).states, two.select(even).states)
    assert not torch.equal(one.lengths[even + 1], two.lengths[even + 1])


def test_seed_decides_the_sessions() -> None:
    mdp = two_states()
    runs = [simulate(mdp, RandomPolicy(3, 2), 50, slate_size=2, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0].slates, runs[1].slates)
    assert torch.equal(runs[0].clicks, runs[1].clicks)
    assert not torch.equal(runs[0].slates[:, 0], runs[2].slates[:, 0])


@pytest.mark.parametrize(
    ("policy", "arguments", "message"),
    [
        (RandomPolicy(3, 2), {"sessions": 0}, "sessions must be at least 1, got 0"),
        (RandomPolicy(3, 2), {"slate_size": 4}, r"slate_size must be in 1..C \(C = 3\), got 4"),
        (RandomPolicy(3, 2), {"seed": -3}, "seed must not be negative, got -3"),
        (RandomPolicy(3, 2), {"max_steps": 0}, "max_steps must be at least 1 or None, got 0"),
        (RandomPolicy(3, 1), {}, r"policy must recommend slates of shape \[5, 2\], got \[5, 1\]"),
        (FixedPolicy(torch.tensor([1, 1])), {}, r"slates must hold distinct items in 0..C-1 \(C = 3\), got \[1, 1\]"),
        (FixedPolicy(torch.tensor([1, 3])), {}, r"slates must hold distinct items in 0..C-1 \(C = 3\), got \[1, 3\]"),
        (FixedPolicy(torch.tensor([PAD, 2])), {}, r"slates must hold distinct items .* got \[-1, 2\]"),
    ],
)
def test_simulate_refuses(policy, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(two_states(), policy, **{"sessions": 5, "slate_size": 2, "seed": 0, **arguments})


def test_users_who_never_leave_are_reported(monkeypatch) -> None:
    monkeypatch.setattr(mdp_module, "STEP_LIMIT", 5)
    policy = RandomPolicy(2, 1)
    with pytest.raises(RuntimeError, match="within 5 steps when max_steps is None, 4 did not"):
        simulate(one_state(1.0, 1.0), policy, 4, slate_size=1, seed=0)
    assert simulate(one_state(1.0, 1.0), policy, 4, slate_size=1, seed=0, max_steps=7).lengths.tolist() == [7] * 4

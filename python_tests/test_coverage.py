"""Coverage by hand, and the evaluation of policies in the simulator."""

import pytest
import torch

from irecgan_ext.evaluation import coverage, evaluate_policy
from irecgan_ext.simulators import MDP, FixedPolicy, MaxPolicy, RandomPolicy, policy_values, simulate
from irecgan_ext.types import PAD

REWARDS = torch.tensor([[0.9, 0.1, 0.5, 0.7], [0.2, 0.8, 0.4, 0.3]], dtype=torch.float64)


def test_coverage_by_hand() -> None:
    # State 0 ranks 0 3 2 1; state 1 ranks 1 2 3 0.
    got = coverage(REWARDS, torch.tensor([0, 0, 1]), torch.tensor([[3, 2], [0, 1], [2, 1]]), depth=4)
    assert got.tolist() == [
        pytest.approx([0, 1 / 2, 2 / 3, 2 / 4]),
        pytest.approx([1, 1 / 2, 1 / 3, 2 / 4]),
        pytest.approx([1, 2 / 2, 2 / 3, 2 / 4]),
    ]


def test_tied_items_are_interchangeable() -> None:
    rewards = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.1]], dtype=torch.float64)
    state = torch.tensor([0])
    for slate in ([0, 1], [0, 2], [3, 0]):
        assert coverage(rewards, state, torch.tensor([slate]), depth=5)[0].tolist() == pytest.approx(
            [1, 2 / 2, 2 / 3, 2 / 4, 2 / 5]
        )
    assert coverage(rewards, state, torch.tensor([[1, 2, 3]]), depth=5)[0].tolist() == pytest.approx(
        [0, 1 / 2, 2 / 3, 3 / 4, 3 / 5]
    )


def test_padding_covers_nothing() -> None:
    state = torch.tensor([0])
    assert coverage(REWARDS, state, torch.tensor([[3, PAD, PAD]]), depth=2)[0].tolist() == [0, 0.5]
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    assert coverage(zeros, state, torch.tensor([[PAD, PAD]]), depth=1)[0].tolist() == [0]


@pytest.mark.parametrize("depth", [0, 5])
def test_depth_must_fit_the_catalogue(depth) -> None:
    with pytest.raises(ValueError, match=rf"depth must be in 1..C \(C = 4\), got {depth}"):
        coverage(REWARDS, torch.tensor([0]), torch.tensor([[0]]), depth)


def test_coverage_agrees_with_sets() -> None:
    mdp = MDP.random(states=3, items=17, seed=5)
    generator = torch.Generator().manual_seed(1)
    slates = torch.rand(60, 17, generator=generator).argsort(1)[:, :6]
    states = torch.randint(3, (60,), generator=generator)
    got = coverage(mdp.rewards, states, slates)
    for row, (state, slate) in enumerate(zip(states.tolist(), slates.tolist(), strict=True)):
        top = sorted(range(17), key=lambda item: -float(mdp.rewards[state, item]))
        assert got[row].tolist() == pytest.approx([len(set(top[:r]) & set(slate)) / r for r in range(1, 11)])


def test_evaluation_averages_over_the_steps_and_sessions_of_simulate() -> None:
    mdp = MDP.random(states=3, items=12, seed=2)
    result = evaluate_policy(mdp, RandomPolicy(12, 4), 300, slate_size=4, seed=7)
    log = simulate(mdp, RandomPolicy(12, 4), 300, slate_size=4, seed=7)
    mask = log.step_mask()
    expected = coverage(mdp.rewards, log.states[mask], log.slates[mask]).mean(0)
    assert result.coverage == pytest.approx(tuple(expected.tolist()))
    assert torch.equal(result.returns, log.returns().double())
    assert result.reward == pytest.approx(float(log.returns().mean()))
    assert result.ci95 == pytest.approx(1.96 * float(log.returns().std()) / 300**0.5, rel=1e-4)
    assert (result.sessions, result.steps, result.censored) == (300, int(log.lengths.sum()), 0)


def test_the_max_policy_covers_the_top_k() -> None:
    mdp = MDP.random(states=3, items=20, seed=2)
    result = evaluate_policy(mdp, MaxPolicy(mdp, 5), 50, slate_size=5, seed=0)
    assert result.coverage == pytest.approx((1,) * 5 + (5 / 6, 5 / 7, 5 / 8, 5 / 9, 5 / 10))


def test_a_random_policy_covers_k_of_c() -> None:
    mdp = MDP.random(states=3, items=20, seed=2)
    result = evaluate_policy(mdp, RandomPolicy(20, 5), 5_000, slate_size=5, seed=0)
    assert result.coverage == pytest.approx((0.25,) * 10, abs=3.5 * (0.25 * 0.75 / result.steps) ** 0.5)


def test_a_small_catalogue_has_few_depths() -> None:
    mdp = MDP.random(states=2, items=3)
    assert evaluate_policy(mdp, RandomPolicy(3, 3), 5, slate_size=3, seed=0).coverage == (1.0, 1.0, 1.0)


def test_interval_holds_the_exact_value_as_often_as_it_says() -> None:
    mdp = MDP.random(states=3, items=8, seed=4)
    slate = torch.tensor([0, 3, 5])
    exact = float(policy_values(mdp, slate.expand(3, -1))[0])
    results = [evaluate_policy(mdp, FixedPolicy(slate), 400, slate_size=3, seed=seed) for seed in range(100)]
    held = sum(abs(result.reward - exact) <= result.ci95 for result in results)
    assert 86 <= held <= 99  # Binomial(100, 0.95): fewer has p < 1e-3, all of them p = 6e-3


def test_cut_sessions_are_counted() -> None:
    always = MDP(torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 3, 1, dtype=torch.float64))
    result = evaluate_policy(always, RandomPolicy(3, 2), 4, slate_size=2, seed=0, max_steps=6)
    assert (result.reward, result.censored, result.steps, result.ci95) == (6.0, 4, 24, 0.0)
    assert evaluate_policy(always, RandomPolicy(3, 2), 1, slate_size=2, seed=0, max_steps=6).ci95 == float("inf")


def test_evaluation_refuses_what_simulate_refuses() -> None:
    mdp = MDP.random(states=2, items=3)
    with pytest.raises(ValueError, match="sessions must be at least 1, got -1"):
        evaluate_policy(mdp, RandomPolicy(3, 2), -1, slate_size=2, seed=0)
    with pytest.raises(ValueError, match=r"slate_size must be in 1..C \(C = 3\), got 4"):
        evaluate_policy(mdp, RandomPolicy(3, 2), 5, slate_size=4, seed=0)

"""Off-policy estimators: exact expectations over every log of a tiny MDP, Open Bandit Pipeline, numbers worked by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from irecgan_ext.evaluation import off_policy
from irecgan_ext.evaluation.calibration import slate_reward
from irecgan_ext.plackett_luce import log_conditionals, marginals
from irecgan_ext.simulators import MDP

MDP_ = MDP.random(states=2, items=3, transition_temperature=0.3, seed=4)
SLATES = torch.tensor(list(itertools.permutations(range(3), 2)))


def policy(seed: int) -> Tensor:
    """[2, 6] float64: probability of each slate in each state."""
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(1)


LOGGING, TARGET = policy(1), policy(2)


def click_law(state: int, slate: Tensor) -> list[tuple[int, float]]:
    """Clicked items and their probabilities; END has what is left."""
    rewards = MDP_.rewards[state, slate]
    return list(zip(slate.tolist(), (rewards**2 / rewards.sum()).tolist(), strict=True))


def every_session() -> tuple[dict[str, Tensor], Tensor]:
    """All sessions of at most 2 steps with their features, and their probabilities under the logging policy."""
    rows = []
    for a in range(6):
        clicks = click_law(0, SLATES[a])
        left = 1 - sum(p for _, p in clicks)
        rows.append(([0, 0], [a, 0], [0.0, 0.0], 1, float(LOGGING[0, a]) * left))
        for (item, p), state, b in itertools.product(clicks, range(2), range(6)):
            chance = float(LOGGING[0, a] * MDP_.transitions[0, item, state] * LOGGING[state, b]) * p
            earned = float(slate_reward(MDP_, torch.tensor([state]), SLATES[[b]]))
            rows += [
                ([0, state], [a, b], [1.0, 1.0], 2, chance * earned),
                ([0, state], [a, b], [1.0, 0.0], 2, chance * (1 - earned)),
            ]
    columns = zip(*rows, strict=True)
    states, actions, rewards, lengths = (torch.tensor(column) for column in itertools.islice(columns, 4))
    chances = torch.tensor(next(columns), dtype=torch.float64)
    mask = torch.arange(2) < lengths[:, None]
    weights = torch.where(mask, TARGET[states, actions] / LOGGING[states, actions], 1.0)
    features = {"states": states, "actions": actions, "rewards": rewards.double(), "mask": mask, "weights": weights}
    return features, chances


def exact_values() -> tuple[float, float]:
    """Reward of the target policy's first step, and of its first two."""
    expected = torch.stack([slate_reward(MDP_, torch.full((6,), state), SLATES) for state in range(2)])  # [2, 6]
    value = (TARGET * expected).sum(1)
    after = torch.zeros(6, dtype=torch.float64)
    for a in range(6):
        for item, p in click_law(0, SLATES[a]):
            after[a] += p * float(MDP_.transitions[0, item] @ value)
    return float(value[0]), float(TARGET[0] @ (expected[0] + after))


def expectation(terms: off_policy.Terms, chances: Tensor) -> float:
    return off_policy.Terms(*(value * chances[:, None] for value in terms)).estimate()


def test_the_enumeration_is_complete() -> None:
    assert float(every_session()[1].sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ["trajectory_ipw", "trajectory_snipw", "per_decision_ipw", "per_decision_snipw"])
def test_session_estimators_have_the_target_policys_value_as_mean(name: str) -> None:
    log, chances = every_session()
    terms = getattr(off_policy, name)(log["weights"], log["rewards"])
    assert expectation(terms, chances) == pytest.approx(exact_values()[1], abs=1e-12)


def test_doubly_robust_is_unbiased_whatever_the_model() -> None:
    log, chances = every_session()
    quality = torch.randn(2, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected, values = quality[log["states"], log["actions"]], (TARGET * quality).sum(1)[log["states"]]
    terms = off_policy.per_decision_dr(log["weights"], log["rewards"], expected, values, log["mask"])
    assert expectation(terms, chances) == pytest.approx(exact_values()[1], abs=1e-12)
    first = off_policy.dr(log["weights"][:, 0], log["rewards"][:, 0], expected[:, 0], values[:, 0])
    assert expectation(first, chances) == pytest.approx(exact_values()[0], abs=1e-12)


def test_one_step_estimators_have_the_first_steps_value_as_mean() -> None:
    log, chances = every_session()
    for estimator in (off_policy.ipw, off_policy.snipw):
        terms = estimator(log["weights"][:, 0], log["rewards"][:, 0])
        assert expectation(terms, chances) == pytest.approx(exact_values()[0], abs=1e-12)


def test_a_wrong_weight_is_seen() -> None:
    log, chances = every_session()
    wrong = log["weights"].flip(1)
    assert (
        abs(expectation(off_policy.trajectory_ipw(wrong.cumprod(1), log["rewards"]), chances) - exact_values()[1])
        > 1e-3
    )


def test_exact_model_leaves_no_variance_but_the_logs_own() -> None:
    """With w = 1 and Q of any kind, the doubly robust terms of the first step are r + V - Q."""
    ones = torch.ones(3, dtype=torch.float64)
    terms = off_policy.dr(ones, torch.tensor([1.0, 0, 1]).double(), ones * 0.5, ones * 0.25)
    assert terms.numerator[:, 0].tolist() == [0.75, -0.25, 0.75]


def test_numbers_worked_by_hand() -> None:
    weights = torch.tensor([[2.0, 0.5], [1.0, 1.0]], dtype=torch.float64)
    rewards = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert off_policy.trajectory_ipw(weights, rewards).estimate() == (1 * 2 + 1 * 1) / 2
    assert off_policy.trajectory_snipw(weights, rewards).estimate() == (1 * 2 + 1 * 1) / 2
    assert off_policy.per_decision_ipw(weights, rewards).estimate() == (2 + 1 + 1) / 2
    assert off_policy.per_decision_snipw(weights, rewards).estimate() == pytest.approx((2 + 1) / 3 + 1 / 2)
    expected = torch.tensor([[0.5, 0.2], [0.4, 0.0]], dtype=torch.float64)
    values = torch.tensor([[0.3, 0.6], [0.1, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False]])
    second = 0.6 + 0.5 * (1 - 0.2)
    by_hand = (0.3 + 2 * (1 + second - 0.5) + 0.1 + 1 * (1 - 0.4)) / 2
    assert off_policy.per_decision_dr(weights, rewards, expected, values, mask).estimate() == pytest.approx(by_hand)
    assert off_policy.effective_sample_size(torch.tensor([1.0, 1, 2])) == pytest.approx(16 / 6)
    assert off_policy.effective_sample_size(torch.zeros(3)) == 0


def test_sessions_are_what_the_bootstrap_draws() -> None:
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    terms = off_policy.by_session(off_policy.dm(values), torch.tensor([0, 0, 1]), 2)
    assert terms.numerator[:, 0].tolist() == [3, 4]
    assert terms.denominator[:, 0].tolist() == [2, 1]
    assert terms.estimate() == pytest.approx(7 / 3)


def test_the_bootstrap_interval_is_that_of_a_mean() -> None:
    generator = torch.Generator().manual_seed(5)
    values = torch.rand(500, generator=generator, dtype=torch.float64) ** 2
    low, high = off_policy.dm(values).interval(samples=10_000, seed=1)
    half = 1.96 * float(values.std()) / 500**0.5
    # A 2.5% quantile of 10,000 draws has a standard error of 0.014 half widths.
    assert low == pytest.approx(float(values.mean()) - half, abs=0.05 * half)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.05 * half)
    assert off_policy.dm(values).interval(samples=50, seed=1) == off_policy.dm(values).interval(samples=50, seed=1)
    wide = off_policy.dm(values).interval(samples=10_000, alpha=0.01, seed=1)
    assert wide[0] < low < high < wide[1]


def obp() -> Any:
    return pytest.importorskip("obp.ope", reason="Open Bandit Pipeline is not installed (pip install obp)")


def bandit(size: int) -> dict[str, Tensor]:
    """300 contexts with logged slates of `size` from 7 items, under two softmax policies."""
    generator = torch.Generator().manual_seed(6)
    logging, target = (torch.randn(300, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    slates = (logging - torch.rand(300, 7, generator=generator).log().neg().log()).topk(size).indices
    slots = (torch.rand(300, size, generator=generator) < 0.3).double()
    told = {"slates": slates, "slots": slots, "target": target.softmax(1)}
    for name, logits in (("b", logging), ("e", target)):
        conditional = log_conditionals(logits, slates)
        told[f"joint_{name}"] = conditional.sum(1).exp()
        told[f"cascade_{name}"] = conditional.cumsum(1).exp()
        told[f"place_{name}"] = marginals(logits, slates)
    told["model"] = torch.rand(300, 7, generator=generator, dtype=torch.float64)
    return told


def test_single_items_agree_with_open_bandit_pipeline() -> None:
    ope = obp()
    log = bandit(1)
    action, reward = log["slates"][:, 0], log["slots"][:, 0]
    weights = log["joint_e"] / log["joint_b"]
    expected, values = log["model"].gather(1, action[:, None])[:, 0], (log["target"] * log["model"]).sum(1)
    shared = {
        "reward": reward.numpy(),
        "action": action.numpy(),
        "pscore": log["joint_b"].numpy(),
        "action_dist": log["target"].numpy()[:, :, None],
        "position": np.zeros(300, dtype=int),
        "estimated_rewards_by_reg_model": log["model"].numpy()[:, :, None],
    }
    pairs = [
        (ope.InverseProbabilityWeighting(), off_policy.ipw(weights, reward)),
        (ope.SelfNormalizedInverseProbabilityWeighting(), off_policy.snipw(weights, reward)),
        (ope.DirectMethod(), off_policy.dm(values)),
        (ope.DoublyRobust(), off_policy.dr(weights, reward, expected, values)),
    ]
    for theirs, ours in pairs:
        assert ours.estimate() == pytest.approx(theirs.estimate_policy_value(**shared), rel=1e-12), theirs
    names = [theirs.estimator_name for theirs, _ in pairs]
    assert names == ["ipw", "snipw", "dm", "dr"]


def test_slates_agree_with_open_bandit_pipeline() -> None:
    ope = obp()
    log, size = bandit(3), 3
    shared = {
        "slate_id": np.repeat(np.arange(300), size),
        "position": np.tile(np.arange(size), 300),
        "reward": log["slots"].numpy().ravel(),
    }

    def spread(values: Tensor) -> np.ndarray:
        return values[:, None].expand(300, size).numpy().ravel() if values.dim() == 1 else values.numpy().ravel()

    cases = [
        (ope.SlateStandardIPS(len_list=size), "joint", ""),
        (ope.SlateIndependentIPS(len_list=size), "place", "_item_position"),
        (ope.SlateRewardInteractionIPS(len_list=size), "cascade", "_cascade"),
    ]
    for theirs, ours, column in cases:
        scores = {f"pscore{column}": log[f"{ours}_b"], f"evaluation_policy_pscore{column}": log[f"{ours}_e"]}
        expected = theirs.estimate_policy_value(**shared, **{name: spread(value) for name, value in scores.items()})
        weights = log[f"{ours}_e"] / log[f"{ours}_b"]
        weights = weights[:, None].expand(300, size) if weights.dim() == 1 else weights
        assert off_policy.slate_ips(weights, log["slots"]).estimate() == pytest.approx(expected, rel=1e-12), theirs
    assert [theirs.estimator_name for theirs, _, _ in cases] == ["sips", "iips", "rips"]

"""Off-policy evaluation of a trained agent on a log with propensities: estimates, intervals and what to make of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from irecgan_ext.errors import UsageError
from irecgan_ext.evaluation import off_policy
from irecgan_ext.evaluation.coverage import NORMAL_95
from irecgan_ext.evaluation.importance import LogRatios, log_ratios, slot_rewards
from irecgan_ext.evaluation.off_policy import Terms
from irecgan_ext.evaluation.reward_model import later_values, model_values
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.types import PAD, Propensities, Trajectories

Value = Literal["session", "first", "step"]
FEW = 100  # effective sessions below which an estimate is not to be trusted


@dataclass(frozen=True)
class Estimate:
    """One estimator's answer.

    Attributes:
        value: the estimate. interval: ends of its 95% bootstrap interval, sessions drawn anew.
        effective: effective sample size of its weights, the smallest over slots; None for `dm`, which has none.
    """

    value: float
    interval: tuple[float, float]
    effective: float | None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"value": self.value, "interval": list(self.interval), "effective_sample_size": self.effective}


@dataclass(frozen=True)
class Assessment:
    """Estimates by estimator, the logging policy's own mean (`logged`, what the target is to be compared with), and
    warnings: short sentences, for people."""

    value: Value
    sessions: int
    estimates: dict[str, Estimate]
    warnings: list[str]

    def table(self) -> str:
        """As text."""
        lines = [f"{'estimator':22}{'estimate':>10}   {'95% interval':<20}{'effective sessions':>18}"]
        for name, row in self.estimates.items():
            low, high = row.interval
            effective = "" if row.effective is None else f"{row.effective:18.1f}"
            lines.append(f"{name:22}{row.value:10.4f}   {f'{low:.4f} .. {high:.4f}':<20}{effective}")
        return "\n".join(lines)


def assess(
    agent: Agent,
    user: UserModel | None,
    sessions: Trajectories,
    propensities: Propensities,
    *,
    value: Value = "session",
    iips: bool = True,
    samples: int = 1000,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> Assessment:
    """Estimate what slates drawn from `agent` (Eq 4, without replacement, as in training) would have earned.

    Args:
        agent: the target policy, in evaluation mode.
        user: the model of `dm` and `dr`, in evaluation mode; None leaves them out. One learnt from this very log makes them
            optimistic.
        sessions: the log. A session cut in the log counts to its cut.
        propensities: of its slates.
        value: "session", "first" or "step", see `off_policy`.
        iips: estimate `iips` too (of steps), whose exact probabilities per place take time in proportion to the catalogue.
        samples: of the bootstrap. seed: of bootstrap and model draws.
        progress: called with the number of steps weighed since the last call.

    Raises:
        UsageError: the logging policy is deterministic, or weights overflow.
    """
    counted = sessions.step_mask()
    if bool((propensities.pscore[counted] == 1).all()):
        raise UsageError(
            "every pscore of the log is 1: its policy is deterministic, and what other slates would have earned cannot be known "
            "from it; log with a policy that gives every slate a chance, such as random or softmax"
        )
    steps = counted.clone()
    if value == "first":
        steps[:, 1:] = False
    ratios = log_ratios(agent, sessions, propensities, steps, marginals=iips and value != "session", progress=progress)
    of_value = _session if value == "session" else _step
    made = of_value(agent, user, sessions, steps, ratios, seed)
    estimates = {}
    for name, (terms, weights) in made.items():
        estimate = terms.estimate()
        if not math.isfinite(estimate):
            raise UsageError(
                f"{name} is not finite: the agent and the policy that logged are too far apart for weights"
            )
        effective = None if weights is None else min(map(off_policy.effective_sample_size, weights.unbind(1)))
        estimates[name] = Estimate(estimate, terms.interval(samples=samples, seed=seed), effective)
    return Assessment(value, len(sessions), estimates, _warnings(estimates, ratios, propensities))


Made = dict[str, tuple[Terms, Tensor | None]]  # terms, and the weights [A, n] whose effective sample size counts


def _session(
    agent: Agent, user: UserModel | None, sessions: Trajectories, steps: Tensor, ratios: LogRatios, seed: int
) -> Made:
    def spread(values: Tensor, fill: float) -> Tensor:
        full = torch.full(steps.shape, fill, dtype=torch.float64)
        full[steps] = values
        return full

    weights = spread(ratios.joint.exp(), 1.0)
    rewards = torch.where(steps, sessions.rewards.double(), 0.0)
    whole = weights.prod(1)[:, None]
    made: Made = {
        "logged": (off_policy.ipw(torch.ones(len(sessions), dtype=torch.float64), rewards.sum(1)), None),
        "trajectory_ipw": (off_policy.trajectory_ipw(weights, rewards), whole),
        "trajectory_snipw": (off_policy.trajectory_snipw(weights, rewards), whole),
        "per_decision_ipw": (off_policy.per_decision_ipw(weights, rewards), whole),
        "per_decision_snipw": (off_policy.per_decision_snipw(weights, rewards), whole),
    }
    if user is not None:
        later = later_values(user, agent, sessions.start, sessions.horizon, sessions.slate_size, seed=seed)
        model = model_values(user, agent, sessions, steps, later=later, seed=seed)
        expected, values = spread(model.expected, 0.0), spread(model.values, 0.0)
        made["dm"] = (off_policy.dm(values[:, 0]), None)
        made["per_decision_dr"] = (off_policy.per_decision_dr(weights, rewards, expected, values, steps), whole)
    return made


def _step(
    agent: Agent, user: UserModel | None, sessions: Trajectories, steps: Tensor, ratios: LogRatios, seed: int
) -> Made:
    rewards, slots = sessions.rewards[steps].double(), slot_rewards(sessions, steps)
    joint = ratios.joint.exp()
    made: Made = {
        "logged": (off_policy.ipw(torch.ones_like(rewards), rewards), None),
        "ipw": (off_policy.ipw(joint, rewards), joint[:, None]),
        "snipw": (off_policy.snipw(joint, rewards), joint[:, None]),
    }
    if user is not None:
        model = model_values(user, agent, sessions, steps, seed=seed)
        made["dm"] = (off_policy.dm(model.values), None)
        made["dr"] = (off_policy.dr(joint, rewards, model.expected, model.values), joint[:, None])
    slate = {"sips": ratios.joint[:, None].expand_as(slots), "iips": ratios.item_position, "rips": ratios.cascade}
    for name, log_weights in slate.items():
        if log_weights is not None:
            weights = torch.where(sessions.slates[steps] == PAD, 0.0, log_weights.exp())
            made[name] = (off_policy.slate_ips(weights, slots), weights)
    rows = steps.nonzero()[:, 0]
    return {name: (off_policy.by_session(terms, rows, len(sessions)), w) for name, (terms, w) in made.items()}


def _warnings(estimates: dict[str, Estimate], ratios: LogRatios, propensities: Propensities) -> list[str]:
    found = []
    few = [f"{name} ({row.effective:.1f})" for name, row in estimates.items() if (row.effective or FEW) < FEW]
    if few:
        found.append(
            f"fewer than {FEW} effective sessions: {', '.join(few)}; these estimates and their intervals are not to be trusted. "
            "A larger log, one by a policy closer to this agent, or smaller slates help"
        )
    weights = ratios.joint.exp()
    error = NORMAL_95 * float(weights.std()) / len(weights) ** 0.5 if len(weights) > 1 else float("inf")
    mean = float(weights.mean())
    if mean + error < 1:
        found.append(
            f"the weights of single steps average {mean:.3g} rather than 1: slates that this agent shows are missing from the "
            "log or too rare in it, and estimates without self-normalisation are too low"
        )
    for name, column in (("iips", propensities.pscore_item_position), ("rips", propensities.pscore_cascade)):
        if column is None:
            found.append(f"the log does not tell what {name} needs (pscore_item_position, pscore_cascade)")
    return found

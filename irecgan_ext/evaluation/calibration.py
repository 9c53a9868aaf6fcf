"""Off-policy estimates beside the truth, which the simulator knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.evaluation.assessment import Assessment, Value, assess
from irecgan_ext.evaluation.coverage import evaluate_policy
from irecgan_ext.evaluation.importance import step_logits, tempered
from irecgan_ext.evaluation.policies import AgentPolicy
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.types import Propensities, Trajectories

_DRAWS = 2000  # slates per context of one step, at least as many as contexts


@dataclass(frozen=True)
class Point:
    """A target policy: the softmax temperature that made it, its true value, and what was estimated of it."""

    temperature: float
    truth: float
    assessment: Assessment

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        estimates = {name: row.plain() for name, row in self.assessment.estimates.items()}
        return {"temperature": self.temperature, "truth": self.truth, "estimates": estimates}


def calibrate(
    mdp: MDP,
    agent: Agent,
    user: UserModel | None,
    sessions: Trajectories,
    propensities: Propensities,
    *,
    temperatures: Sequence[float],
    value: Value,
    max_steps: int | None,
    iips: bool = True,
    samples: int = 1000,
    seed: int = 0,
    simulated: int = 100_000,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Point]:
    """Estimate and true value of several target policies: the agent's softmax at each temperature.

    Args:
        mdp: the users behind the log. max_steps: the log's cap on a session.
        simulated: sessions that tell the true value of a session.
        agent, user, sessions, propensities, value, iips, samples, seed, progress: as in `assess`.

    Raises:
        UsageError: as in `assess`. ValueError: a temperature is not positive and finite.
    """
    points = []
    for temperature in temperatures:
        target = tempered(agent, temperature)
        found = assess(
            target, user, sessions, propensities, value=value, iips=iips, samples=samples, seed=seed, progress=progress
        )
        truth = true_value(mdp, target, sessions, value, max_steps=max_steps, simulated=simulated, seed=seed)
        points.append(Point(temperature, truth, found))
    return points


def true_value(
    mdp: MDP,
    agent: Agent,
    sessions: Trajectories,
    value: Value,
    *,
    max_steps: int | None,
    simulated: int = 100_000,
    seed: int = 0,
) -> float:
    """The value that `assess` estimates, from the simulator: for a session by playing, for single steps by the exact reward of
    drawn slates in the logged contexts.

    Raises:
        ValueError: `sessions` do not tell their true states, and a step's value is wanted.
    """
    size = sessions.slate_size
    if value == "session":
        policy = AgentPolicy(agent, size, sample=True)
        return evaluate_policy(mdp, policy, simulated, slate_size=size, seed=seed, max_steps=max_steps).reward
    if sessions.states is None:
        raise ValueError("sessions must tell their true states for the value of a step")
    steps = sessions.step_mask()
    if value == "first":
        steps[:, 1:] = False
    states = sessions.states[steps]
    draws = max(1, -(-_DRAWS // len(states)))
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for part, logits in step_logits(agent, sessions, steps):
        for _ in range(draws):
            slates = ops.gumbel_topk(logits, size, generator=generator)[1]
            total += float(slate_reward(mdp, states[part], slates).sum())
    return total / (draws * len(states))


def slate_reward(mdp: MDP, states: Tensor, slates: Tensor) -> Tensor:
    """[A] float64: probability of a click on `slates` [A, K] in `states` [A], sum_j r_j^2 / sum_j r_j."""
    rewards = mdp.rewards[states[:, None], slates]
    total = rewards.sum(1)
    return torch.where(total > 0, (rewards**2).sum(1) / total, 0.0)

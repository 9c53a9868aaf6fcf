"""What a user model expects of slates: the model part of the direct method and of the doubly robust estimators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.evaluation.importance import step_logits
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.rollout import rollout
from irecgan_ext.types import Trajectories

_SESSIONS = 2000  # played to learn what later steps are worth


@dataclass(frozen=True)
class ModelValues:
    """What the user model says of A logged steps.

    Attributes:
        expected: [A] float64, Q of the logged slate. values: [A] float64, V: mean Q of slates that the agent draws there.
    """

    expected: Tensor
    values: Tensor


def model_values(
    user: UserModel,
    agent: Agent,
    sessions: Trajectories,
    steps: Tensor,
    *,
    later: Tensor | None = None,
    draws: int = 32,
    seed: int = 0,
) -> ModelValues:
    """Q(h, a) = E[r | h, a] + P(click | h, a) v_{t+1} under the user model, and V(h), its mean over the agent's slates.

    V is a mean over `draws` slates drawn from the agent, as the C! / (C - K)! slates cannot be summed: unbiased, so that the
    doubly robust estimators stay unbiased.

    Args:
        user, agent: in evaluation mode. sessions: the log.
        steps: [B, T] bool, the A counted steps wanted.
        later: [T + 1] float64, v: what the steps from t on are worth to a session that comes so far; None for 0, the value of
            the step alone.
        draws: slates per step. seed: of the draws.
    """
    size = sessions.slate_size
    step = steps.nonzero()[:, 1]
    ahead = torch.zeros(len(step), dtype=torch.float64) if later is None else later[step + 1]
    generator = torch.Generator().manual_seed(seed)
    values = torch.zeros(len(step), dtype=torch.float64)
    with torch.no_grad():
        states = user.encoder.at_steps(sessions)[steps[sessions.step_mask()]]
        expected = _quality(user, states, sessions.slates[steps], ahead)
        for part, logits in step_logits(agent, sessions, steps):
            for _ in range(draws):
                slates = ops.gumbel_topk(logits, size, generator=generator)[1]
                values[part] += _quality(user, states[part], slates, ahead[part]) / draws
    return ModelValues(expected, values)


def later_values(
    user: UserModel, agent: Agent, start: Tensor, horizon: int, slate_size: int, *, seed: int = 0
) -> Tensor:
    """[horizon + 1] float64: mean reward from step t on of the agent's sessions in the user model that reach step t.

    Sessions start from the symbols `start` [B] in turn and are cut at `horizon`; 0 where none comes so far.
    """
    begin = start[torch.arange(_SESSIONS) % len(start)]
    played = rollout(user, agent, slate_size=slate_size, max_steps=horizon, start=begin, seed=seed)
    sessions = played.trajectories
    mask = sessions.step_mask()
    rewards = torch.where(mask, sessions.rewards, 0.0).double()
    to_come = rewards.flip(1).cumsum(1).flip(1)
    worth = to_come.sum(0) / mask.sum(0).clamp(min=1)
    later = torch.zeros(horizon + 1, dtype=torch.float64)
    later[: len(worth)] = worth
    return later


def _quality(user: UserModel, states: Tensor, slates: Tensor, ahead: Tensor) -> Tensor:
    """[A] float64: Q of `slates` [A, K] in `states` [A, H], with the later steps worth `ahead` [A]."""
    survival, reward = user.expectations_of(states, slates)
    return reward.double() + survival.double() * ahead

"""How much more probable a trained agent makes each logged slate than the policy that logged it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from irecgan_ext import plackett_luce
from irecgan_ext.models import Agent
from irecgan_ext.types import PAD, Propensities, Trajectories

_LOGITS = 2**22  # logits in memory at a time


@dataclass(frozen=True)
class LogRatios:
    """log pi_e - log pi_b of the slates of A steps, natural; `PAD` entries of a slate hold 0.

    Attributes:
        joint: [A] float64, the whole slate in order.
        item_position: [A, K] float64, the item at its place; None where the log does not tell its propensity.
        cascade: [A, K] float64, the first places together; None where the log does not tell its propensity.
    """

    joint: Tensor
    item_position: Tensor | None
    cascade: Tensor | None


def tempered(agent: Agent, temperature: float) -> Agent:
    """A copy of `agent` with the softmax of logits / temperature, in evaluation mode.

    Raises:
        ValueError: the temperature is not positive and finite.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    other = copy.deepcopy(agent).eval().requires_grad_(False)
    for parameter in other.head.parameters():
        parameter.div_(temperature)
    return other


def step_logits(agent: Agent, sessions: Trajectories, steps: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The agent's logits, some steps at a time.

    Args:
        steps: [B, T] bool, A counted steps.

    Yields:
        The place of a part among the A steps, and its logits [part, C].
    """
    with torch.no_grad():
        states = agent.encoder.at_steps(sessions)[steps[sessions.step_mask()]]
        part = max(1, _LOGITS // agent.encoder.items)
        for first in range(0, len(states), part):
            yield slice(first, first + part), agent.logits(states[first : first + part])


def log_ratios(
    agent: Agent,
    sessions: Trajectories,
    propensities: Propensities,
    steps: Tensor,
    *,
    marginals: bool,
    progress: Callable[[int], object] = lambda done: None,
) -> LogRatios:
    """Log importance ratios of logged slates under Eq (4), drawn without replacement.

    Args:
        agent: the target policy, in evaluation mode.
        sessions: the log. propensities: its own, [B, T] and [B, T, K].
        steps: [B, T] bool, the A steps wanted.
        marginals: give `item_position` too: exact, but about a millisecond per step at C = 50, K = 10, and more for larger ones.
        progress: called with the number of steps done since the last call.
    """
    slates = sessions.slates[steps]
    conditional = torch.zeros(slates.shape, dtype=torch.float64)
    told = propensities.pscore_item_position if marginals else None
    place = None if told is None else torch.zeros(slates.shape, dtype=torch.float64)
    for part, logits in step_logits(agent, sessions, steps):
        conditional[part] = plackett_luce.log_conditionals(logits.double(), slates[part])
        if place is not None:
            place[part] = plackett_luce.marginals(logits, slates[part]).log()
        progress(len(logits))
    cascade = propensities.pscore_cascade
    return LogRatios(
        joint=conditional.sum(1) - propensities.pscore[steps].log(),
        item_position=None if place is None or told is None else place - told[steps].log(),
        cascade=None if cascade is None else conditional.cumsum(1) - cascade[steps].log(),
    )


def slot_rewards(sessions: Trajectories, steps: Tensor) -> Tensor:
    """[A, K] float64: each step's reward at the place of the clicked item, 0 at the others and where nothing was clicked."""
    slates, clicks = sessions.slates[steps], sessions.clicks[steps]
    clicked = (slates == clicks[:, None]) & (slates != PAD)
    return clicked * sessions.rewards[steps].double()[:, None]

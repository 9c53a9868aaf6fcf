"""Users fitted to a log by someone who knows the law of a click and the number of hidden states, but not the transitions."""

from __future__ import annotations

import torch

from bench.posterior import LoggedClicks
from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.types import Trajectories

UPDATES = 300
LEARNING_RATE = 0.05
PRECISION = 0.3  # of the normal prior of each logit, of rewards and of transitions
LEAST = 1e-4  # distance of a fitted reward from 0 and 1, so that every session ends


def fit_users(log: Trajectories, states: int, items: int, fits: int, seed: int) -> list[MDP]:
    """Maximum posterior of rewards and transitions by gradient ascent, from as many random starts as `fits` says.

    Args:
        log: sessions of full slates, of a policy that does not see the state.
        states: M. items: C.
        fits: B.
        seed: of the starts.

    Returns:
        B users, whose states are numbered each in its own way but for state 0, where sessions start. A local optimum each;
        which of them is the more probable is not asked.
    """
    clicks = LoggedClicks(log, items)
    generator = torch.Generator().manual_seed(seed)
    return [_fit(clicks, states, items, generator) for _ in range(fits)]


def _fit(clicks: LoggedClicks, states: int, items: int, generator: torch.Generator) -> MDP:
    rewards = (0.5 * torch.randn(states, items, generator=generator)).requires_grad_()
    transitions = (0.5 * torch.randn(states, items, states, generator=generator)).requires_grad_()
    optimiser = torch.optim.Adam([rewards, transitions], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, UPDATES)
    for _ in range(UPDATES):
        optimiser.zero_grad()
        likelihood = clicks.log_probability(torch.sigmoid(rewards), transitions.softmax(2).transpose(0, 1))
        prior = PRECISION / 2 * (rewards.square().sum() + transitions.square().sum())
        ((prior - likelihood) / clicks.sessions).backward()
        optimiser.step()
        schedule.step()
    fitted = torch.sigmoid(rewards.detach().double()).clamp(LEAST, 1 - LEAST)
    return MDP(fitted, transitions.detach().double().softmax(2))

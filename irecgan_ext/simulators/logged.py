"""Simulated logs that know how probable each slate was."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from irecgan_ext.simulators.mdp import MDP, gather, simulate_steps
from irecgan_ext.simulators.policies import Policy
from irecgan_ext.types import Propensities, Trajectories


def simulate_logged(
    mdp: MDP, policy: Policy, sessions: int, *, slate_size: int, seed: int, max_steps: int | None = None
) -> tuple[Trajectories, Propensities | None]:
    """`simulate`, and the exact probability of each slate under `policy`; None where it cannot tell them."""
    steps = list(simulate_steps(mdp, policy, sessions, slate_size=slate_size, seed=seed, max_steps=max_steps))
    columns: dict[str, Tensor] = {}
    for t, step in enumerate(steps):
        # The slates of earlier steps do not matter to a logging policy: it looks at the state alone.
        told = policy.propensities(step.states, step.slates)
        if told is None:
            return gather(steps, sessions, slate_size), None
        for field in fields(told):
            value = getattr(told, field.name)
            shape = (sessions, len(steps), *value.shape[1:])
            columns.setdefault(field.name, torch.ones(shape, dtype=torch.float64))[step.rows, t] = value
    return gather(steps, sessions, slate_size), Propensities(**columns)

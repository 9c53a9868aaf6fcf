"""How probable sessions are in the simulator: the user's hidden state is filtered out exactly."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.simulators.policies import MixPolicy, Policy, RandomPolicy, StatePolicy
from irecgan_ext.types import Trajectories


class SessionLaw(NamedTuple):
    """Log-probabilities of the parts of B sessions, each given all that came before; 0 after a session's end.

    Attributes:
        slates: [B, T] float64. log P(a_t | tau_0:t-1), of the slate as a set; -inf where the policy never shows it.
        clicks: [B, T] float64. log P(c_t | tau_0:t-1, a_t), END included.
        survival: [B, T] float64. P(r_t = 1 | tau_0:t-1, a_t), the expected reward of the slate.
    """

    slates: Tensor
    clicks: Tensor
    survival: Tensor


def session_law(mdp: MDP, sessions: Trajectories, slate_log_probs: Tensor | None = None) -> SessionLaw:
    """The law of sessions with the users of `mdp`, by the forward recursion over the hidden state.

    Args:
        mdp: the users.
        sessions: B sessions, no PAD in the slates of counted steps.
        slate_log_probs: [B, T, M] float64, log of the policy's probability of each slate in each hidden state
            (`slate_log_probs`). None for a policy that does not see the state: its slates say nothing about it, and
            `slates` is 0.

    Raises:
        ValueError: a counted slate holds PAD.
    """
    mask = sessions.step_mask()
    if bool((sessions.slates[mask] < 0).any()):
        raise ValueError("sessions must hold full slates, got PAD in a counted step")
    batch, horizon = sessions.clicks.shape
    slates, clicks, survival = (torch.zeros(batch, horizon, dtype=torch.float64) for _ in range(3))
    belief = torch.zeros(batch, mdp.states, dtype=torch.float64)
    belief[:, 0] = 1
    for t in range(horizon):
        shown = sessions.slates[:, t].clamp(min=0)
        if slate_log_probs is not None:
            joint = belief * slate_log_probs[:, t].exp()
            slates[:, t] = joint.sum(1).log()
            belief = _normalised(joint)
        rewards = mdp.rewards.T[shown]  # [B, K, M]
        clicked = rewards.square() / rewards.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        survival[:, t] = (clicked.sum(1) * belief).sum(1)
        item = sessions.clicks[:, t].clamp(min=0)
        chosen = (clicked * (shown == item[:, None])[..., None]).sum(1) * belief  # [B, M]
        went_on = sessions.clicks[:, t] >= 0
        clicks[:, t] = torch.where(went_on, chosen.sum(1), 1 - survival[:, t]).log()
        moved = torch.einsum("bm,bmn->bn", _normalised(chosen), mdp.transitions.transpose(0, 1)[item])
        belief = torch.where(went_on[:, None], moved, belief)
    return SessionLaw(*(torch.where(mask, part, 0.0) for part in (slates, clicks, survival)))


def slate_log_probs(policy: Policy, mdp: MDP, slates: Tensor) -> Tensor:
    """log of the probability that a logging policy shows these items, in whatever order, in each hidden state.

    Args:
        policy: random, max (or another fixed slate per state) or mix.
        mdp: the users.
        slates: [..., K] int64, distinct items; PAD stands for no item.

    Returns:
        [..., M] float64.

    Raises:
        ValueError: the law of `policy` is not known.
    """
    size = slates.shape[-1]
    shown = torch.zeros(*slates.shape[:-1], mdp.items + 1, dtype=torch.bool)
    shown = shown.scatter(-1, torch.where(slates < 0, mdp.items, slates), True)[..., : mdp.items]
    if isinstance(policy, RandomPolicy):
        each = -math.log(math.comb(mdp.items, size))
        return torch.full((*slates.shape[:-1], mdp.states), each, dtype=torch.float64)
    if isinstance(policy, StatePolicy):
        return _all_in(shown, policy.slates, size).double().log()
    if isinstance(policy, MixPolicy):
        subsets = math.comb(policy.middle.shape[1], size)
        best, middle = _all_in(shown, policy.best, size), _all_in(shown, policy.middle, size)
        return (0.5 * best.double() + 0.5 * middle.double() / subsets).log()
    raise ValueError(f"policy must be random, max or mix for its slates' probabilities, got {type(policy).__name__}")


def _all_in(shown: Tensor, pools: Tensor, size: int) -> Tensor:
    """[..., M] bool: whether all `size` items of `shown` [..., C] bool are in each state's pool, pools [M, n] int64."""
    member = torch.zeros(len(pools), shown.shape[-1], dtype=torch.float64).scatter(1, pools, 1.0)
    return (shown.double() @ member.T).round() == size


def _normalised(weights: Tensor) -> Tensor:
    """Rows that sum to 1; a row of zeros (an impossible history, whose probability is 0 already) stays."""
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=torch.finfo(torch.float64).tiny), weights)

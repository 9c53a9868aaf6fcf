"""What the baselines put in place of Eq (10)'s returns: values, advantages, importance weights.

Pure functions in the manner of `losses`: B sequences, T steps, C items, K slate size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from irecgan_ext import losses


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 0.9, trace: float = 1.0
) -> Tensor:
    """A_t = sum_{t' >= t} (gamma trace)^(t'-t) (reward_t' + gamma V_{t'+1} - V_t'), with V = 0 after the last step.

    trace = 1 is the return minus the value, trace = 0 the one-step error of actor-critic (Schulman et al. 2016, Eq 16).

    Args:
        rewards: [B, T] float, `step_rewards`. values: [B, T] float, a critic's V(s_t).
        mask: [B, T] bool, counted steps, END included: without END steps the values would take away the credit of survival.
        gamma: discount factor. trace: 0..1.

    Returns:
        [B, T] float, 0 outside the mask.
    """
    values = torch.where(mask, values, 0.0)
    errors = rewards + gamma * functional.pad(values[:, 1:], (0, 1)) - values
    return losses.discounted_returns(errors, mask, gamma * trace)


def value_loss(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1/B sum_t (V(s_t) - R_t)^2 / 2, whose minimum is the expected return of each state.

    Args:
        values: [B, T] float. returns: [B, T] float, constants. mask: [B, T] bool, counted steps.

    Returns:
        [] loss.
    """
    errors = torch.where(mask, values, 0.0) - torch.where(mask, returns.detach(), 0.0)
    return errors.square().sum() / (2 * len(mask))


def importance_weights(log_probs: Tensor, logging_log_probs: Tensor, cap: float) -> Tensor:
    """w_t = min(pi(c_t | s_t) / beta(c_t | s_t), cap), a constant for the gradient (Chen et al. 2019, section 4.3).

    Args:
        log_probs, logging_log_probs: [B, T] float, log pi and log beta of the clicked items, beta the logging policy.
        cap: positive. Capped weights trade variance for bias towards the logging policy.

    Returns:
        [B, T] float.
    """
    return (log_probs - logging_log_probs).detach().clamp(max=math.log(cap)).exp()


def shown_log_probs(logits: Tensor, slates: Tensor) -> Tensor:
    """Mean log-probability of a slate's items, each one a draw from a softmax over the catalogue.

    Its maximum over many slates is every item's share of the places shown, whatever the order within a slate: logged lists
    have none to rely on, and by their order `plackett_luce_log_prob` would rank items that are shown equally often.

    Args:
        logits: [..., C] float. slates: [..., K] int64, items; PAD (any negative) entries are ignored.

    Returns:
        [...] float, differentiable in the logits.
    """
    shown = slates >= 0
    chosen = logits.gather(-1, slates.clamp(min=0)) - logits.logsumexp(-1, keepdim=True)
    return torch.where(shown, chosen, 0.0).sum(-1) / shown.sum(-1).clamp(min=1)

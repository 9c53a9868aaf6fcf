"""Losses and returns of IRecGAN, one pure function per equation.

They take log-probabilities, scores and masks. B sequences, T steps, C items, K slate size. Losses are a mean over the B
sequences of a sum over steps, to be minimised. Cells outside a mask are never read.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from irecgan_ext.plackett_luce import log_conditionals


def user_likelihood(
    click_log_probs: Tensor, reward_log_probs: Tensor | None, mask: Tensor, click_mask: Tensor, lambda_p: float = 1.0
) -> Tensor:
    """Eq (3): -1/B sum_t log p(c_t | s_t, a_t) + lambda_p log p(r_t | s_t, c_t).

    Args:
        click_log_probs: [B, T] float, a click on END included.
        reward_log_probs: [B, T] float, or None where rewards follow from clicks.
        mask: [B, T] bool, counted steps. click_mask: [B, T] bool, counted steps with a clicked item (a reward is one's).
        lambda_p: weight of the reward term.

    Returns:
        [] loss.
    """
    ones = torch.ones_like(click_log_probs)
    return user_policy_gradient(click_log_probs, reward_log_probs, ones, mask, click_mask, lambda_p)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Eq (5): -mean log D(real) - mean log(1 - D(fake)), D = sigmoid(logit).

    Args:
        real_logits: [B] float, of logged sessions. fake_logits: [B'] float, of generated ones.

    Returns:
        [] loss; 2 log 2 when D cannot tell.
    """
    return -functional.logsigmoid(real_logits).mean() - functional.logsigmoid(-fake_logits).mean()


def user_policy_gradient(
    click_log_probs: Tensor,
    reward_log_probs: Tensor | None,
    q: Tensor,
    mask: Tensor,
    click_mask: Tensor,
    lambda_p: float = 1.0,
) -> Tensor:
    """Eq (7) as a loss: -1/B sum_t q_t (log p(c_t | s_t, a_t) + lambda_p log p(r_t | s_t, c_t)).

    Args:
        click_log_probs: [B, T] float, a click on END included.
        reward_log_probs: [B, T] float, or None where rewards follow from clicks.
        q: [B, T] float, q_D(tau_0:t), 1 on logged data; a constant for the gradient.
        mask: [B, T] bool, counted steps. click_mask: [B, T] bool, counted steps with a clicked item (a reward is one's).
        lambda_p: weight of the reward term.

    Returns:
        [] loss, whose negative gradient is Eq (7).
    """
    total = _weighted_sum(q, click_log_probs, mask)
    if reward_log_probs is not None:
        total = total + lambda_p * _weighted_sum(q, reward_log_probs, click_mask)
    return -total / len(mask)


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """R_t = sum_{t' >= t} gamma^(t'-t) reward_t' over the counted steps.

    Args:
        rewards: [B, T] float. mask: [B, T] bool, counted steps. gamma: discount factor, 0..1.

    Returns:
        [B, T] float, 0 outside the mask.
    """
    rewards = torch.where(mask, rewards, 0.0)
    returns, after = [], rewards.new_zeros(rewards.shape[0])
    for reward in reversed(rewards.unbind(1)):
        after = reward + gamma * after
        returns.append(after)
    return torch.where(mask, torch.stack(returns[::-1], 1), 0.0) if returns else rewards


def sequence_returns(q: Tensor, mask: Tensor, gamma: float = 0.9) -> Tensor:
    """Returns of Eq (8): sum_{t' >= t} gamma^(t'-t) q_D(tau_0:t').

    Args:
        q: [B, T] float, 1 on logged data. mask: [B, T] bool, counted steps, END included. gamma: discount factor.

    Returns:
        [B, T] float, 0 outside the mask.
    """
    return discounted_returns(q, mask, gamma)


def reward_returns(q: Tensor, rewards: Tensor, mask: Tensor, gamma: float = 0.9) -> Tensor:
    """Returns of Eq (9): R_t = sum_{t' >= t} gamma^(t'-t) q_D(tau_0:t') r_t', each reward with its own step's score.

    Args:
        q, rewards: [B, T] float. mask: [B, T] bool, counted steps, END included. gamma: discount factor.

    Returns:
        [B, T] float, 0 outside the mask.
    """
    return discounted_returns(q * rewards, mask, gamma)


def step_rewards(q: Tensor, rewards: Tensor, lambda_r: float = 3.0, rescale: bool = True) -> Tensor:
    """Reward of a step in Eq (10): q_D(tau_0:t) (1 + lambda_r r_t).

    Args:
        q, rewards: [B, T] float. lambda_r: weight of the target rewards.
        rescale: False leaves the target rewards as they are, q_D(tau_0:t) + lambda_r r_t: Eq (9) without its scores.

    Returns:
        [B, T] float.
    """
    return q * (1 + lambda_r * rewards) if rescale else q + lambda_r * rewards


def agent_returns(
    q: Tensor, rewards: Tensor, mask: Tensor, gamma: float = 0.9, lambda_r: float = 3.0, rescale: bool = True
) -> Tensor:
    """Returns of Eq (10): R^a_t = sum_{t' >= t} gamma^(t'-t) q_D(tau_0:t') (1 + lambda_r r_t').

    Args:
        q, rewards: [B, T] float. mask: [B, T] bool, counted steps, END included. gamma: discount factor.
        lambda_r, rescale: see `step_rewards`.

    Returns:
        [B, T] float, 0 outside the mask.
    """
    return discounted_returns(step_rewards(q, rewards, lambda_r, rescale), mask, gamma)


def agent_policy_gradient(log_probs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Eq (8), (9) or (10) as a loss, after whose `returns` it is: -1/B sum_t R_t log pi(c_t in a_t | s_t).

    Args:
        log_probs: [B, T] float. returns: [B, T] float, a constant for the gradient.
        mask: [B, T] bool, the steps with a log pi: clicked ones, since END is no item of the policy, unless slates are acted.

    Returns:
        [] loss, whose negative gradient is the equation's.
    """
    return -_weighted_sum(returns, log_probs, mask) / len(mask)


def slate_advantages(
    q: Tensor,
    rewards: Tensor,
    survival: Tensor,
    expected_rewards: Tensor,
    mask: Tensor,
    click_mask: Tensor,
    gamma: float = 0.9,
    lambda_r: float = 3.0,
    trace: float = 1.0,
) -> Tensor:
    """Weights of each slate's log-probability in Eq (10) once the whole slate is the action (beyond the paper).

    The return of step t splits into 1 + lambda_r r_t and gamma R_{t+1} if the user stays. What the user model knows of the
    slate replaces what the click happened to be: with survival p_t and expected reward e_t,

        rho_t = 1 + lambda_r e_t + gamma (p_t V + trace [c_t is a click] (R_{t+1} - V)),

    V the mean return of later steps. Given s_t and a_t its mean is that of the sampled return if trace = 1; with trace = 0 all
    continuations count the same, less noise where the click history hardly matters. rho is centred over the batch, the
    first step (whose state is known) apart from later ones; END steps are slates too and count. Then (q_t / mean q), at
    most 5, says how much each generated step is trusted. Centring comes first: times q, an uncentred return would reward
    whatever raises q, however little the slate did.

    Args:
        q: [B, T] float, q_D. rewards: [B, T] float. survival, expected_rewards: [B, T] float, `UserModel.expectations`.
        mask: [B, T] bool, counted steps. click_mask: [B, T] bool, counted steps with a clicked item.
        gamma, lambda_r: as in Eq (10). trace: 0..1.

    Returns:
        [B, T] float, 0 outside the mask.
    """
    after = functional.pad(discounted_returns(1 + lambda_r * rewards, mask, gamma)[:, 1:], (0, 1))
    later = functional.pad(mask[:, 1:], (0, 1))
    mean_return = after[later].mean() if bool(later.any()) else after.new_zeros(())
    gone_on = torch.where(click_mask & later, after - mean_return, 0.0)
    rho = 1 + lambda_r * expected_rewards + gamma * (survival * mean_return + trace * gone_on)
    centred = torch.zeros_like(rho)
    for part in (slice(0, 1), slice(1, None)):
        counted = mask[:, part]
        if bool(counted.any()):
            centred[:, part] = torch.where(counted, rho[:, part] - rho[:, part][counted].mean(), 0.0)
    trust = q / q[mask].mean()
    return torch.where(mask, centred * trust.clamp(max=5.0), 0.0)


def _weighted_sum(weights: Tensor, log_probs: Tensor, mask: Tensor) -> Tensor:
    """Sum of constant `weights` times `log_probs` over the mask. Both are masked first: 0 times NaN would reach the gradient."""
    return (torch.where(mask, weights.detach(), 0.0) * torch.where(mask, log_probs, 0.0)).sum()


def plackett_luce_log_prob(logits: Tensor, slates: Tensor) -> Tensor:
    """Log-probability of an ordered slate drawn without replacement from Eq (4)'s softmax.

    sum_k log (w_{a_k} / (w of all items not among a_1..a_{k-1})), w = exp(logit); see `plackett_luce.log_conditionals`.

    Args:
        logits: [..., C] float. slates: [..., K] int64, distinct items; PAD (any negative) entries are ignored.

    Returns:
        [...] log-probabilities, differentiable in the logits.
    """
    return log_conditionals(logits, slates).sum(-1)


def policy_entropy(logits: Tensor) -> Tensor:
    """Entropy of Eq (4)'s softmax: -sum_i pi_i log pi_i, in nats.

    Args:
        logits: [..., C] float; -inf excludes an item.

    Returns:
        [...], at most log C.
    """
    log_probs = functional.log_softmax(logits, -1)
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)).sum(-1)

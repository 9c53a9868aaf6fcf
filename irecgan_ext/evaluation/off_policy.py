"""Off-policy estimators: the value of a target policy pi_e from sessions that a logging policy pi_b recommended in.

Names and definitions are Open Bandit Pipeline's (`ipw`, `snipw`, `dm`, `dr`; `sips`, `iips`, `rips` for slates), with whole
sessions beyond it. B sessions, T steps, K slots. What is estimated is one of two values:

* of a step, E[r_t | click history as logged, slate from pi_e]: `ipw` to `rips`. Of the first step alone this is what pi_e earns
  there; of all steps it takes the histories as pi_b's sessions made them (a contextual bandit), not as pi_e's would.
* of a session, E[sum_t r_t | every slate from pi_e], up to the log's cap on steps: `trajectory_*` and `per_decision_*`.

Each estimator returns `Terms`, whose ratio of sums is the estimate, so that every one of them is bootstrapped alike.
Weights are pi_e(a | history) / pi_b(a | all that pi_b saw); an estimate is unbiased (`ipw`, `dr`, per-decision and trajectory
ones) or consistent (self-normalised ones) if pi_b may show every slate that pi_e may.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Terms(NamedTuple):
    """What an estimate is made of: sum over D of (sum over B of the numerator / sum over B of the denominator).

    Attributes:
        numerator, denominator: [B, D] float64.
    """

    numerator: Tensor
    denominator: Tensor

    def estimate(self) -> float:
        """The policy value."""
        return float(_ratio(self.numerator.sum(0), self.denominator.sum(0)).sum())

    def interval(self, *, samples: int = 1000, alpha: float = 0.05, seed: int = 0) -> tuple[float, float]:
        """Ends of the percentile bootstrap interval of level 1 - alpha, with sessions drawn anew `samples` times."""
        generator = np.random.default_rng(seed)
        batch = len(self.numerator)
        values = []
        for _ in range(samples):
            counts = torch.from_numpy(np.bincount(generator.integers(0, batch, batch), minlength=batch)).double()
            values.append(float(_ratio(counts @ self.numerator, counts @ self.denominator).sum()))
        lower, upper = np.percentile(values, [100 * alpha / 2, 100 * (1 - alpha / 2)])
        return float(lower), float(upper)


def ipw(weights: Tensor, rewards: Tensor) -> Terms:
    """Inverse probability weighting, 1/B sum_i w_i r_i: `weights`, `rewards` [B] float64. On slates: their joint weight."""
    return _mean(weights * rewards)


def snipw(weights: Tensor, rewards: Tensor) -> Terms:
    """Self-normalised IPW, sum_i w_i r_i / sum_i w_i: `weights`, `rewards` [B] float64."""
    return Terms((weights * rewards)[:, None], weights[:, None])


def dm(values: Tensor) -> Terms:
    """Direct method, 1/B sum_i V(x_i): `values` [B] float64, the model's expected reward of pi_e's slates in each context."""
    return _mean(values)


def dr(weights: Tensor, rewards: Tensor, expected: Tensor, values: Tensor) -> Terms:
    """Doubly robust, 1/B sum_i V(x_i) + w_i (r_i - q(x_i, a_i)).

    Args:
        weights, rewards: [B] float64. expected: [B] float64, the model's reward q of the logged slate.
        values: [B] float64, as in `dm`.
    """
    return _mean(values + weights * (rewards - expected))


def slate_ips(weights: Tensor, rewards: Tensor) -> Terms:
    """1/B sum_i sum_k w_i(k) r_i(k), the reward of each slot weighted on its own; the weights name the estimator.

    * `sips` (standard): the joint weight of the slate at every slot. No assumption; equal to `ipw` of the slate.
    * `iips` (independent): the weight of the item at its place (`pscore_item_position`). Sound if a slot's reward depends on its
      own item and place alone.
    * `rips` (reward interaction): the weight of the first k places (`pscore_cascade`). Sound if a slot's reward depends on no
      place below it (cascade).

    Args:
        weights, rewards: [B, K] float64; the slot rewards of a slate sum to its reward.
    """
    return _mean((weights * rewards).sum(1))


def trajectory_ipw(step_weights: Tensor, rewards: Tensor) -> Terms:
    """1/B sum_b (prod_t w_bt) (sum_t r_bt), of a session's reward.

    Args:
        step_weights: [B, T] float64, 1 after a session's end. rewards: [B, T] float64, 0 after it.
    """
    return _mean(step_weights.prod(1) * rewards.sum(1))


def trajectory_snipw(step_weights: Tensor, rewards: Tensor) -> Terms:
    """`trajectory_ipw` with the weights' sum in place of B."""
    weights = step_weights.prod(1)
    return Terms((weights * rewards.sum(1))[:, None], weights[:, None])


def per_decision_ipw(step_weights: Tensor, rewards: Tensor) -> Terms:
    """1/B sum_b sum_t (prod_{t' <= t} w_bt') r_bt: a reward is weighted by what led to it alone (Precup et al., 2000).

    Args as in `trajectory_ipw`.
    """
    return _mean((step_weights.cumprod(1) * rewards).sum(1))


def per_decision_snipw(step_weights: Tensor, rewards: Tensor) -> Terms:
    """`per_decision_ipw` with, at each step, the weights' sum over all sessions in place of B; ended ones keep their last."""
    weights = step_weights.cumprod(1)
    return Terms(weights * rewards, weights)


def per_decision_dr(step_weights: Tensor, rewards: Tensor, expected: Tensor, values: Tensor, mask: Tensor) -> Terms:
    """Doubly robust over the steps of a session (Jiang and Li, 2016): 1/B sum_b D_b0 with D_bt = 0 after the end and

        D_bt = V(h_bt) + w_bt (r_bt + D_b,t+1 - Q(h_bt, a_bt)).

    Unbiased whatever Q, if V(h) is the mean of Q(h, a) over pi_e's slates.

    Args:
        step_weights, rewards: as in `trajectory_ipw`. expected: [B, T] float64, Q. values: [B, T] float64, V.
        mask: [B, T] bool, counted steps.
    """
    ahead = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        here = values[:, t] + step_weights[:, t] * (rewards[:, t] + ahead - expected[:, t])
        ahead = torch.where(mask[:, t], here, 0.0)
    return _mean(ahead)


def by_session(terms: Terms, sessions: Tensor, batch: int) -> Terms:
    """`terms` of single steps [A, D], summed within their sessions, which are what a bootstrap may draw independently.

    Args:
        sessions: [A] int64, the session of each step. batch: B.
    """
    empty = terms.numerator.new_zeros(batch, terms.numerator.shape[1])
    return Terms(*(empty.index_add(0, sessions, value) for value in terms))


def effective_sample_size(weights: Tensor) -> float:
    """(sum w)^2 / sum w^2 of `weights` [B] (Kish): how many equally weighted sessions they are worth; 0 if all are 0."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _mean(values: Tensor) -> Terms:
    return Terms(values[:, None], torch.ones_like(values)[:, None])


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """[D]; 0 where the log holds no weight."""
    return torch.where(denominator > 0, numerator / denominator, 0.0)

"""What is achievable in a known MDP: exact values, the oracle, the belief policy, fixed slates and click counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.simulators.policies import FixedPolicy, Policy, StatePolicy, check_slate_size
from irecgan_ext.types import PAD, Trajectories

ENDLESS = 1e9  # expected clicks beyond what the linear system resolves: the session never ends
TINY = 1e-300  # far below any weight that matters, large enough that its inverse is finite
CHUNK = 32  # beliefs whose swaps are tried together, so that their values stay in cache


class Oracle(NamedTuple):
    """The optimal slate policy for a user whose state is seen.

    Attributes:
        values: [M] float64. Expected clicks from each state to the session's end, V(s).
        slates: [M, K] int64. The slate of each state.
    """

    values: Tensor
    slates: Tensor


def policy_values(mdp: MDP, slates: Tensor) -> Tensor:
    """Expected clicks from each state to the session's end, of the policy that shows slate a_s in state s.

    Solves V(s) = sum_j r_j r_j (1 + E V(next | j, s)) / sum_j r_j, j over a_s, r_j = r(j|s).

    Args:
        mdp: the users.
        slates: [..., M, K] int64, distinct items in each slate; leading dimensions are independent policies.

    Returns:
        [..., M] float64.

    Raises:
        ValueError: under some policy the sessions of some state never end (expected clicks beyond 1e9).
    """
    states = torch.arange(mdp.states)[:, None]
    rewards = mdp.rewards[states, slates]
    clicked = rewards * _ratio(rewards, rewards.sum(-1, keepdim=True))
    kernel = torch.einsum("...mk,...mkn->...mn", clicked, mdp.transitions[states, slates])
    system = torch.eye(mdp.states, dtype=torch.float64) - kernel
    values, info = torch.linalg.solve_ex(system, clicked.sum(-1)[..., None])
    values = values[..., 0]
    if bool((info != 0).any()) or not bool(((values >= 0) & (values < ENDLESS)).all()):
        raise ValueError("slates must let every session end, got a policy under which some never do")
    return values


def best_slates(weights: Tensor, payoffs: Tensor, slate_size: int) -> tuple[Tensor, Tensor]:
    """The K items that maximise sum_j w_j g_j / sum_j w_j, by Dinkelbach's iteration (exact).

    Args:
        weights: [R, C] float64, not negative. w_j, e.g. r(j|s).
        payoffs: [R, C] float64. g_j, e.g. r(j|s)(1 + E V(next | j, s)).
        slate_size: K.

    Returns:
        slates [R, K] int64 and their ratios [R] float64. A ratio is 0 where all weights of the slate are 0.
    """
    slates = (weights * payoffs).topk(slate_size, dim=1).indices
    ratios = _slate_ratio(weights, payoffs, slates)
    while True:
        proposals = (weights * (payoffs - ratios[:, None])).topk(slate_size, dim=1).indices
        values = _slate_ratio(weights, payoffs, proposals)
        better = values > ratios
        if not bool(better.any()):
            return slates, ratios
        slates = torch.where(better[:, None], proposals, slates)
        ratios = torch.where(better, values, ratios)


def oracle_values(mdp: MDP, slate_size: int) -> Oracle:
    """The optimal slate policy when the user's state is seen, by policy iteration with exact evaluation.

    Args:
        mdp: the users.
        slate_size: K, in 1..C.

    Raises:
        ValueError: some policy keeps a user for ever, so that the optimum is infinite.
    """
    slates = mdp.ranking[:, : check_slate_size(slate_size, mdp.items)]
    while True:
        values = policy_values(mdp, slates)
        proposals, improved = best_slates(mdp.rewards, mdp.rewards * (1 + mdp.transitions @ values), slate_size)
        better = improved > values * (1 + 1e-12)
        if not bool(better.any()):
            return Oracle(values, slates)
        slates = torch.where(better[:, None], proposals, slates)


class OraclePolicy(StatePolicy):
    """The optimal slate for the true state, which it sees; `values` [M] float64 are its expected clicks."""

    def __init__(self, mdp: MDP, slate_size: int) -> None:
        self.values, slates = oracle_values(mdp, slate_size)
        super().__init__(slates)


class BeliefPolicy(Policy):
    """Knows the MDP, but sees only slates and clicks: a Bayes filter over states, then the best slate under the belief.

    QMDP: a slate is worth sum_s b(s) sum_j r_js r_js (1 + E V(next | j, s)) / sum_j r_js, with the oracle's V, as if
    the state were seen from the next step on. The sum of ratios is climbed by Dinkelbach-like steps, which are exact
    for a belief in one state, and then by swaps of single items until none helps.

    Attributes:
        beliefs: [B, M] float64. Current belief of each session.
    """

    def __init__(self, mdp: MDP, slate_size: int) -> None:
        self.mdp = mdp
        self.slate_size = check_slate_size(slate_size, mdp.items)
        self.values, self.oracle_slates = oracle_values(mdp, slate_size)
        self.gains = mdp.rewards.square() * (1 + mdp.transitions @ self.values)
        self.by_item = mdp.transitions.transpose(0, 1).contiguous()

    def begin(self, sessions: int, seed: int) -> None:
        super().begin(sessions, seed)
        self.beliefs = torch.zeros(sessions, self.mdp.states, dtype=torch.float64)
        self.beliefs[:, 0] = 1

    def recommend(self, rows: Tensor, states: Tensor) -> Tensor:
        beliefs, inverse = self.beliefs[rows].unique(dim=0, return_inverse=True)
        return belief_slates(beliefs, self.gains, self.mdp.rewards, self.slate_size)[inverse]

    def observe(self, rows: Tensor, slates: Tensor, clicks: Tensor) -> None:
        shown = self.mdp.rewards.T[slates].sum(1)
        clicked = self.mdp.rewards.T[clicks]
        posterior = self.beliefs[rows] * clicked * _ratio(clicked, shown)
        total = posterior.sum(1, keepdim=True)
        if not bool((total > 0).all()):
            raise ValueError(f"clicks must be possible under the belief, got item {clicks[total[:, 0] <= 0][0]}")
        moved = torch.einsum("am,amn->an", posterior / total, self.by_item[clicks])
        self.beliefs[rows] = moved / moved.sum(1, keepdim=True)


def belief_slates(beliefs: Tensor, gains: Tensor, weights: Tensor, slate_size: int) -> Tensor:
    """Slates that maximise sum_s b_s (sum_j n_js) / (sum_j d_js), a local optimum under swaps of one item.

    Args:
        beliefs: [U, M] float64. b, rows sum to 1.
        gains: [M, C] float64, not negative. n, e.g. r(j|s) r(j|s) (1 + E V(next | j, s)).
        weights: [M, C] float64, not negative. d, e.g. r(j|s).
        slate_size: K.

    Returns:
        [U, K] int64. Exact where the belief is in one state.
    """
    slates = (beliefs @ gains).topk(slate_size, dim=1).indices
    best = torch.full((len(beliefs),), -1.0, dtype=torch.float64)
    proposals = slates
    while True:
        gain, weight = gains.T[proposals].sum(1), weights.T[proposals].sum(1)
        ratio = _ratio(gain, weight)
        value = (beliefs * ratio).sum(1)
        better = value > best
        if not bool(better.any()):
            break
        slates = torch.where(better[:, None], proposals, slates)
        best = torch.where(better, value, best)
        slope = _ratio(beliefs, weight)
        proposals = (slope @ gains - (slope * ratio) @ weights).topk(slate_size, dim=1).indices
    parts = zip(slates.split(CHUNK), beliefs.split(CHUNK), strict=True)
    return torch.cat([_swap(part, belief, gains, weights) for part, belief in parts])


def _swap(slates: Tensor, beliefs: Tensor, gains: Tensor, weights: Tensor) -> Tensor:
    """Swap single items of slates [U, K], the best swap first, until none raises `belief_slates`' value."""
    slates = slates.clone()
    rows = torch.arange(len(slates))
    size, items = slates.shape[1], gains.shape[1]
    others = 1 - torch.eye(size, dtype=torch.float64)
    while len(rows):
        shown, belief = slates[rows], beliefs[rows]
        gain, weight = gains.T[shown], weights.T[shown]  # [U, K, M]
        now = (belief * _ratio(gain.sum(1), weight.sum(1))).sum(1)
        ratio = _ratio((others @ gain)[:, :, None] + gains.T, (others @ weight)[:, :, None] + weights.T)  # [U, K, C, M]
        values = (ratio.flatten(1, 2) @ belief[:, :, None]).view(-1, size, items)
        values.scatter_(2, shown[:, None].expand(-1, size, -1), -1.0)  # an item already shown
        value, swap = values.flatten(1).max(1)
        better = value > now * (1 + 1e-12)
        rows, swap = rows[better], swap[better]
        slates[rows, swap // items] = swap % items
    return slates


def best_fixed_slate(mdp: MDP, slate_size: int, restarts: int = 8, seed: int = 0) -> Tensor:
    """The best slate to show always, whatever happens: a local optimum under swaps of one item, of several starts.

    Args:
        mdp: the users.
        slate_size: K, in 1..C.
        restarts: random slates to climb from, besides the K items with the highest mean r.
        seed: of the random slates.

    Returns:
        [K] int64. Its exact value is `policy_values(mdp, slate.expand(mdp.states, -1))[0]`.
    """
    check_slate_size(slate_size, mdp.items)
    generator = torch.Generator().manual_seed(seed)
    starts = [mdp.rewards.mean(0).topk(slate_size).indices]
    starts += [torch.randperm(mdp.items, generator=generator)[:slate_size] for _ in range(restarts)]
    climbed = [_climb_fixed(mdp, start) for start in starts]
    values = torch.stack([_fixed_values(mdp, slate[None])[0] for slate in climbed])
    return climbed[int(values.argmax())]


def _climb_fixed(mdp: MDP, slate: Tensor) -> Tensor:
    """Take the best swap of one item of slate [K] while one raises its exact value in state 0."""
    size = len(slate)
    value = _fixed_values(mdp, slate[None])[0]
    while True:
        others = torch.ones(mdp.items, dtype=torch.bool).index_fill(0, slate, False).nonzero()[:, 0]
        if len(others) == 0:
            return slate
        swaps = slate.repeat(size, len(others), 1)
        swaps[torch.arange(size), :, torch.arange(size)] = others
        values, index = _fixed_values(mdp, swaps.flatten(0, 1)).max(0)
        if not values > value * (1 + 1e-12):
            return slate
        slate, value = swaps.flatten(0, 1)[index], values


def _fixed_values(mdp: MDP, slates: Tensor) -> Tensor:
    """[R] float64: expected clicks from state 0 when slate [R, K] is shown at every step."""
    return policy_values(mdp, slates[:, None].expand(-1, mdp.states, -1))[:, 0]


def counts_policy(log: Trajectories, items: int, slate_size: int, smoothing: float = 10.0) -> FixedPolicy:
    """The K items with the most clicks per showing in a log, counted apart for the first step and for all later ones.

    An item's rate is (clicks + smoothing * mean) / (showings + smoothing), mean = all clicks / all showings of the
    part; the steps on which the user left count as showings.

    Args:
        log: sessions with their slates.
        items: C.
        slate_size: K, in 1..C.
        smoothing: weight of the mean, in showings; positive.
    """
    check_slate_size(slate_size, items)
    if not smoothing > 0:
        raise ValueError(f"smoothing must be positive, got {smoothing}")
    first = torch.zeros_like(log.step_mask())
    first[:, :1] = True
    slates = []
    for part in (log.step_mask() & first, log.step_mask() & ~first):
        shown, clicks = log.slates[part], log.clicks[part]
        showings = torch.bincount(shown[shown != PAD], minlength=items).double()
        clicked = torch.bincount(clicks[clicks >= 0], minlength=items).double()
        mean = clicked.sum() / showings.sum().clamp(min=1)
        slates.append(((clicked + smoothing * mean) / (showings + smoothing)).topk(slate_size).indices)
    return FixedPolicy(torch.stack(slates))


def _slate_ratio(weights: Tensor, payoffs: Tensor, slates: Tensor) -> Tensor:
    """[R] float64: sum_j w_j g_j / sum_j w_j over slates [R, K]."""
    shown = weights.gather(1, slates)
    return _ratio((shown * payoffs.gather(1, slates)).sum(1), shown.sum(1))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator of terms that are not negative; 0 / 0 is 0 (no item of the slate is ever clicked)."""
    return numerator / denominator.clamp(min=TINY)

"""Reward and coverage of a policy in the simulator (section 7.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irecgan_ext.simulators.mdp import MDP, simulate_steps
from irecgan_ext.simulators.policies import Policy
from irecgan_ext.types import END

DEPTH = 10  # coverage@r is reported for r = 1..DEPTH
NORMAL_95 = 1.959964


@dataclass(frozen=True, eq=False)
class PolicyResult:
    """What `evaluate_policy` measured.

    Attributes:
        reward: mean cumulative reward (clicks) of a session, over all sessions.
        ci95: half width of its 95% confidence interval; infinite for a single session.
        coverage: coverage@r at index r - 1, for r = 1..min(10, C), averaged over all time steps of all sessions.
        sessions: number of sessions.
        steps: number of time steps, the END steps included.
        censored: sessions cut at `max_steps`; their reward is a lower bound.
        returns: [sessions] float64. Each session's cumulative reward. Policies evaluated with the same MDP, seed and
            sessions face the same users, so that differences of `returns` resolve more than two intervals do.
    """

    reward: float
    ci95: float
    coverage: tuple[float, ...]
    sessions: int
    steps: int
    censored: int
    returns: Tensor


def coverage(rewards: Tensor, states: Tensor, slates: Tensor, depth: int = DEPTH) -> Tensor:
    """Share of the true top r items of each step's state that are among the items recommended.

    Items that tie for the last of the r places are interchangeable: any of them fills a place.

    Args:
        rewards: [M, C] float64. r(item | state).
        states: [A] int64. True state of each step.
        slates: [A, K] int64. Distinct items; negative entries (PAD) are no item.
        depth: R, the largest r, in 1..C.

    Returns:
        [A, R] float64: coverage@1..R.
    """
    if not 1 <= depth <= rewards.shape[1]:
        raise ValueError(f"depth must be in 1..C (C = {rewards.shape[1]}), got {depth}")
    top = rewards.topk(depth, dim=1).values  # [M, R]: the reward at the last of r places
    ahead = (top[:, None] > top[:, :, None]).sum(2)  # [M, R]: places above that reward
    shown = torch.where(slates >= 0, rewards[states[:, None], slates.clamp(min=0)], -1.0)
    last = top[states][:, :, None]  # [A, R, 1]
    above = (shown[:, None] > last).sum(2)
    tied = (shown[:, None] == last).sum(2)
    places = torch.arange(1, depth + 1, device=rewards.device)
    return (above + torch.minimum(tied, places - ahead[states])).double() / places


def evaluate_policy(
    mdp: MDP, policy: Policy, sessions: int, *, slate_size: int, seed: int, max_steps: int | None = None
) -> PolicyResult:
    """Run a policy in the simulator; memory does not grow with the sessions' length.

    Args and errors: as in `simulators.simulate`, whose sessions these are.
    """
    run = simulate_steps(mdp, policy, sessions, slate_size=slate_size, seed=seed, max_steps=max_steps)
    depth = min(DEPTH, mdp.items)
    device = mdp.rewards.device
    returns = torch.zeros(sessions, dtype=torch.float64, device=device)
    ended = torch.zeros(sessions, dtype=torch.bool, device=device)
    covered = torch.zeros(depth, dtype=torch.float64, device=device)
    steps = 0
    for step in run:
        returns[step.rows] += step.rewards.double()
        ended[step.rows] = step.clicks == END
        covered += coverage(mdp.rewards, step.states, step.slates, depth).sum(0)
        steps += len(step.rows)
    return PolicyResult(
        reward=float(returns.mean()),
        ci95=NORMAL_95 * float(returns.std()) / sessions**0.5 if sessions > 1 else float("inf"),
        coverage=tuple((covered / steps).tolist()),
        sessions=sessions,
        steps=steps,
        censored=int((~ended).sum()),
        returns=returns,
    )

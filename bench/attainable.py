"""What can a log teach? `python -m bench.attainable`, on the users of the quick preset.

Beside the value of `counts` stands that of the two best fixed slates (one for the first step, one for all later ones) for
users who are known. They are worth more since their items complement each other across the users' hidden states. Could a
learner find that out? The last columns measure the trace that hidden states leave in a log: how much more probable, in
nats, the true law makes the clicks of a log than the best law without hidden states, whose items have one success
probability on the first step and another one later.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from irecgan_ext.simulators.likelihood import session_law
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.optimal import counts_policy, policy_values
from irecgan_ext.simulators.policies import RandomPolicy
from irecgan_ext.types import Trajectories

SLATE = 10
FITTED = 40_000  # sessions that the law without hidden states is fitted to, and as many that it is tried on


def main() -> None:
    """Print one line per seed."""
    parser = argparse.ArgumentParser(prog="python -m bench.attainable", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="users, as in the quick preset")
    parser.add_argument("--log-sessions", type=int, default=5000, help="of the random policy")
    options = parser.parse_args()
    print(
        "| seed | counts | best two fixed slates | nats of hidden states in the log | free numbers of hidden states |"
    )
    print("|---|---|---|---|---|")
    for seed in options.seeds:
        mdp = MDP.random(seed=seed)
        log = _logged(mdp, options.log_sessions, seed)
        first, later = counts_policy(log, mdp.items, SLATE).slates
        value = slates_value(mdp, first, later)
        first, later = improve(mdp, first, later)
        nats = hidden_state_nats(mdp, seed) * options.log_sessions / FITTED
        hidden = (mdp.states - 1) * mdp.items
        print(f"| {seed} | {value:.3f} | {slates_value(mdp, first, later):.3f} | {nats:.1f} | {hidden} |", flush=True)


def slates_value(mdp: MDP, first: Tensor, later: Tensor) -> float:
    """Expected clicks of a session that is shown `first` [K] int64 in its first step and `later` [K] ever after."""
    values = policy_values(mdp, later.expand(mdp.states, -1))
    rewards = mdp.rewards[0, first]
    return float((rewards.square() * (1 + mdp.transitions[0, first] @ values)).sum() / rewards.sum())


def improve(mdp: MDP, first: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
    """Swap single items while that raises `slates_value`: a local optimum."""
    best, better = slates_value(mdp, first, later), True
    while better:
        better = False
        for place in range(2 * SLATE):
            for item in range(mdp.items):
                pair = [first.clone(), later.clone()]
                slate = pair[place // SLATE]
                if bool((slate == item).any()):
                    continue
                slate[place % SLATE] = item
                value = slates_value(mdp, *pair)
                if value > best + 1e-9:
                    (first, later), best, better = pair, value, True
    return first, later


def hidden_state_nats(mdp: MDP, seed: int) -> float:
    """Log-likelihood of the clicks of FITTED sessions under the true law, less that of the best law without hidden states."""
    fitted, tried = (_logged(mdp, FITTED, seed + offset) for offset in (10_000, 20_000))
    truth = float(session_law(mdp, tried).clicks.sum())
    plain = 0.0
    for step in (slice(0, 1), slice(1, None)):
        parameters = fit(*steps(fitted, step), mdp.items)
        plain += float(log_likelihood(parameters, *steps(tried, step)).sum())
    return truth - plain


def steps(log: Trajectories, step: slice) -> tuple[Tensor, Tensor]:
    """Slates [S, K] int64 of the counted steps and the clicked place [S] int64 of each, K for END."""
    mask = log.step_mask()[:, step]
    slates, clicks = log.slates[:, step][mask], log.clicks[:, step][mask]
    hit = slates == clicks[:, None]
    return slates, torch.where(hit.any(1), hit.int().argmax(1), SLATE)


def log_likelihood(parameters: Tensor, slates: Tensor, places: Tensor) -> Tensor:
    """[S]: log P(click) where item i is the candidate in proportion to r_i = sigmoid(parameters_i), and taken with r_i."""
    rewards = torch.sigmoid(parameters)[slates]
    outcomes = torch.cat([rewards.square(), (rewards * (1 - rewards)).sum(1, keepdim=True)], 1)
    return (outcomes.gather(1, places[:, None])[:, 0] / rewards.sum(1)).log()


def fit(slates: Tensor, places: Tensor, items: int) -> Tensor:
    """[C] parameters of maximum likelihood."""
    parameters = torch.zeros(items, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -log_likelihood(parameters, slates, places).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return parameters.detach()


def _logged(mdp: MDP, sessions: int, seed: int) -> Trajectories:
    return simulate(mdp, RandomPolicy(mdp.items, SLATE), sessions, slate_size=SLATE, seed=seed)


if __name__ == "__main__":
    main()

"""What can a log teach? `python -m bench.attainable`, on the users of the quick preset.

Beside the value of `counts` stands that of the two best fixed slates (one for the first step, one for all later ones) for
users who are known. They are worth more since their items complement each other across the users' hidden states. Could a
learner find that out?

* *Bayesian*: the two slates that are best on average over samples of r given the log (`bench.posterior`), chosen by someone who
  knows all else: that there are M hidden states, the law of a click, the prior of r and the very transitions. Up to the error
  of the samples and of a search that swaps single items, no learner's two slates earn more, on average over users of that
  prior.
* the last columns measure the trace that hidden states leave in a log: how much more probable, in nats, the true law makes
  the clicks of a log than the best law without hidden states, whose items have one success probability on the first step
  and another one later.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.posterior import sample_rewards
from irecgan_ext.simulators.likelihood import session_law
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.optimal import BeliefPolicy, counts_policy
from irecgan_ext.simulators.policies import Policy, RandomPolicy
from irecgan_ext.types import Trajectories

SLATE = 10
FITTED = 40_000  # sessions that the law without hidden states is fitted to, and as many that it is tried on
PLAYED = 20_000  # sessions that measure the random policy and `belief`

Slates = tuple[Tensor, Tensor]  # [K] int64 of the first step and of all later ones


def main(args: Sequence[str] | None = None) -> None:
    """Print one line per seed, and the means."""
    parser = argparse.ArgumentParser(prog="python -m bench.attainable", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="users, as in the quick preset")
    parser.add_argument("--log-sessions", type=int, default=5000, help="of the random policy")
    parser.add_argument("--samples", type=int, default=60, help="of r given the log")
    options = parser.parse_args(args)
    names = ["counts", "Bayesian", "best two slates"]
    trace = ["nats of hidden states in the log", "free numbers of hidden states"]
    columns = ["seed", "random", *(f"{name} (of the way)" for name in names), "belief", *trace]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    shares = []
    for seed in options.seeds:
        mdp = MDP.random(seed=seed)
        log = _logged(mdp, options.log_sessions, seed)
        low, high = _played(mdp, RandomPolicy(mdp.items, SLATE)), _played(mdp, BeliefPolicy(mdp, SLATE))
        truth = mdp.rewards[None]
        first, later = counts_policy(log, mdp.items, SLATE).slates
        samples = sample_rewards(log, mdp.transitions, options.samples, seed)
        candidates = [(first, later)] + [climb(r, mdp.transitions, (first, later)) for r in (samples, truth)]
        values = [mean_value(truth, mdp.transitions, *slates) for slates in candidates]
        shares.append([(value - low) / (high - low) for value in values])
        cells = [f"{value:.3f} ({share:.0%})" for value, share in zip(values, shares[-1])]
        nats = hidden_state_nats(mdp, seed) * options.log_sessions / FITTED
        hidden = (mdp.states - 1) * mdp.items
        print(f"| {seed} | {low:.3f} | {' | '.join(cells)} | {high:.3f} | {nats:.1f} | {hidden} |", flush=True)
    means = torch.tensor(shares).mean(0).tolist()
    print("mean of the way: " + ", ".join(f"{name} {mean:.1%}" for name, mean in zip(names, means)))


def mean_value(rewards: Tensor, transitions: Tensor, first: Tensor, later: Tensor) -> float:
    """Expected clicks of a session that is shown `first` [K] int64 in its first step and `later` [K] ever after.

    The mean over users of rewards [B, M, C] who share `transitions` [M, C, M].
    """
    values = _later_values(rewards, transitions, later)
    weight = rewards[:, 0, first]
    return float((weight.square() * (1 + values @ transitions[0, first].T)).sum(1).div(weight.sum(1)).mean())


def _later_values(rewards: Tensor, transitions: Tensor, slate: Tensor) -> Tensor:
    """[B, M]: expected clicks from each state on, if `slate` [K] is shown in all of them."""
    shown = rewards[:, :, slate]
    clicked = shown.square() / shown.sum(2, keepdim=True)
    kernel = torch.einsum("bmk,mkn->bmn", clicked, transitions[:, slate])
    return torch.linalg.solve(torch.eye(len(transitions), dtype=torch.float64) - kernel, clicked.sum(2))


def climb(rewards: Tensor, transitions: Tensor, slates: Slates) -> Slates:
    """Swap single items while that raises `mean_value`: a local optimum."""
    best, better = mean_value(rewards, transitions, *slates), True
    while better:
        better = False
        for place in range(2 * SLATE):
            for item in range(transitions.shape[1]):
                pair = (slates[0].clone(), slates[1].clone())
                slate = pair[place // SLATE]
                if bool((slate == item).any()):
                    continue
                slate[place % SLATE] = item
                value = mean_value(rewards, transitions, *pair)
                if value > best + 1e-9:
                    slates, best, better = pair, value, True
    return slates


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


def _played(mdp: MDP, policy: Policy) -> float:
    """Clicks per session."""
    return float((simulate(mdp, policy, PLAYED, slate_size=SLATE, seed=0).clicks >= 0).sum()) / PLAYED


def _logged(mdp: MDP, sessions: int, seed: int) -> Trajectories:
    return simulate(mdp, RandomPolicy(mdp.items, SLATE), sessions, slate_size=SLATE, seed=seed)


if __name__ == "__main__":
    main()

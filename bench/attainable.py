"""What can a log teach? `python -m bench.attainable`, on the users of the quick preset.

Each column says how far on the way from `random` to `belief` someone comes who has the log of the random policy, and knows
besides:

* *counts*: nothing.
* *Bayesian, two slates*: that there are M hidden states, the law of a click, the prior of r and the very transitions; draws r
  given the log (`bench.posterior`) and takes the two slates, one for the first step and one for all later ones, that are best
  on average over the draws. Up to the error of the draws and of a search that swaps single items, no learner's two slates earn
  more, on average over users of that prior.
* *Bayesian*: the same with a look at the session: plans as `belief` does, with a belief over (draw of r, hidden state).
* *hidden Markov*: the number of states and the law of a click, but not the transitions; fits users to the log from several
  random starts (`bench.hidden_markov`) and plans as the Bayesian does with what was fitted.
* *best two slates*: the users themselves.

The last columns measure the trace that hidden states leave in a log: how much more probable, in nats, the true law makes
the clicks of a log than the best law without hidden states, whose items have one success probability on the first step
and another one later; and how many success probabilities of other states than the first there are to be learnt from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.hidden_markov import fit_users
from bench.posterior import sample_rewards
from bench.uncertain_users import UncertainBeliefPolicy
from irecgan_ext.experiments.statistics import estimate
from irecgan_ext.simulators.likelihood import session_law
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.optimal import BeliefPolicy, counts_policy
from irecgan_ext.simulators.policies import FixedPolicy, Policy, RandomPolicy
from irecgan_ext.types import Trajectories

SLATE = 10
FITTED = 40_000  # sessions that the law without hidden states is fitted to, and as many that it is tried on
PLAYED = 20_000  # sessions that measure the random policy and `belief`
PAIRED = 4_000  # sessions, of the same users, that measure the others with a look at history beside `counts`
FITS = 5  # hidden Markov users
LEARNERS = ("counts", "Bayesian, two slates", "Bayesian", "hidden Markov", "best two slates")

Slates = tuple[Tensor, Tensor]  # [K] int64 of the first step and of all later ones


def main(args: Sequence[str] | None = None) -> None:
    """Print one line per seed, and the means."""
    parser = argparse.ArgumentParser(prog="python -m bench.attainable", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="users, as in the quick preset")
    parser.add_argument("--log-sessions", type=int, default=5000, help="of the random policy")
    parser.add_argument("--transition-temperature", type=float, default=1.0, help="of the users; smaller: peaked")
    parser.add_argument("--samples", type=int, default=60, help="of r given the log")
    options = parser.parse_args(args)
    trace = ["nats of hidden states in the log", "free numbers of hidden states"]
    columns = ["seed", "random", *(f"{name} (of the way)" for name in LEARNERS), "belief", *trace]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    shares = []
    for seed in options.seeds:
        mdp = MDP.random(seed=seed, transition_temperature=options.transition_temperature)
        log = _logged(mdp, options.log_sessions, seed)
        low = _played(mdp, RandomPolicy(mdp.items, SLATE), PLAYED, seed)
        high = _played(mdp, BeliefPolicy(mdp, SLATE), PLAYED, seed)
        values = learnt(mdp, log, options.samples, seed)
        shares.append([(values[name] - low) / (high - low) for name in LEARNERS])
        cells = [f"{values[name]:.3f} ({share:.0%})" for name, share in zip(LEARNERS, shares[-1])]
        nats = hidden_state_nats(mdp, seed) * options.log_sessions / FITTED
        hidden = (mdp.states - 1) * mdp.items
        print(f"| {seed} | {low:.3f} | {' | '.join(cells)} | {high:.3f} | {nats:.1f} | {hidden} |", flush=True)
    ways = list(zip(*shares))
    print("mean of the way, %: " + _summary(ways, LEARNERS))
    gains = [[way - other for way, other in zip(mine, ways[0])] for mine in ways[1:]]
    print("more than counts, %: " + _summary(gains, LEARNERS[1:]))


def learnt(mdp: MDP, log: Trajectories, samples: int, seed: int) -> dict[str, float]:
    """Clicks per session of each of LEARNERS. What the slates earn is exact; the others are played beside `counts`."""
    drawn = sample_rewards(log, mdp.transitions, samples, seed)
    counts = counts_policy(log, mdp.items, SLATE).slates
    truth = mdp.rewards[None]
    slates = {"counts": (counts[0], counts[1])}
    for name, rewards in (("Bayesian, two slates", drawn), ("best two slates", truth)):
        slates[name] = climb(rewards, mdp.transitions, slates["counts"])
    values = {name: mean_value(truth, mdp.transitions, *pair) for name, pair in slates.items()}
    users = {
        "Bayesian": [MDP(rewards, mdp.transitions) for rewards in drawn],
        "hidden Markov": fit_users(log, mdp.states, mdp.items, FITS, seed),
    }
    luck = _played(mdp, FixedPolicy(counts), PAIRED, seed) - values["counts"]
    for name, candidates in users.items():
        values[name] = _played(mdp, UncertainBeliefPolicy(candidates, SLATE), PAIRED, seed) - luck
    return values


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


def _played(mdp: MDP, policy: Policy, sessions: int, seed: int) -> float:
    """Clicks per session; policies that play as many, with one seed, face the same users."""
    played = simulate(mdp, policy, sessions, slate_size=SLATE, seed=30_000 + seed)
    return float((played.clicks >= 0).sum()) / sessions


def _summary(values: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    """Means over seeds with 95% intervals."""
    per_cent = [estimate([100 * value for value in mine]).text(1) for mine in values]
    return ", ".join(f"{name} {text}" for name, text in zip(names, per_cent))


def _logged(mdp: MDP, sessions: int, seed: int) -> Trajectories:
    return simulate(mdp, RandomPolicy(mdp.items, SLATE), sessions, slate_size=SLATE, seed=seed)


if __name__ == "__main__":
    main()

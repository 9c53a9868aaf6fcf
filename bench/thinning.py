"""Would thinning pay? `python -m bench.thinning DIR...`, on the trained agents of finished runs.

A sampler that is sublinear in the catalogue bounds each block's weight W_b = sum exp(l_i) from above without reading its
items, lets blocks arrive at the bounds' rates, opens a block only when it arrives before the k-th draw, and accepts the
arrival with W_b / bound (exact whatever the bounds). It pays if few blocks are opened. Here the bound of a block with
centroid c and radius r (over weights and biases together) is n exp(h . c + |h| r), h the state with a 1 appended; blocks of
64 are cut by principal directions, so that near items share a block. The expected share of blocks opened, over the states
of the run's own sessions, says what the draws would cost beside the projection of the whole catalogue.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from irecgan_ext.models import Agent
from irecgan_ext.packed import Sessions
from irecgan_ext.training.trained import load_trained

BLOCK = 64
DRAWS = 10
STATES = 512


def main() -> None:
    """Print one line per run."""
    parser = argparse.ArgumentParser(prog="python -m bench.thinning", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="finished runs of irecgan_ext.train")
    options = parser.parse_args()
    print("| run | items | H | log10 (bounds / weights) | blocks opened | cost beside the full projection |")
    print("|---|---|---|---|---|---|")
    for directory in options.runs:
        trained = load_trained(directory)
        states = session_states(trained.agent, trained.source.log)
        excess, opened = thinning(states, trained.agent.head.weight, trained.agent.head.bias)
        cost = opened + 1 / BLOCK  # opened blocks are projected, and of every block its centroid
        cells = (f"{quartiles(x)}" for x in (excess, opened, cost))
        print(f"| {directory} | {trained.items} | {states.shape[1]} | " + " | ".join(cells) + " |")


@torch.no_grad()
def session_states(agent: Agent, log: Sessions) -> Tensor:
    """[S, H] states of the agent at steps of the run's first sessions, at most STATES of them."""
    sessions = log.select(torch.arange(min(len(log), STATES)))
    return agent.encoder(sessions.inputs())[sessions.step_mask()][:STATES]


@torch.no_grad()
def thinning(states: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Log10 of the bounds' sum over the weights' sum [S], and the expected share of blocks opened for DRAWS draws [S]."""
    items = torch.cat([weight, bias[:, None]], 1).double()
    h = torch.cat([states, states.new_ones(len(states), 1)], 1).double()
    blocks = cut(items)
    log_bounds, log_weights = [], []
    for block in blocks:
        members = items[block]
        centroid = members.mean(0)
        radius = (members - centroid).norm(dim=1).max()
        log_bounds.append(h @ centroid + h.norm(dim=1) * radius + torch.tensor(len(block)).log())
        log_weights.append((h @ members.T).logsumexp(1))
    bounds, weights = torch.stack(log_bounds, 1), torch.stack(log_weights, 1)
    total = weights.logsumexp(1)
    # The k-th draw comes at about k over the sum of the weights; a block arrives before t with 1 - exp(-bound t).
    arrivals = (bounds - total[:, None]).exp() * DRAWS
    return (bounds.logsumexp(1) - total) / torch.tensor(10.0).log(), (-torch.expm1(-arrivals)).mean(1)


def cut(items: Tensor) -> list[Tensor]:
    """Index sets of at most BLOCK near items: halved along the direction of most variance until they are small."""
    pending, done = [torch.arange(len(items))], []
    while pending:
        part = pending.pop()
        if len(part) <= BLOCK:
            done.append(part)
            continue
        centred = items[part] - items[part].mean(0)
        direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
        order = part[(centred @ direction).argsort()]
        half = -(-len(part) // (2 * BLOCK)) * BLOCK if len(part) > 2 * BLOCK else BLOCK
        pending += [order[:half], order[half:]]
    return done


def quartiles(values: Tensor) -> str:
    """Median and quartiles."""
    low, middle, high = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype)).tolist()
    return f"{middle:.3g} ({low:.3g}-{high:.3g})"


if __name__ == "__main__":
    main()

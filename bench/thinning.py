"""Does a prepared catalogue pay on trained agents? `python -m bench.thinning DIR...`, on the states of the runs' own sessions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench import catalogue_sample, harness
from irecgan_ext.models import Agent
from irecgan_ext.packed import Sessions
from irecgan_ext.training.trained import load_trained

SESSIONS = 512


def main(args: Sequence[str] | None = None) -> None:
    """Print the table of `python -m bench catalogue_sample` for the agents of finished runs; write it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.thinning", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="finished runs of irecgan_ext.train")
    parser.add_argument("--agent", help="which agent of the runs: irecgan, pg, ... (default: that of the run's method)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument("--quick", action="store_true", help="that it works, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results, machine, versions and commit there")
    options = parser.parse_args(args)
    environment = harness.environment()
    rows = []
    for directory in options.runs:
        trained = load_trained(directory, options.agent)
        head = trained.agent.head.requires_grad_(False)
        states = session_states(trained.agent, trained.source.log)
        name = f"{directory.name}, {trained.name}"
        rows += catalogue_sample.measure(name, states, head.weight, head.bias, [options.threads], options.quick)
    print(harness.table(rows))
    if options.json is not None:
        harness.write_json(options.json, {**environment, "results": {"thinning": rows}})


@torch.no_grad()
def session_states(agent: Agent, log: Sessions) -> Tensor:
    """[S, H] states of the agent at random steps of the run's first sessions, at most SESSIONS of them."""
    sessions = log.select(torch.arange(min(len(log), SESSIONS)))
    states = agent.encoder.at_steps(sessions)
    return states[torch.randperm(len(states), generator=torch.Generator().manual_seed(0))[:SESSIONS]]


if __name__ == "__main__":
    main()

"""Evaluate a finished run: `python -m irecgan_ext.evaluate DIR`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from irecgan_ext.cli import run_command
from irecgan_ext.errors import UsageError
from irecgan_ext.evaluation.online import table
from irecgan_ext.training.methods import TITLES
from irecgan_ext.training.outcome import Outcome, evaluate_outcome
from irecgan_ext.training.source import reopen_source
from irecgan_ext.training.summary import read_config


@dataclass(frozen=True)
class EvaluateOptions:
    """Run what was trained in the simulator again, beside the marks that show what is achievable."""

    directory: tyro.conf.Positional[Path]
    """Directory of a finished run of irecgan_ext.train."""
    sessions: int | None = None
    """Sessions per policy. None: as in training."""
    seed: int | None = None
    """Seed of the simulated users. None: as in training, which repeats its table."""
    json: bool = False
    """Print the results as JSON instead of a table."""


def main(options: EvaluateOptions) -> None:
    """Load the final checkpoint, run the online test, print it.

    Raises:
        UserError: the directory holds no finished run, or its files are damaged.
    """
    config = read_config(options.directory)
    if options.sessions is not None and options.sessions < 2:
        raise UsageError(f"--sessions must be at least 2, got {options.sessions}")
    if options.seed is not None and options.seed < 0:
        raise UsageError(f"--seed must not be negative, got {options.seed}")
    changes = {name: getattr(options, name) for name in ("sessions", "seed") if getattr(options, name) is not None}
    config = replace(config, evaluation=replace(config.evaluation, **changes))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    source = reopen_source(options.directory)
    outcome = Outcome.load(options.directory, config, source.items, source.reward_mode())
    results = evaluate_outcome(outcome, source, config)
    print(json.dumps(results, indent=2, allow_nan=False) if options.json else table(results, TITLES))


if __name__ == "__main__":
    sys.exit(run_command(main, EvaluateOptions, prog="python -m irecgan_ext.evaluate"))

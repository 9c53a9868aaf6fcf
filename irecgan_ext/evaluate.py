"""Evaluate a finished run: `python -m irecgan_ext.evaluate DIR`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from irecgan_ext.cli import run_command
from irecgan_ext.data.packed_log import is_prepared
from irecgan_ext.errors import UsageError
from irecgan_ext.evaluation.online import table
from irecgan_ext.evaluation.rerank import rerank_table
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.training.job import choose_device
from irecgan_ext.training.methods import TITLES
from irecgan_ext.training.outcome import Outcome, evaluate_outcome, rerank_outcome
from irecgan_ext.training.source import Source, open_source, reopen_source
from irecgan_ext.training.summary import read_config


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate what was trained again: in the simulator, beside the marks that show what is achievable; on a prepared log by
    reranking the lists of its test sessions."""

    directory: tyro.conf.Positional[Path]
    """Directory of a finished run of irecgan_ext.train."""
    sessions: int | None = None
    """Sessions per policy. None: as in training."""
    seed: int | None = None
    """Seed of the simulated users. None: as in training, which repeats its table."""
    data: Path | None = None
    """Another prepared log with the same catalogue, whose test sessions are reranked. None: the one of the training."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where the models run. None: as in training."""
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
    device = choose_device(options.device or config.device)
    source = reopen_source(options.directory)
    data = source if options.data is None else _other_data(options.data, source, config)
    outcome = Outcome.load(options.directory, config, source.items, source.reward_mode(), device)
    if data.prepared is not None:
        found = rerank_outcome(outcome, data.prepared)
        print(json.dumps(found, indent=2, allow_nan=False) if options.json else rerank_table(found, TITLES))
        return
    results = evaluate_outcome(outcome, source, config)
    print(json.dumps(results, indent=2, allow_nan=False) if options.json else table(results, TITLES))


def _other_data(path: Path, source: Source, config: TrainConfig) -> Source:
    """The prepared log in `path`, in place of the one that the run of `source` was trained on.

    Raises:
        UserError: it is none, or its items are not those that the run was trained on.
    """
    if source.prepared is None:
        raise UsageError("--data: the run was not trained on a prepared log")
    if not is_prepared(path):
        raise UsageError(f"--data: {path} is not a directory that irecgan_ext.prepare wrote")
    other = open_source(replace(config, data=str(path)))
    assert other.prepared is not None
    other.prepared.check_catalogue(source.prepared.catalogue, f"{path}: the checkpoint")
    return other


if __name__ == "__main__":
    sys.exit(run_command(main, EvaluateOptions, prog="python -m irecgan_ext.evaluate"))

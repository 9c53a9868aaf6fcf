"""One configuration, trained and evaluated: what the command and the experiments have in common."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from irecgan_ext import ops
from irecgan_ext.errors import Interrupted, UsageError, checking_arguments
from irecgan_ext.evaluation.online import Results
from irecgan_ext.training.checkpoint import check_writable
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.training.methods import METHODS
from irecgan_ext.training.methods.online import turns
from irecgan_ext.training.outcome import Outcome, evaluate_outcome, rerank_outcome
from irecgan_ext.training.run import Models, Run
from irecgan_ext.training.source import Source, open_source, reopen_source
from irecgan_ext.training.summary import SUMMARY_FILE, write_config, write_json

CHECKPOINTS_KEPT = 4  # two in rotation, one being written, the final one
COPIES_OF_THE_WEIGHTS = 7  # in a checkpoint: models, averages, snapshots, two moments per optimiser, a critic


def train_and_evaluate(
    config: TrainConfig, *, resume: bool = False, after_training: Callable[[Path], None] | None = None
) -> dict[str, Any]:
    """Train `config.method`, evaluate it and leave config, log, metrics, checkpoints and summary in `config.out`.

    Args:
        config: what to do.
        resume: go on with the run in `config.out`, whose configuration this is.
        after_training: called with `config.out` before the evaluation.

    Returns:
        What `summary.json` holds: seed, preset, device, version, commit, seconds by phase, and results by method; for prepared
        logs also `rerank` (see `evaluation.rerank`); for online methods also `online`, a list of what each turn measured
        (`methods.online.measure`).

    Raises:
        UserError: an option, a log, a checkpoint or the disk; or a loss is not finite; or the user interrupted.
    """
    started = time.monotonic()
    config.check()
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    source = _prepare(config, resume)
    with checking_arguments():
        train, valid = source.parts(config.validation_share, torch.Generator().manual_seed(config.seed))
    reward = source.reward_mode()
    run = Run(config, config.out, train, valid, source.items, reward, device, resume, source.mdp)
    try:
        with contextlib.closing(run):
            METHODS[config.method].train(run)
            run.save("final")
        if after_training is not None:
            after_training(config.out)
        results = _evaluate(run, source, config)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; go on with --resume {config.out}") from None
    total = sum(run.seconds.values()) + time.monotonic() - started - run.seconds_here
    summary = {
        "seed": config.seed,
        "preset": config.preset,
        "device": device.type,
        "version": ops.build_info()["version"],
        "commit": ops.build_info()["commit"],
        "seconds": {**run.seconds, "total": total},
        "results": results,
    }
    if source.prepared is not None:
        summary["rerank"] = rerank_outcome(Outcome.of(run), source.prepared)
    if METHODS[config.method].online:
        summary["online"] = turns(config.out)
    write_json(config.out / SUMMARY_FILE, summary)
    return summary


def _evaluate(run: Run, source: Source, config: TrainConfig) -> Results:
    say(config, "evaluating")
    if source.mdp is None and source.prepared is None:
        say(config, "the log does not name its simulated users: pass --mdp for the online test")
    started = time.monotonic()
    results = evaluate_outcome(Outcome.of(run), source, config)
    run.spend("evaluate", time.monotonic() - started)
    return results


def choose_device(name: str) -> torch.device:
    """The device to train on. Where it is CUDA, recurrent layers compute in float32 from here on, as all else does.

    Raises:
        UsageError: CUDA is asked for and this build or machine has none.
    """
    if name == "cuda":
        if ops.build_info()["cuda"] == "none":
            raise UsageError("--device cuda: this build has no CUDA kernels; use --device cpu")
        if not torch.cuda.is_available():
            raise UsageError("--device cuda: torch finds no CUDA device; use --device cpu")
    has_cuda = ops.build_info()["cuda"] != "none" and torch.cuda.is_available()
    if name == "cpu" or not has_cuda:
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = (
        False  # 10 bits of mantissa: not the numbers of the CPU, nor of the rollout's kernels
    )
    return torch.device("cuda")


def _prepare(config: TrainConfig, resume: bool) -> Source:
    """The log; written to the run's directory with the configuration, so that the run stands on its own."""
    if resume:
        return reopen_source(config.out)
    with checking_arguments():
        source = open_source(config)
        if METHODS[config.method].online and source.mdp is None:
            raise UsageError(f"--method {config.method} needs simulated users: pass --mdp, or a log that names them")
        models = Models(source.items, config.model, source.reward_mode())
    parameters = sum(p.numel() for p in models.parameters())
    check_writable(config.out, 4 * parameters * COPIES_OF_THE_WEIGHTS * CHECKPOINTS_KEPT)
    source.save(config.out)
    write_config(config.out, config)  # last: a directory with a configuration can be resumed
    return source


def say(config: TrainConfig, text: str) -> None:
    """A line on standard error, unless the run is quiet."""
    if not config.quiet:
        print(text, file=sys.stderr, flush=True)

"""Train IRecGAN: `python -m irecgan_ext.train`."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from irecgan_ext import ops
from irecgan_ext.cli import checking_arguments, flag_value, run_command
from irecgan_ext.errors import Interrupted, UsageError
from irecgan_ext.evaluation.online import Results, table
from irecgan_ext.plots import plot_training
from irecgan_ext.training.adversarial import train_irecgan
from irecgan_ext.training.batches import split
from irecgan_ext.training.checkpoint import check_writable, latest_checkpoint
from irecgan_ext.training.config import PRESETS, TrainConfig, preset
from irecgan_ext.training.outcome import Outcome, evaluate_outcome
from irecgan_ext.training.run import Models, Run
from irecgan_ext.training.source import Source, open_source, reopen_source
from irecgan_ext.training.summary import SUMMARY_FILE, read_config, write_config, write_json

PLOT_FILE = "training.png"
CHECKPOINTS_KEPT = 4  # two in rotation, one being written, the final one


def main(options: TrainConfig) -> None:
    """Train, evaluate, and leave config, metrics, checkpoints, plot and summary in the run's directory.

    Raises:
        UserError: an option, a log, a checkpoint or the disk; or a loss is not finite; or the user interrupted.
    """
    started = time.monotonic()
    config = _resolve(options)
    config.check()
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    source = _prepare(config, resume=options.resume is not None)
    with checking_arguments():
        train, valid = split(source.log, config.validation_share, torch.Generator().manual_seed(config.seed))
    run = Run(config, config.out, train, valid, source.items, source.reward_mode(), device, options.resume is not None)
    try:
        with contextlib.closing(run):
            train_irecgan(run)
            run.save("final")
        results = _evaluate(run, source, config)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; go on with --resume {config.out}") from None
    summary = {
        "seed": config.seed,
        "preset": config.preset,
        "device": device.type,
        "version": ops.build_info()["version"],
        "commit": ops.build_info()["commit"],
        "seconds": {**run.seconds, "total": sum(run.seconds.values()) + time.monotonic() - started - run.seconds_here},
        "results": results,
    }
    write_json(config.out / SUMMARY_FILE, summary)
    print(table(results))
    _say(config, f"results in {config.out}")


def _evaluate(run: Run, source: Source, config: TrainConfig) -> Results:
    """The plot of the run, and the online test."""
    plot_training(config.out, config.out / PLOT_FILE)
    _say(config, "evaluating")
    if source.mdp is None:
        _say(config, "the log does not name its simulated users: pass --mdp for the online test")
    started = time.monotonic()
    results = evaluate_outcome(Outcome.of(run), source, config)
    run.spend("evaluate", time.monotonic() - started)
    return results


def choose_device(name: str) -> torch.device:
    """The device to train on.

    Raises:
        UsageError: CUDA is asked for and this build or machine has none.
    """
    if name == "cuda":
        if ops.build_info()["cuda"] == "none":
            raise UsageError("--device cuda: this build has no CUDA kernels; use --device cpu")
        if not torch.cuda.is_available():
            raise UsageError("--device cuda: torch finds no CUDA device; use --device cpu")
        return torch.device("cuda")
    has_cuda = ops.build_info()["cuda"] != "none" and torch.cuda.is_available()
    return torch.device("cuda" if name == "auto" and has_cuda else "cpu")


def _resolve(options: TrainConfig) -> TrainConfig:
    """The options, or those of the run to go on with."""
    if options.resume is None:
        if latest_checkpoint(options.out / "checkpoints") is not None or (options.out / SUMMARY_FILE).exists():
            raise UsageError(f"--out: {options.out} already holds a run; choose another, or --resume {options.out}")
        return options
    config = read_config(options.resume)
    given = replace(options, resume=None, quiet=False)
    if given != preset(options.preset) or options.preset != "quick":
        raise UsageError("--resume goes on with the run's own configuration: drop the other flags (but --quiet)")
    if (options.resume / SUMMARY_FILE).exists():
        raise UsageError(f"--resume: the run in {options.resume} has finished; see {options.resume / SUMMARY_FILE}")
    return replace(config, out=options.resume, quiet=options.quiet)


def _prepare(config: TrainConfig, resume: bool) -> Source:
    """The log; written to the run's directory with the configuration, so that the run stands on its own."""
    if resume:
        return reopen_source(config.out)
    with checking_arguments():
        source = open_source(config)
        models = Models(source.items, config.model, source.reward_mode())
    parameters = sum(p.numel() for p in models.parameters())
    check_writable(config.out, 4 * parameters * 6 * CHECKPOINTS_KEPT)
    source.save(config.out)
    write_config(config.out, config)  # last: a directory with a configuration can be resumed
    return source


def _say(config: TrainConfig, text: str) -> None:
    if not config.quiet:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    chosen: Any = flag_value("--preset", sys.argv[1:])
    start = preset(chosen) if chosen in PRESETS else TrainConfig()
    sys.exit(run_command(main, TrainConfig, prog="python -m irecgan_ext.train", default=start))

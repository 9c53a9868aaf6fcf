"""Train IRecGAN, or another method of the paper: `python -m irecgan_ext.train`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from irecgan_ext.cli import flag_value, run_command
from irecgan_ext.errors import UsageError
from irecgan_ext.evaluation.online import table
from irecgan_ext.evaluation.rerank import rerank_table
from irecgan_ext.plots import plot_training
from irecgan_ext.training.checkpoint import latest_checkpoint
from irecgan_ext.training.config import PRESETS, TrainConfig, preset
from irecgan_ext.training.job import say, train_and_evaluate
from irecgan_ext.training.methods import TITLES
from irecgan_ext.training.summary import SUMMARY_FILE, read_config

PLOT_FILE = "training.png"


def main(options: TrainConfig) -> None:
    """Train, evaluate, and leave config, metrics, checkpoints, plot and summary in the run's directory.

    Raises:
        UserError: an option, a log, a checkpoint or the disk; or a loss is not finite; or the user interrupted.
    """
    config = _resolve(options)
    summary = train_and_evaluate(
        config,
        resume=options.resume is not None,
        after_training=lambda directory: plot_training(directory, directory / PLOT_FILE),
    )
    print(rerank_table(summary["rerank"], TITLES) if "rerank" in summary else table(summary["results"], TITLES))
    say(config, f"results in {config.out}")


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


if __name__ == "__main__":
    chosen: Any = flag_value("--preset", sys.argv[1:])
    start = preset(chosen) if chosen in PRESETS else TrainConfig()
    sys.exit(run_command(main, TrainConfig, prog="python -m irecgan_ext.train", default=start))

"""Run an experiment: `python -m irecgan_ext.experiments figure2`."""

from __future__ import annotations

import sys

from irecgan_ext.cli import run_command
from irecgan_ext.errors import checking_arguments
from irecgan_ext.experiments.experiments import EXPERIMENTS
from irecgan_ext.experiments.grid import run_grid
from irecgan_ext.experiments.options import ExperimentOptions
from irecgan_ext.experiments.report import write_report


def main(options: ExperimentOptions) -> None:
    """Run what is missing of the grid, then write table, figure and README.

    Raises:
        UserError: an option is wrong, the directory holds another grid, cells failed, or the user interrupted.
    """
    options.check()
    experiment = EXPERIMENTS[options.experiment]
    with checking_arguments():
        grid = experiment.grid(options)
    command = options.command()
    results = run_grid(grid, options.directory, options.workers, command, options.quiet)
    print(write_report(experiment, results, options.directory, command))
    if not options.quiet:
        print(f"results in {options.directory}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main, ExperimentOptions, prog="python -m irecgan_ext.experiments"))

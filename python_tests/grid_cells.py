"""Cells for the tests of the runner, and a runner as a process: `python grid_cells.py OUT`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from irecgan_ext.cli import run_command
from irecgan_ext.errors import UsageError
from irecgan_ext.experiments.cells import Cell, Grid, Row
from irecgan_ext.experiments.grid import run_grid

COMMAND = "python again"


def grid(*jobs: str, seeds: int = 1, **settings: int) -> Grid:
    """A cell per job and seed."""
    cells = [Cell("plain", job, seed, {"scale": 10}) for seed in range(seeds) for job in jobs]
    return Grid("test", "grid_cells:run", dict(settings), tuple(cells))


def eight() -> Grid:
    """A cell that takes a minute when it is first started, then seven short ones."""
    first, *others = grid("3", seeds=8).cells
    return Grid("test", "grid_cells:run", {}, (replace(first, job="long"), *others))


def run(cell: Cell, directory: Path) -> Iterator[Row]:
    """Note the start beside the results, then do what the job's name says: a digit is the tenths of a second to sleep."""
    starts = directory.parents[2] / "starts"
    with open(starts, "a") as stream:
        stream.write(f"{cell.name} {os.getpid()}\n")
    first = starts.read_text().count(f"{cell.name} ") == 1
    if cell.job == "suicide" or (cell.job == "once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.job == "long" and first:
        time.sleep(60)
    if cell.job == "refuses":
        raise UsageError("--flag must be\nanother")
    if cell.job == "broken":
        raise RuntimeError("a defect")
    if cell.job.isdigit():
        time.sleep(int(cell.job) / 10)
    yield Row(cell.configuration, cell.job, cell.seed, "reward", float(cell.task["scale"] * cell.seed))


def _main(out: Path) -> None:
    run_grid(eight(), out, 2, COMMAND, quiet=True)


if __name__ == "__main__":
    # What a shell starts in the background ignores it, and so would this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run_command(_main, Path, prog="grid_cells"))

"""How far a grid has come, and how long it will take, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from irecgan_ext.experiments.cells import Cell, CellResult, Grid

if TYPE_CHECKING:
    from typing_extensions import Self

REPORT_SECONDS = 60.0  # between two lines where no bar can be drawn


class GridProgress:
    """A bar on a terminal; elsewhere a line when the grid starts, at the first cells, once a minute and at the end.

    Args:
        grid: what is done.
        results: cells finished before, by name; whoever finishes more adds them.
        jobs: cells that run at a time.
        quiet: show nothing but what went wrong.
    """

    def __init__(self, grid: Grid, results: Mapping[str, CellResult], jobs: int, quiet: bool) -> None:
        self.grid, self.results, self.jobs = grid, results, jobs
        self._quiet = quiet
        self._bar: Any = None
        self._here = 0
        self._spoke = -REPORT_SECONDS

    def __enter__(self) -> Self:
        total, done = len(self.grid.cells), len(self.results)
        if self._quiet:
            return self
        if sys.stderr.isatty():
            form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} cells, {elapsed} {postfix}"
            self._bar = tqdm(
                total=total, initial=done, desc=self.grid.experiment, dynamic_ncols=True, bar_format=form, leave=True
            )
            self._bar.set_postfix_str(self._left())
        else:
            self._print(f"{done} of {total} cells are done; {self.jobs} at a time, {self._left()}")
        return self

    def finished(self, result: CellResult) -> None:
        """Take note of a cell's result, which is in `results` by now."""
        self._here += 1
        if self._bar is not None:
            self._bar.set_postfix_str(self._left(), refresh=False)
            self._bar.update()
        elif not self._quiet:
            first = self._here == self.jobs  # the first estimate that rests on this machine
            if first or time.monotonic() - self._spoke >= REPORT_SECONDS:
                self._print(
                    f"{len(self.results)} of {len(self.grid.cells)} cells, {result.cell.name} took "
                    f"{result.seconds:.0f} s; {self._left()}"
                )

    def say(self, text: str) -> None:
        """Report what went wrong, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            self._print(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif not self._quiet:
            state = "finished" if error is None else "stopped"
            self._print(f"{state} with {len(self.results)} of {len(self.grid.cells)} cells done")

    def _left(self) -> str:
        seconds = seconds_left(self.grid.cells, self.results, self.jobs)
        return "time left not known yet" if seconds is None else f"about {duration(seconds)} left"

    def _print(self, text: str) -> None:
        self._spoke = time.monotonic()
        print(f"{self.grid.experiment}: {text}", file=sys.stderr, flush=True)


def seconds_left(cells: tuple[Cell, ...], results: Mapping[str, CellResult], jobs: int) -> float | None:
    """Estimate of the time that the cells without a result take.

    A cell is expected to take as long as those of its configuration and job did on average, or else those of its job, or
    else all; None if no cell has finished.
    """
    if not results:
        return None
    taken: dict[tuple[str, ...], list[float]] = {}
    for result in results.values():
        cell = result.cell
        for key in ((cell.configuration, cell.job), (cell.job,), ()):
            taken.setdefault(key, []).append(result.seconds)
    total = 0.0
    for cell in cells:
        if cell.name not in results:
            known = next(k for k in ((cell.configuration, cell.job), (cell.job,), ()) if k in taken)
            total += sum(taken[known]) / len(taken[known])
    return total / jobs


def duration(seconds: float) -> str:
    """Such as 42 s, 7 min or 2.3 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"

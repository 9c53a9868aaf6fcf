"""How far a long phase has come, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from typing_extensions import Self

REPORT_SECONDS = 60.0  # between two lines where no bar can be drawn


class Progress:
    """A bar with rates on a terminal; elsewhere one line when a phase starts, one when it ends and one a minute.

    Args:
        phase: what is being done, such as `pre-train user model`.
        total: units to do.
        unit: name of one unit, such as `epoch`.
        done: units done before (by the run that this one resumes).
        quiet: show nothing.

    Use as a context manager; the phase is reported as finished only if its block does not raise.
    """

    def __init__(self, phase: str, total: int, *, unit: str = "batch", done: int = 0, quiet: bool = False) -> None:
        self.phase = phase
        self.total = total
        self.unit = unit
        self.done = done
        self._resumed_at = done
        self._values: dict[str, float] = {}
        self._lines = not quiet and not sys.stderr.isatty()
        self._bar: Any = None
        self._quiet = quiet

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if self._lines:
            self._print(f"started at {self.unit} {self.done} of {self.total}")
        elif not self._quiet:
            self._bar = tqdm(total=self.total, initial=self.done, desc=self.phase, unit=self.unit, dynamic_ncols=True)
        return self

    def update(self, values: Mapping[str, float] | None = None, count: int = 1) -> None:
        """Count `count` more units as done and show `values` (the latest of each name) beside the bar."""
        self.done += count
        self._values |= values or {}
        if self._bar is not None:
            self._bar.set_postfix(self._values, refresh=False)
            self._bar.update(count)
        if self._lines and time.monotonic() - self._spoke >= REPORT_SECONDS and self.done < self.total:
            self._report("at")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._lines:
            self._report("finished at" if error is None else "stopped at")

    def _report(self, state: str) -> None:
        seconds = time.monotonic() - self._started
        rate = (self.done - self._resumed_at) / max(seconds, 1e-9)
        values = "".join(f", {name} {value:.4g}" for name, value in self._values.items())
        where = f"{self.unit} {self.done} of {self.total}"
        self._print(f"{state} {where} after {seconds:.1f} s ({rate:.3g} {self.unit}/s){values}")

    def _print(self, text: str) -> None:
        self._spoke = time.monotonic()
        print(f"{self.phase}: {text}", file=sys.stderr, flush=True)

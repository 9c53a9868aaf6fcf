"""Interleaved timings, measured ceilings, tables and JSON, shared by the benchmarks."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import irecgan_ext
from bench import device
from bench.device import Work

CUDA_SECONDS = 1.0  # of a comparison there: events are steady, and a GPU is lent for minutes
SLOW = 1.0  # seconds: a call that takes longer needs no second one to warm up
FILL = 1e-3  # seconds that a timing lasts at least: shorter calls are repeated within it
GEMM = (1024, 512, 2048)  # rows, inner dimension and columns of the product whose rate is a ceiling


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of what was measured."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        low, middle, high = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        )
        return Spread(middle, low, high)

    def times(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def __str__(self) -> str:
        if self.low == self.high:
            return _number(self.median)
        return f"{_number(self.median)} ({_number(self.low)}-{_number(self.high)})"


@dataclass(frozen=True)
class Measurement:
    """One candidate.

    Attributes:
        ms: time per call.
        ratio: its time over the first candidate's of the same round: how many times faster the first one is.
        rounds: timings, of one call or more each. extra_mb: peak resident (CUDA: allocated) memory of one call over that
            before it; None where not measured.
    """

    ms: Spread
    ratio: Spread
    rounds: int
    extra_mb: float | None


def compare(
    candidates: Mapping[str, Work], *, seconds: float, rounds: int = 5, fill: float = FILL
) -> dict[str, Measurement]:
    """Time the candidates in turn, round by round, so that a disturbance hits all of them.

    Args:
        candidates: name -> call, the first is what the others are compared with.
        seconds: go on for this long. rounds: but for at least so many rounds.
        fill: seconds of a timing on the CPU: a shorter call is repeated, as `torch.utils.benchmark` does, and finds the
            caches as it left them. 0: one call per timing, which finds them as the other candidates left them.
    """
    seconds = min(seconds, CUDA_SECONDS) if device.is_cuda() else seconds
    memory = {name: _warm_up(work) for name, work in candidates.items()}
    calls = {name: 1 if device.is_cuda() else _calls_to_fill(fill, work) for name, work in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    stop = time.perf_counter() + seconds
    done = 0
    while done < rounds or (time.perf_counter() < stop and done < 2000):
        for name in order:
            times[name].append(device.seconds(candidates[name], calls[name]))
        order = [*order[1:], order[0]]
        done += 1
    first = next(iter(times.values()))
    return {
        name: Measurement(
            Spread.of([1e3 * x for x in values]), Spread.of([x / y for x, y in zip(values, first)]), done, memory[name]
        )
        for name, values in times.items()
    }


def read_bandwidth(values: Tensor, before: Work, seconds: float = 0.5, fill: float = FILL) -> float:
    """GB/s at which `values` can be read: what one pass over them must cost.

    On the CPU the rate of `torch.sum` or `torch.amax`, whichever is faster, each after a call of `before`: with the caches as
    another candidate of the comparison leaves them. On CUDA that of a copy, reads and writes counted. `fill` as in
    `compare`.
    """
    if device.is_cuda():
        copy = torch.empty_like(values)
        timing = compare({"copy": lambda: copy.copy_(values)}, seconds=seconds)["copy"]
        return 2 * values.nbytes / 1e6 / timing.ms.median
    # Two calls of `before` between the reads, since the order moves on by one with each round.
    works: dict[str, Work] = {
        "sum": values.sum,
        "1": before,
        "2": before,
        "amax": values.amax,
        "3": before,
        "4": before,
    }
    timings = compare(works, seconds=seconds, fill=fill)
    return values.nbytes / 1e6 / min(timings[name].ms.median for name in ("sum", "amax"))


def gemm_rate(
    rows: int = GEMM[0],
    inner: int = GEMM[1],
    columns: int = GEMM[2],
    seconds: float = 0.5,
    dtype: torch.dtype = torch.float32,
) -> float:
    """GFLOP/s of `F.linear`, [rows, inner] by [columns, inner]; on CUDA of at least 8,192 rows."""
    rows = max(rows, 8192) if device.is_cuda() else rows
    x, weight = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
    timing = compare({"linear": lambda: functional.linear(x, weight)}, seconds=seconds)["linear"]
    return 2 * rows * inner * columns / 1e6 / timing.ms.median


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """PyTorch and the native ops on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment() -> dict[str, Any]:
    """Machine, versions, commit and how busy the machine was."""
    build = irecgan_ext.build_info()
    return {
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            **device.describe(),
        },
        "load_average_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "commit": build["commit"],
        "build": build,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table; the columns are the keys of the first row."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[name]) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(rate: float, ceiling: float, unit: str) -> str:
    """Such as "9.8% of 46.5 GB/s"."""
    return f"{_number(100 * rate / ceiling)}% of {_number(ceiling)} {unit}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, default=asdict) + "\n")


def _cell(value: Any) -> str:
    return "" if value is None else _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _calls_to_fill(seconds: float, work: Work) -> int:
    """How many calls of `work` take so long, at least one."""
    if seconds == 0 or device.seconds(work) > seconds:
        return 1
    return max(1, round(seconds / min(device.seconds(work) for _ in range(3))))


def _warm_up(work: Work) -> float | None:
    """Call `work`, twice unless it is slow; peak memory of the last call over that before it, in MB."""
    if device.is_cuda():
        work()
        return device.peak_extra_mb(work)
    begin = time.perf_counter()
    extra = _peak_extra_mb(work)
    return extra if time.perf_counter() - begin > SLOW else _peak_extra_mb(work)


def _peak_extra_mb(work: Work) -> float | None:
    """MB of one call of `work`; None where there are no such counters (they are Linux's)."""
    if not _reset_peak():
        work()
        return None
    before = _status_kb("VmRSS")
    work()
    return max(0.0, (_status_kb("VmHWM") - before) / 1e3)


def _reset_peak() -> bool:
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    except (AttributeError, OSError):  # no glibc, no permission
        return False
    return True


def _status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

"""How long does it take, and how much memory, to make sessions of DIGINETICA's raw files?"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irecgan_ext.data.synthetic import FULL_SIZE, write_synthetic

SIZES = [20_000, FULL_SIZE]  # sessions
QUICK_SIZES = [300]
PEER_UP_TO = 100_000  # sessions; pandas holds every list as Python objects
ROUNDS = 3


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per size and number of threads the command, then pandas on one thread, each as a process."""
    rows = []
    for size in QUICK_SIZES if quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw"
            write_synthetic(raw, size)
            for number in threads:
                rows.append(_measure("prepare", size, number, raw, Path(folder), 1 if quick else ROUNDS))
            if size > PEER_UP_TO:
                continue
            if importlib.util.find_spec("pandas") is None:
                print("pandas is left out: it is not installed")
                continue
            peer = _measure("pandas", size, 1, raw, Path(folder), 1 if quick else ROUNDS)
            mine, theirs = ((row["sessions kept"], row["clicks kept"]) for row in (rows[-1], peer))
            if mine != theirs:
                raise AssertionError(f"prepare keeps {mine} sessions and clicks, pandas {theirs}")
            rows.append(peer)
    return rows


def _measure(name: str, size: int, threads: int, raw: Path, folder: Path, rounds: int) -> dict[str, Any]:
    seconds, peak = [], 0.0
    for number in range(rounds):
        out = folder / f"{name}-{threads}-{number}"
        if name == "prepare":
            command = ["irecgan_ext.prepare", "diginetica", str(raw), "--out", str(out), "--end", "none"]
        else:
            command = ["bench.peers.prepare", str(raw), str(out)]
        taken, memory, printed = _child([sys.executable, "-m", *command], threads)
        seconds.append(taken)
        peak = max(peak, memory)
    if name == "prepare":
        report = json.loads((out / "report.json").read_text())
        kept = sum(report["sessions"].values()), report["steps"]
    else:
        kept = tuple(map(int, printed.split()))
    with open(raw / "train-queries.csv", "rb") as stream:
        queries = sum(1 for _ in stream) - 1
    median = sorted(seconds)[len(seconds) // 2]
    return {
        "sessions": f"{size:,}",
        "queries": f"{queries:,}",
        "threads": threads,
        "what": name,
        "s": f"{median:.1f} ({min(seconds):.1f}-{max(seconds):.1f})",
        "queries/s": f"{queries / median:,.0f}",
        "peak MB": f"{peak:,.0f}",
        "sessions kept": kept[0],
        "clicks kept": kept[1],
    }


def _child(command: list[str], threads: int) -> tuple[float, float, str]:
    """Seconds, peak resident MB and output of a process."""
    environment = {**os.environ, "POLARS_MAX_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        printed = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed with status {child.returncode}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024, printed

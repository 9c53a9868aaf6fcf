"""The runner of a grid: cells in worker processes, each stored as it ends, so that nothing is done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from irecgan_ext.errors import Interrupted, UsageError
from irecgan_ext.experiments.cells import (
    Cell,
    CellResult,
    Grid,
    finished_cells,
    log_path,
    open_directory,
    result_path,
    work_directories,
)
from irecgan_ext.experiments.progress import GridProgress

ATTEMPTS = 2  # of a cell whose worker is killed
POLL_SECONDS = 0.05
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL


@dataclass
class _Worker:
    cell: Cell
    process: subprocess.Popen[bytes]
    attempt: int


def run_grid(grid: Grid, out: Path, jobs: int, command: str, quiet: bool = False) -> list[CellResult]:
    """Do the cells whose results are not in `out` yet.

    A worker that is killed costs its cell, which is tried once more; one that fails is not. Either way the grid goes on.

    Args:
        grid: what to do.
        out: directory of the results; made if it is missing.
        jobs: worker processes at a time, one thread each.
        command: what the user types to go on; for messages.
        quiet: no progress.

    Returns:
        The results of all cells, in the grid's order.

    Raises:
        Interrupted: by Ctrl-C; the workers have been stopped, and what they had saved is taken up again later.
        UsageError: `out` holds another grid or is in use; or, at the end, some cells failed.
    """
    with open_directory(grid, out):
        results = finished_cells(grid, out)
        progress = GridProgress(grid, results, jobs, quiet)
        failures: dict[str, str] = {}
        try:
            with progress:
                _work(grid, out, jobs, results, failures, progress)
        except KeyboardInterrupt:
            done = f"{len(finished_cells(grid, out))} of {len(grid.cells)} cells are done"
            raise Interrupted(f"interrupted; {done}, the same command goes on from there: {command}") from None
        if not failures:
            shutil.rmtree(work_directories(out), ignore_errors=True)  # of workers that were stopped after their result
    if failures:
        first = "; ".join(f"{name}: {why}" for name, why in list(failures.items())[:3])
        raise UsageError(f"{len(failures)} of {len(grid.cells)} cells failed, repeat the command to try again: {first}")
    return [results[cell.name] for cell in grid.cells]


def _work(
    grid: Grid, out: Path, jobs: int, results: dict[str, CellResult], failures: dict[str, str], progress: GridProgress
) -> None:
    """Keep `jobs` workers busy until every cell is in `results` or `failures`."""
    waiting = deque((cell, 1) for cell in grid.cells if cell.name not in results)
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell, attempt = waiting.popleft()
                running.append(_Worker(cell, _start(grid, out, cell), attempt))
            time.sleep(POLL_SECONDS)
            for worker in [worker for worker in running if worker.process.poll() is not None]:
                running.remove(worker)
                _let_go(worker)
                if result_path(out, worker.cell).exists():
                    result = CellResult.load(result_path(out, worker.cell))
                    results[worker.cell.name] = result
                    progress.finished(result)
                    continue
                why = _explain(worker, out)
                if worker.process.returncode < 0 and worker.attempt < ATTEMPTS:
                    progress.say(f"{worker.cell.name}: {why}; trying again")
                    waiting.appendleft((worker.cell, worker.attempt + 1))
                else:
                    failures[worker.cell.name] = why
                    progress.say(f"{worker.cell.name} failed: {why}")
    finally:
        _stop(running)


def _start(grid: Grid, out: Path, cell: Cell) -> subprocess.Popen[bytes]:
    """A worker for `cell`, in a session of its own: Ctrl-C on the terminal reaches the runner alone."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open(log_path(out, cell), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "irecgan_ext.experiments.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
            start_new_session=True,
        )
    request = {"function": grid.function, "out": str(out.resolve()), "cell": asdict(cell)}
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:  # it has died already, which its exit status will say
        pass
    return process


def _explain(worker: _Worker, out: Path) -> str:
    """Why the worker ended without a result."""
    status = worker.process.returncode
    if status < 0:
        return f"worker killed by {signal.Signals(-status).name}"
    path = log_path(out, worker.cell)
    lines = path.read_text(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f"{said[-1] if said else f'exit status {status}'} (see {path})"


def _let_go(worker: _Worker) -> None:
    """Close our end of its standard input, which it watches."""
    assert worker.process.stdin is not None
    worker.process.stdin.close()


def _stop(running: list[_Worker]) -> None:
    """End the workers that are still at work."""
    for worker in running:
        worker.process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in running:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        _let_go(worker)

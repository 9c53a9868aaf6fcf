"""The runner of the experiments: what is stored, what is repeated, and what stops it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grid_cells import COMMAND, eight, grid

from irecgan_ext.errors import UsageError
from irecgan_ext.experiments.cells import Cell, CellResult, open_directory, result_path
from irecgan_ext.experiments.grid import run_grid
from irecgan_ext.experiments.progress import duration, seconds_left

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _workers_find_the_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = (str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


def starts(out: Path) -> list[tuple[str, int]]:
    """Cells in the order in which they were started, with their processes."""
    path = out / "starts"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(name, int(pid)) for name, pid in lines]


def stored(out: Path) -> set[str]:
    return {path.stem for path in (out / "cells").glob("plain*.json")}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A runner of 8 cells, two at a time, after its first two have been stored."""
    command = [sys.executable, str(HERE / "grid_cells.py"), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(stored(tmp_path)) >= 2)
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def resumed_without_repetition(out: Path, finished: set[str]) -> None:
    results = run_grid(eight(), out, 2, COMMAND, quiet=True)
    assert [result.rows[0].value for result in results] == [10.0 * seed for seed in range(8)]
    counts = Counter(name for name, _ in starts(out))
    assert len(counts) == 8
    assert all(counts[name] == 1 for name in finished)
    assert max(counts.values()) <= 2
    assert not (out / "cells" / "work").exists()


def test_a_killed_runner_takes_its_workers_along_and_repeats_no_finished_cell(
    tmp_path: Path, runner: subprocess.Popen[str]
) -> None:
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    until(lambda: not any(runs(pid) for _, pid in starts(tmp_path)))
    finished = stored(tmp_path)
    assert 2 <= len(finished) < 8
    resumed_without_repetition(tmp_path, finished)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path: Path, runner: subprocess.Popen[str]) -> None:
    runner.send_signal(signal.SIGINT)
    assert runner.stderr is not None
    error = runner.stderr.read()
    runner.wait()
    assert runner.returncode == 130
    finished = stored(tmp_path)
    assert error == (
        f"error: interrupted; {len(finished)} of 8 cells are done, the same command goes on from there: {COMMAND}\n"
    )
    assert not any(runs(pid) for _, pid in starts(tmp_path))
    resumed_without_repetition(tmp_path, finished)


def test_a_killed_worker_costs_its_cell_which_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_grid(grid("once", "0", seeds=2), tmp_path, 2, COMMAND)
    assert [result.cell.job for result in results] == ["once", "0", "once", "0"]
    assert Counter(name for name, _ in starts(tmp_path)) == {
        "plain-once-seed-0": 2,
        "plain-once-seed-1": 2,
        "plain-0-seed-0": 1,
        "plain-0-seed-1": 1,
    }
    said = capsys.readouterr().err
    assert said.startswith("test: 0 of 4 cells are done; 2 at a time, time left not known yet\n")
    assert "test: plain-once-seed-0: worker killed by SIGKILL; trying again\n" in said
    assert said.endswith("test: finished with 4 of 4 cells done\n")


def test_failed_cells_are_named_at_the_end_and_cost_no_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_grid(grid("suicide", "broken", "refuses", "0"), tmp_path, 1, COMMAND, quiet=True)
    log = f"{tmp_path}/cells/plain-{{}}-seed-0.log"
    assert str(caught.value) == (
        "3 of 4 cells failed, repeat the command to try again: plain-suicide-seed-0: worker killed by SIGKILL; "
        f"plain-broken-seed-0: RuntimeError: a defect (see {log.format('broken')}); "
        f"plain-refuses-seed-0: --flag must be another (see {log.format('refuses')})"
    )
    assert stored(tmp_path) == {"plain-0-seed-0"}
    assert Counter(name for name, _ in starts(tmp_path))["plain-suicide-seed-0"] == 2


def test_more_seeds_add_to_a_grid_and_other_settings_are_refused(tmp_path: Path) -> None:
    run_grid(grid("0", sessions=5), tmp_path, 1, COMMAND, quiet=True)
    assert len(run_grid(grid("0", seeds=2, sessions=5), tmp_path, 1, COMMAND, quiet=True)) == 2
    assert len(starts(tmp_path)) == 2
    message = f"--out: {tmp_path} holds a different grid (sessions 5, not 6); choose another directory"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        run_grid(grid("0", sessions=6), tmp_path, 1, COMMAND, quiet=True)


def test_a_stored_result_must_be_of_the_same_task_and_whole(tmp_path: Path) -> None:
    plan = grid("0")
    run_grid(plan, tmp_path, 1, COMMAND, quiet=True)
    path = result_path(tmp_path, plan.cells[0])
    result = json.loads(path.read_text())
    result["cell"]["task"] = {"scale": 11}
    path.write_text(json.dumps(result))
    with pytest.raises(UsageError, match=r"^--out: .*plain-0-seed-0\.json is of another task"):
        run_grid(plan, tmp_path, 1, COMMAND, quiet=True)
    path.write_text("{")
    with pytest.raises(
        UsageError, match=r"plain-0-seed-0\.json: not a cell's result: .*; remove it to run the cell again$"
    ):
        run_grid(plan, tmp_path, 1, COMMAND, quiet=True)


def test_one_runner_per_directory(tmp_path: Path) -> None:
    plan = grid("0")
    with (
        open_directory(plan, tmp_path),
        pytest.raises(UsageError, match=f"^--out: another process is running a grid in {tmp_path}$"),
    ):
        run_grid(plan, tmp_path, 1, COMMAND, quiet=True)
    assert len(run_grid(plan, tmp_path, 1, COMMAND, quiet=True)) == 1


def test_time_left_is_that_of_like_cells() -> None:
    cells = [Cell(name, job, seed, {}) for seed in range(2) for name in ("small", "large") for job in ("a", "b")]
    taken = {("small", "a"): 10.0, ("large", "a"): 30.0, ("small", "b"): 4.0}
    done = [cell for cell in cells if cell.seed == 0 and (cell.configuration, cell.job) in taken]
    results = {c.name: CellResult(c, (), taken[c.configuration, c.job], "", "") for c in done}
    # small a 10, small b 4, large a 30; large b, never seen, twice as long as job b on average: 4.
    assert seconds_left(tuple(cells), results, jobs=2) == (10 + 4 + 30 + 2 * 4) / 2
    assert seconds_left(tuple(cells), {}, jobs=2) is None
    assert [duration(seconds) for seconds in (42.4, 420, 8280)] == ["42 s", "7 min", "2.3 h"]

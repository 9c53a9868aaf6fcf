"""The train command on logs of every origin, and the logs and options that it refuses."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import (
    LEARNT,
    MARKS,
    evaluate_here,
    final_tensors,
    one_line,
    run,
    simulate_here,
    summary,
    train_here,
)
from runs import FLAGS, tiny_log


def test_simulated_log_through_a_pipe(tmp_path: Path) -> None:
    log = run("simulate", "--out", "-", "--sessions", "80", "--slate-size", "3", "--no-propensities").stdout
    done = run("train", "--data", "-", "--out", tmp_path / "run", *FLAGS, input=log)
    assert (done.returncode, done.stderr) == (0, b"")
    results = summary(tmp_path / "run")["results"]
    assert set(results) == {*MARKS, *LEARNT}, "the log names its users"
    assert (tmp_path / "run/log.parquet").read_bytes() == log
    assert json.loads(evaluate_here(tmp_path / "run", "--json")[1]) == results


def test_log_with_its_users_in_a_file(tmp_path: Path) -> None:
    log, users, shape = tmp_path / "log.parquet", tmp_path / "users", ("--items", 14, "--slate-size", 3)
    simulate_here("--out", log, "--mdp", users, "--sessions", 80, "--policy", "max", *shape)
    assert train_here("--data", log, "--out", tmp_path / "found", *FLAGS) == 0
    assert set(summary(tmp_path / "found")["results"]) == {*MARKS, *LEARNT}
    moved = users.rename(tmp_path / "moved")
    assert train_here("--data", log, "--out", tmp_path / "a", *FLAGS) == 0
    assert set(summary(tmp_path / "a")["results"]) == {"log"}
    assert not (tmp_path / "a/mdp.safetensors").exists()
    assert train_here("--data", log, "--mdp", moved, "--out", tmp_path / "b", *FLAGS) == 0
    assert summary(tmp_path / "b")["results"] == summary(tmp_path / "found")["results"]
    assert evaluate_here(tmp_path / "a")[0] == 0


def test_log_of_the_authors(tmp_path: Path) -> None:
    log, rows = tmp_path / "log_random.txt", []
    sessions = tiny_log(90)
    for b in range(90):
        rows.append(f"{b};0;0;;0")
        for slate, click in zip(sessions.slates[b], sessions.clicks[b].tolist()):
            if click >= 0:
                rows.append(f"{b};0;{click};{','.join(map(str, slate.tolist()))};1")
    log.write_text("\n".join(rows) + "\n")
    assert train_here("--data", log, "--out", tmp_path / "run", *FLAGS) == 0
    assert set(summary(tmp_path / "run")["results"]) == {"log"}


ROWS = {
    "session": [session for session in range(12) for _ in range(2)],
    "step": [0, 1] * 12,
    "slate": [[0, 1, 2], [2, 3, 1]] * 12,
    "click": [1, None] * 12,
    "reward": [1.0, 0.0] * 12,
}


def write_rows(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table({**ROWS, **columns}), path)
    return path


def changed(column: str, value: Any, row: int = 4) -> dict[str, list[Any]]:
    values = list(ROWS[column])
    values[row] = value
    return {column: values}


@pytest.mark.parametrize(
    "columns",
    [
        {},
        changed("reward", 0.0),
        {"reward": [0.0] * 24},
        {"click": [None] * 24, "session": list(range(24)), "step": [0] * 24, "reward": [0.0] * 24},
        {"click": [1, 2] * 12, "reward": [1.0] * 24},
    ],
    ids=["plain", "binary rewards", "no rewards", "no clicks", "no end"],
)
def test_logs_of_other_origin(tmp_path: Path, columns: dict[str, list[Any]]) -> None:
    log = write_rows(tmp_path / "log.parquet", **columns)
    assert train_here("--data", log, "--out", tmp_path / "run", *FLAGS) == 0
    assert set(summary(tmp_path / "run")["results"]) == {"log"}
    assert all(bool(value.isfinite().all()) for value in final_tensors(tmp_path / "run").values())


BAD_LOGS = {
    "unknown column": ({"colour": [1] * 24}, "log.parquet: unknown column colour"),
    "click outside its slate": (changed("click", 9), "log.parquet: row 4: click 9 is not in its slate"),
    "empty slate": (changed("slate", []), "log.parquet: row 4: slate is empty"),
    "negative item": (changed("slate", [0, -1, 1]), "log.parquet: row 4: slate item -1 is negative"),
    "negative click": (changed("click", -2), "log.parquet: row 4: click -2 is negative"),
    "item twice": (changed("slate", [1, 1, 2]), "log.parquet: row 4: item 1 is twice in the slate"),
    "NaN reward": (changed("reward", math.nan), "log.parquet: row 4: reward must be a finite float32, got nan"),
    "infinite reward": (changed("reward", math.inf), "log.parquet: row 4: reward must be a finite float32, got inf"),
    "fractional reward": (changed("reward", 0.5), "--data: rewards must be 0 or 1, got 0.5"),
    "duplicate step": (changed("step", 0, 5), "log.parquet: row 5: session 2 has step 0 twice"),
    "missing step": (changed("step", 2, 5), "log.parquet: row 5: session 2 has step 2 but no step 1"),
    "goes on after END": (changed("click", None), "log.parquet: row 5: session 2 goes on after its END"),
    "one session": (
        {"session": [0] * 24, "step": list(range(24)), "click": [1] * 24, "reward": [1.0] * 24},
        "the log must hold at least 2 sessions, got 1",
    ),
}


@pytest.mark.parametrize(("columns", "message"), BAD_LOGS.values(), ids=BAD_LOGS.keys())
def test_bad_logs_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: dict[str, list[Any]], message: str
) -> None:
    log = write_rows(tmp_path / "log.parquet", **columns)
    assert train_here("--data", log, "--out", tmp_path / "run", *FLAGS) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    one_line(shown.err, message)
    assert not (tmp_path / "run/checkpoints").exists()


BAD_OPTIONS = {
    "flag": (("--bogus", "1"), "bogus"),
    "preset": (("--preset", "huge"), "huge"),
    "no number": (("--seed", "x"), "seed"),
    "argument": (("stray",), "stray"),
    "seed": (("--seed", "-1"), "--seed must be in 0..2^64-1, got -1"),
    "huge seed": (("--seed", "9" * 30), "--seed must be in 0..2^64-1, got 999"),
    "threads": (("--threads", "0"), "--threads must be positive and finite, got 0"),
    "hidden": (("--model.hidden", "0"), "hidden must be at least 1, got 0"),
    "dropout": (("--model.user-dropout", "1"), "dropout must be in [0, 1), got 1.0"),
    "history dropout": (("--model.history-dropout", "nan"), "history_dropout must be in [0, 1), got nan"),
    "slate size": (("--slate-size", "51"), "slate_size must be in 1..C (C = 50), got 51"),
    "mix": (("--log-policy", "mix", "--slate-size", "16"), "ranked between the top 20% and 50%"),
    "temperature": (("--transition-temperature", "0"), "transition_temperature must be positive, got 0.0"),
    "few sessions": (("--log-sessions", "9"), "--log-sessions must be at least 10, got 9"),
    "missing file": (("--data", "absent.parquet"), "absent.parquet: No such file or directory"),
    "missing text": (("--data", "absent.txt"), "absent.txt: cannot be read: No such file or directory"),
    "directory as log": (("--data", "."), ".: Is a directory"),
    "truncated": (("--data", "truncated.parquet"), "truncated.parquet: damaged or truncated Parquet file"),
    "not Parquet": (("--data", "file"), "file: not a Parquet file"),
    "missing users": (("--mdp", "absent"), "absent: not a saved MDP"),
    "users of another log": (("--data", "good.parquet", "--mdp", "users"), "users has 3 items, the log has 4"),
    "damaged users": (("--mdp", "file"), "file: not a saved MDP"),
    "endless users": (("--mdp", "endless", "--slate-size", "2"), "sessions must end within 20 steps"),
    "out is a file": (("--out", "file"), "file: cannot write: File exists"),
    "out is below a file": (("--out", "file/run"), "file/run: cannot write: Not a directory"),
    "resume of nothing": (("--resume", "absent"), "absent: holds no run (config.json is missing)"),
    "resume of no run": (("--resume", "."), ".: holds no run (config.json is missing)"),
}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with files that are not what they should be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("neither a log nor a directory")
    good = write_rows(tmp_path / "good.parquet").read_bytes()
    (tmp_path / "truncated.parquet").write_bytes(good[: len(good) // 2])
    simulate_here("--out", "log", "--mdp", "users", "--items", 3, "--slate-size", 2, "--sessions", 2)
    (tmp_path / "endless").mkdir()
    (tmp_path / "endless/score.txt").write_text("1.0 1.0\n")
    (tmp_path / "endless/prob.txt").write_text("1.0\n1.0\n==\n")
    monkeypatch.setattr("irecgan_ext.simulators.mdp.STEP_LIMIT", 20)
    return tmp_path


@pytest.mark.parametrize(("args", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options_end_in_one_line(
    directory: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    capsys.readouterr()
    before = set(directory.rglob("*"))
    out = () if "--out" in args else ("--out", "run")
    assert train_here(*FLAGS, *out, *args) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    one_line(shown.err, message)
    assert set(directory.rglob("*")) == before


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_bad_option_of_a_process(tmp_path: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = run("train", "--preset", "huge", "--out", tmp_path / "run", env=environment)
    assert (done.returncode, done.stdout) == (2, b"")
    one_line(done.stderr.decode(), "huge")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_here(*FLAGS, "--out", tmp_path / "run", "--device", "cuda") == 2
    one_line(capsys.readouterr().err, "use --device cpu")
    assert not (tmp_path / "run").exists()


def test_preset_decides_the_other_defaults() -> None:
    done = run("train", "--preset=paper", "--help")
    assert done.returncode == 0
    assert b"(default: lstm)" in done.stdout
    assert b"(default: runs/paper)" in done.stdout

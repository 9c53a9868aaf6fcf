"""The train and evaluate commands: what a run leaves, how it ends, goes on and repeats itself, and what stops it."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from runs import FLAGS, tiny_log

from irecgan_ext import cli, evaluate, simulate, train
from irecgan_ext.training.checkpoint import latest_checkpoint, load_checkpoint
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.summary import read_config

LONGER = ("--adversarial.epochs", "25")  # seconds of work, to be stopped in the middle
MARKS = ("random", "log", "counts", "belief", "oracle")
LEARNT = ("lstm", "pg", "lstmd", "irecgan")


def command(module: str, *args: str | Path) -> list[str]:
    return [sys.executable, "-m", f"irecgan_ext.{module}", *map(str, args)]


def run(module: str, *args: str | Path, **options: Any) -> subprocess.CompletedProcess:
    return subprocess.run(command(module, *args), capture_output=True, **options)


def train_here(*args: str | Path | float) -> int:
    return cli.run_command(train.main, TrainConfig, prog="train", args=[str(arg) for arg in args])


def evaluate_here(*args: str | Path | float) -> tuple[int, str, str]:
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        options = evaluate.EvaluateOptions
        status = cli.run_command(evaluate.main, options, prog="evaluate", args=[str(arg) for arg in args])
    return status, out.getvalue(), error.getvalue()


def summary(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "summary.json").read_text())


def final_tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(directory / "checkpoints/final.safetensors")[0]


def same_outcome(one: Path, other: Path) -> None:
    """Bit-identical final weights (optimisers and averages too) and the same results."""
    expected, got = final_tensors(one), final_tensors(other)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name
    assert summary(one)["results"] == summary(other)["results"]


def records(directory: Path) -> list[tuple[Any, ...]]:
    """What the metrics hold but for the clock."""
    return [tuple(item for item in record.items() if item[0] != "wall") for record in read_metrics(directory)]


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the command, as a process."""
    out = tmp_path_factory.mktemp("finished") / "run"
    done = run("train", "--out", out, *FLAGS)
    assert (done.returncode, done.stderr) == (0, b"")
    (out.parent / "stdout").write_bytes(done.stdout)
    return out


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run that stopped and resumed ones must equal."""
    out = tmp_path_factory.mktemp("longer") / "run"
    assert run("train", "--out", out, *FLAGS, *LONGER).returncode == 0
    return out


def test_a_run_leaves_its_files_and_no_others(finished: Path) -> None:
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    steps = {name for name in names if name.startswith("checkpoints/step-")}
    assert len(events) == 1
    assert len(steps) == 2
    files = {"config.json", "metrics.jsonl", "training.png", "summary.json", "log.parquet", "mdp.safetensors"}
    assert names - events - steps == files | {"checkpoints/final.safetensors"}
    assert (finished / "training.png").read_bytes().startswith(b"\x89PNG")
    starts = {(finished / name).read_bytes()[:2] for name in names}
    assert not starts & {b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK"}, "a pickle, or a torch.save archive"
    assert read_config(finished).out == finished


def test_the_summary_has_a_fixed_form(finished: Path) -> None:
    content = summary(finished)
    assert set(content) == {"seed", "preset", "device", "version", "commit", "seconds", "results"}
    assert (content["seed"], content["preset"], content["device"]) == (0, "quick", "cpu")
    assert all(type(value) is float and value > 0 for value in content["seconds"].values())
    assert content["seconds"]["total"] > sum(v for k, v in content["seconds"].items() if k != "total")
    assert tuple(content["results"]) == ("random", "log", "counts", *LEARNT, "belief", "oracle")
    for name, row in content["results"].items():
        assert set(row) == {"reward", "coverage"} | ({"sampled"} if name in LEARNT else set())
        for part in (row, row.get("sampled", row)):
            assert set(part["reward"]) == {"mean", "ci95"}
            assert list(part["coverage"]) == [str(r) for r in range(1, 11)]
            numbers = [*part["reward"].values(), *part["coverage"].values()]
            assert all(type(number) is float and math.isfinite(number) and number >= 0 for number in numbers)


def test_metrics_name_every_unit(finished: Path) -> None:
    lines = read_metrics(finished)
    counts = {"pretrain_user": 3, "pretrain_agent": 3, "pretrain_discriminator": 2, "adversarial": 4}
    assert [(r["phase"], r["unit"]) for r in lines] == [(p, i) for p, n in counts.items() for i in range(n)]
    assert [r["step"] for r in lines] == list(range(1, 13))


def test_evaluate_repeats_the_summary(finished: Path) -> None:
    stdout = (finished.parent / "stdout").read_text()
    status, text, error = evaluate_here(finished)
    assert (status, error) == (0, "")
    assert text == stdout
    done = run("evaluate", finished, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == summary(finished)["results"]


def test_evaluate_with_other_users(finished: Path) -> None:
    results = summary(finished)["results"]
    other, more = (
        json.loads(evaluate_here(finished, "--json", *args)[1]) for args in (("--seed", 5), ("--sessions", 90))
    )
    assert other["random"] != results["random"] != more["random"]
    assert more["random"]["reward"]["ci95"] > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("absent",), "absent: holds no run (config.json is missing)"),
        (("RUN", "--sessions", "1"), "--sessions must be at least 2, got 1"),
        (("RUN", "--seed", "-1"), "--seed must not be negative, got -1"),
        (("RUN", "--bogus"), "bogus"),
        ((), "required"),
    ],
)
def test_evaluate_refuses_in_one_line(finished: Path, args: tuple[str, ...], message: str) -> None:
    status, text, error = evaluate_here(*(finished if arg == "RUN" else arg for arg in args))
    assert (status, text) == (2, "")
    one_line(error, message)


def test_same_seed_same_run(finished: Path, tmp_path: Path) -> None:
    assert train_here("--out", tmp_path / "again", *FLAGS) == 0
    same_outcome(finished, tmp_path / "again")
    assert records(finished) == records(tmp_path / "again")
    assert train_here("--out", tmp_path / "other", *FLAGS, "--seed", 1) == 0
    assert summary(tmp_path / "other")["results"] != summary(finished)["results"]
    assert summary(tmp_path / "other")["seed"] == 1


def test_progress_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [flag for flag in FLAGS if flag != "--quiet"]
    assert train_here("--out", tmp_path / "run", *flags) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(" ")
    assert shown.out.count("\n") == 11
    for phase in ("pretrain user", "pretrain agent", "pretrain discriminator", "adversarial"):
        assert f"{phase}: started at epoch 0 of" in shown.err
        assert f"{phase}: finished at epoch" in shown.err


def wait_for_units(process: subprocess.Popen, out: Path, units: int) -> None:
    """Until the metrics name so many units, or the process is gone."""
    path, deadline = out / "metrics.jsonl", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= units:
            return
        time.sleep(0.001)
    assert process.poll() is not None, "no progress within a minute"


def test_killed_run_resumes_to_the_same_weights(longer: Path, tmp_path: Path) -> None:
    out, moments, kills = tmp_path / "run", random.Random(0), 0
    for units in (1, 7, 17):
        args = ("--resume", out, "--quiet") if (out / "config.json").exists() else ("--out", out, *FLAGS, *LONGER)
        process = subprocess.Popen(command("train", *args))
        wait_for_units(process, out, units)
        time.sleep(moments.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 3
    assert not (out / "summary.json").exists()
    done = run("train", "--resume", out, "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")
    same_outcome(longer, out)
    assert records(out) == records(longer)
    assert not list((out / "checkpoints").glob(".*"))


def test_killed_before_its_first_checkpoint(longer: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(command("train", "--out", out, *FLAGS, *LONGER, "--checkpoint-seconds", "1000"))
    wait_for_units(process, out, 2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert latest_checkpoint(out / "checkpoints") is None
    assert train_here("--resume", out, "--quiet") == 0
    same_outcome(longer, out)
    assert records(out) == records(longer)


def test_interrupted_run_says_how_to_go_on(longer: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(command("train", "--out", out, *FLAGS, *LONGER), stderr=subprocess.PIPE)
    wait_for_units(process, out, 12)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    last = error.decode().splitlines()[-1]
    assert last.startswith("error: interrupted at step ")
    assert last.endswith(f"; go on with --resume {out}")
    step = int(last.split("step ")[1].split(";")[0])
    saved = latest_checkpoint(out / "checkpoints")
    assert saved is not None
    assert saved.name == f"step-{step:08d}.safetensors"
    assert "Traceback" not in error.decode()
    one_line(evaluate_here(out)[2], "the run has not finished; go on with --resume")
    assert train_here("--resume", out, "--quiet") == 0
    same_outcome(longer, out)
    assert records(out) == records(longer)


LIMITED = (
    "import os, resource, sys; size = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)); os.execv(sys.argv[2], sys.argv[2:])"
)


def run_on_small_disk(size: int, module: str, *args: str | Path) -> subprocess.CompletedProcess:
    """A command that cannot write a file of more than `size` bytes."""
    whole = [sys.executable, "-c", LIMITED, str(size), *command(module, *args)]
    return subprocess.run(whole, capture_output=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_full_disk_keeps_the_last_checkpoint(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # All checkpoints before the adversarial phase are smaller than the final one, by two optimisers.
    size = (finished / "checkpoints/final.safetensors").stat().st_size - 2000
    done = run_on_small_disk(size, "train", "--out", out, *FLAGS)
    assert done.returncode == 2
    one_line(done.stderr.decode(), "step-00000009.safetensors: cannot write: File too large")
    saved = latest_checkpoint(out / "checkpoints")
    assert saved is not None
    assert saved.name == "step-00000008.safetensors"
    load_checkpoint(saved)
    assert train_here("--resume", out, "--quiet") == 0
    same_outcome(finished, out)
    assert records(out) == records(finished)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_full_disk_leaves_no_half_log(tmp_path: Path) -> None:
    done = run_on_small_disk(4000, "simulate", "--out", tmp_path / "log.parquet", "--sessions", "500")
    assert done.returncode == 2
    one_line(done.stderr.decode(), "log.parquet: cannot write: File too large")
    assert not list(tmp_path.iterdir())


def test_simulated_log_through_a_pipe(tmp_path: Path) -> None:
    log = run("simulate", "--out", "-", "--sessions", "80", "--slate-size", "3", "--no-propensities").stdout
    done = run("train", "--data", "-", "--out", tmp_path / "run", *FLAGS, input=log)
    assert (done.returncode, done.stderr) == (0, b"")
    results = summary(tmp_path / "run")["results"]
    assert set(results) == {*MARKS, *LEARNT}, "the log names its users"
    assert (tmp_path / "run/log.parquet").read_bytes() == log
    assert json.loads(evaluate_here(tmp_path / "run", "--json")[1]) == results


def simulate_here(*args: str | Path | float) -> None:
    options = simulate.SimulateOptions
    assert cli.run_command(simulate.main, options, prog="simulate", args=[str(arg) for arg in args]) == 0


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


def one_line(error: str, message: str) -> None:
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert message in error


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


def test_a_directory_holds_one_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert train_here("--out", finished, *FLAGS) == 2
    one_line(capsys.readouterr().err, f"--out: {finished} already holds a run; choose another, or --resume {finished}")
    assert train_here("--resume", finished) == 2
    one_line(capsys.readouterr().err, f"--resume: the run in {finished} has finished")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_damaged_checkpoint_is_named(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    (copy / "checkpoints/final.safetensors").write_bytes(b"half")
    status, _, error = evaluate_here(copy)
    assert status == 2
    one_line(error, "final.safetensors: damaged or truncated checkpoint")
    (copy / "log.parquet").unlink()
    one_line(evaluate_here(copy)[2], "log.parquet: No such file or directory")


def test_diverged_run_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rate = ("--adversarial.user-learning-rate", "1e30", "--adversarial.final-rate", "1")
    assert train_here("--out", tmp_path / "run", *FLAGS, *rate) == 2
    error = capsys.readouterr().err
    one_line(error, "error: step ")
    assert "loss is nan" in error
    assert "last good checkpoint: " in error
    saved = latest_checkpoint(tmp_path / "run/checkpoints")
    assert saved is not None
    assert str(saved) in error
    assert all(bool(value.isfinite().all()) for value in load_checkpoint(saved)[0].values())

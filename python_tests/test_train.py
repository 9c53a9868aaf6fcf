"""The train and evaluate commands: what a run leaves, how it ends, goes on and repeats itself."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import (
    LEARNT,
    command,
    evaluate_here,
    final_tensors,
    one_line,
    run,
    summary,
    train_here,
)
from runs import FLAGS

from irecgan_ext.training.checkpoint import latest_checkpoint, load_checkpoint
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.summary import read_config

LONGER = ("--adversarial.epochs", "25")  # seconds of work, to be stopped in the middle


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
    counts = {
        "pretrain_user": 3,
        "pretrain_agent": 3,
        "logging_policy": 3,
        "pretrain_discriminator": 2,
        "adversarial": 4,
    }
    assert [(r["phase"], r["unit"]) for r in lines] == [(p, i) for p, n in counts.items() for i in range(n)]
    assert [r["step"] for r in lines] == list(range(1, 16))


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
    one_line(done.stderr.decode(), "step-00000012.safetensors: cannot write: File too large")
    saved = latest_checkpoint(out / "checkpoints")
    assert saved is not None
    assert saved.name == "step-00000011.safetensors"
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

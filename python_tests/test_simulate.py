"""The simulate command as a process, and the exit statuses that command lines share."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from irecgan_ext import cli
from irecgan_ext.data.sessions import load_log
from irecgan_ext.errors import LogError, UsageError, checking_arguments
from irecgan_ext.simulate import SimulateOptions, main
from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.types import END


def simulate(*args: str | Path | float) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "irecgan_ext.simulate", *map(str, args)]
    return subprocess.run(command, capture_output=True)


def simulate_here(*args: str | Path | float) -> int:
    return cli.run_command(main, SimulateOptions, prog="simulate", args=[str(arg) for arg in args])


def test_log_matches_the_options(tmp_path: Path) -> None:
    out, mdp = tmp_path / "log.parquet", tmp_path / "users.safetensors"
    shape = ("--states", 3, "--items", 12, "--slate-size", 4, "--max-steps", 5)
    done = simulate("--out", out, "--mdp", mdp, "--sessions", 57, "--policy", "max", *shape)
    assert done.returncode == 0
    assert done.stderr == b""
    log = load_log(out)
    sessions = log.trajectories
    assert (len(sessions), log.items, sessions.slate_size) == (57, 12, 4)
    assert sessions.horizon <= 5
    assert log.metadata == {"policy": "max", "seed": 0, "max_steps": 5, "mdp": {"states": 3, "file": str(mdp)}}
    mask = sessions.step_mask()
    best = MDP.load(mdp).ranking[:, :4]
    assert torch.equal(sessions.slates[mask], best[sessions.states[mask]])
    assert torch.equal(sessions.rewards[mask], (sessions.clicks[mask] != END).float())
    table = done.stdout.decode()
    assert f"57 ({int(sessions.censored.sum())} censored)" in table
    assert f"{int(sessions.lengths.sum())}" in table
    assert f"{sessions.returns().mean():.3f}" in table
    assert f"{sessions.lengths.double().mean():.3f}" in table


def test_same_seed_same_bytes_and_the_mdp_is_used_again(tmp_path: Path) -> None:
    mdp = tmp_path / "users.safetensors"
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        args = ("--out", tmp_path / name, "--mdp", mdp, "--sessions", 20, "--seed", seed, "--policy", "mix")
        assert simulate_here(*args) == 0
        if name == "a":
            users = mdp.read_bytes()
    assert mdp.read_bytes() == users
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_log_on_standard_output(tmp_path: Path) -> None:
    assert simulate_here("--out", tmp_path / "log", "--sessions", 9) == 0
    piped = simulate("--out", "-", "--sessions", 9)
    assert piped.returncode == 0
    assert piped.stdout == (tmp_path / "log").read_bytes()
    assert b"mean reward" in piped.stderr


def test_users_of_the_authors(tmp_path: Path) -> None:
    (tmp_path / "score.txt").write_text("0.5 0.5\n")
    (tmp_path / "prob.txt").write_text("1.0\n1.0\n==\n")
    out = tmp_path / "log.parquet"
    assert simulate_here("--out", out, "--mdp", tmp_path, "--slate-size", 1, "--sessions", 5) == 0
    assert load_log(out).items == 2


BAD = {
    "sessions": (("--sessions", 0), "sessions must be at least 1, got 0"),
    "slate size": (("--slate-size", 51), "slate_size must be in 1..C (C = 50), got 51"),
    "seed": (("--seed", -1), "seed must not be negative, got -1"),
    "max steps": (("--max-steps", 0), "max_steps must be at least 1 or None, got 0"),
    "temperature": (("--transition-temperature", 0), "transition_temperature must be positive, got 0.0"),
    "damaged MDP": (("--mdp", "damaged"), "damaged: not a saved MDP"),
    "MDP directory": (("--mdp", "absent/users"), "absent/users: cannot write: No such file or directory"),
    "log directory": (("--out", "absent/log"), "absent/log: cannot write: No such file or directory"),
    "log is a directory": (("--out", "."), ".: cannot write: Is a directory"),
    "not the authors' files": (("--mdp", "."), "score.txt: cannot be read: No such file or directory"),
}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("args", "message"), BAD.values(), ids=BAD.keys())
def test_bad_options_end_in_one_line(
    directory: Path, capsys: pytest.CaptureFixture[str], args: tuple, message: str
) -> None:
    (directory / "damaged").write_bytes(b"not safetensors")
    out = () if "--out" in args else ("--out", "log")
    assert simulate_here(*out, "--sessions", 3, *args) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert [path.name for path in directory.iterdir()] == ["damaged"]


def test_bad_option_of_a_process(tmp_path: Path) -> None:
    done = simulate("--out", tmp_path / "log", "--sessions", 0)
    assert (done.returncode, done.stderr) == (2, b"error: sessions must be at least 1, got 0\n")


@pytest.mark.parametrize("args", [(), ("--out", "log", "--policy", "best"), ("--out", "log", "--bogus"), ("log",)])
def test_wrong_flags_end_with_status_2(
    directory: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    assert simulate_here(*args) == 2
    assert "help" in capsys.readouterr().err
    assert not list(directory.iterdir())


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate_here("--help") == 0
    shown = capsys.readouterr().out
    for word in ("--out", "--policy", "--sessions", "--mdp", "--transition-temperature", "standard output"):
        assert word in shown


def test_full_disk_and_closed_pipe() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "irecgan_ext.simulate", "--out", "-", "--sessions", "3"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == b"error: standard output: cannot write: No space left on device\n"
    closed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert closed.stdout is not None
    assert closed.stderr is not None
    closed.stdout.close()
    assert closed.stderr.read() == b""
    assert closed.wait() == 1
    closed.stderr.close()


@dataclass(frozen=True)
class Options:
    value: int = 1
    """A value."""


def run(error: BaseException | None, *args: str) -> int:
    def fail(options: Options) -> None:
        if error is not None:
            raise error

    return cli.run_command(fail, Options, prog="program", args=args)


def test_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    for error, status, text in (
        (None, 0, ""),
        (LogError("log: row 3:\nbad"), 2, "error: log: row 3: bad\n"),
        (FileNotFoundError(2, "No such file or directory", "x"), 2, "error: x: No such file or directory\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ):
        assert run(error) == status
        assert capsys.readouterr().err == text
    assert run(None, "--value", "x") == 2


@pytest.mark.parametrize("error", [ValueError("a defect"), KeyError("k"), OSError("unknown")])
def test_defects_keep_their_trace(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(error)


def test_value_errors_of_arguments_become_usage_errors() -> None:
    with pytest.raises(UsageError, match="k must be positive"), checking_arguments():
        raise ValueError("k must be positive")
    with pytest.raises(LogError), checking_arguments():
        raise LogError("log: bad")
    with pytest.raises(TypeError), checking_arguments():
        raise TypeError

"""One configuration trained and evaluated in this process, and the commands on methods other than the default."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from runs import FLAGS, tiny_config, tiny_log

from irecgan_ext import cli, evaluate, train
from irecgan_ext.data.sessions import write_sessions
from irecgan_ext.errors import Interrupted, UsageError
from irecgan_ext.training.config import MethodName, TrainConfig
from irecgan_ext.training.job import train_and_evaluate
from irecgan_ext.training.methods import METHODS, TITLES
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.summary import read_config

MARKS = ["random", "log", "counts", "belief", "oracle"]


def tiny(out: Path, method: MethodName) -> TrainConfig:
    return replace(tiny_config(), out=out, method=method, log_sessions=60, slate_size=3, threads=1, device="cpu")


def test_it_returns_what_it_writes(tmp_path: Path) -> None:
    config, called = tiny(tmp_path, "pgis"), []
    summary = train_and_evaluate(config, after_training=called.append)
    assert called == [tmp_path]
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == ["seed", "preset", "device", "version", "commit", "seconds", "results"]
    assert set(summary["seconds"]) == {"logging_policy", "pgis", "evaluate", "total"}
    assert list(summary["results"]) == [*MARKS[:3], "pgis", *MARKS[3:]]
    assert read_config(tmp_path) == config


def test_it_repeats_itself_and_goes_on(tmp_path: Path) -> None:
    """Stopped after training, before its evaluation, the same job resumed has the same results."""
    whole = train_and_evaluate(tiny(tmp_path / "whole", "ac"))

    def stop(directory: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="interrupted; go on with --resume"):
        train_and_evaluate(tiny(tmp_path / "parts", "ac"), after_training=stop)
    assert not (tmp_path / "parts/summary.json").exists()
    again = train_and_evaluate(tiny(tmp_path / "parts", "ac"), resume=True)
    assert again["results"] == whole["results"]


def test_an_online_job_lists_its_turns(tmp_path: Path) -> None:
    summary = train_and_evaluate(tiny(tmp_path, "pg-online"))
    turns = summary["online"]
    assert [turn["turn"] for turn in turns] == [1, 2, 3]
    assert [turn["sessions"] for turn in turns] == [10, 20, 30]
    for turn, record in zip(turns, read_metrics(tmp_path)):
        assert turn["coverage_1"] == record["coverage_1"]
    assert list(summary["results"]) == [*MARKS[:3], "pg-online", *MARKS[3:]]


def test_an_online_job_needs_users(tmp_path: Path) -> None:
    write_sessions(tmp_path / "log.parquet", replace(tiny_log(), states=None), 12, {})
    config = replace(tiny(tmp_path / "run", "pg-online"), data=str(tmp_path / "log.parquet"))
    with pytest.raises(
        UsageError, match="^--method pg-online needs simulated users: pass --mdp, or a log that names them$"
    ):
        train_and_evaluate(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["lstm", "pg", "acu", "pg-online-offline"])
def test_the_commands_on_other_methods(tmp_path: Path, method: MethodName, capsys: pytest.CaptureFixture[str]) -> None:
    """A table with the method's rows, a plot, and the same table again from `evaluate`."""
    online = ("--online.iterations", "2", "--online.sessions", "12", "--online.evaluation-sessions", "20")
    args = ["--method", method, "--out", str(tmp_path / "run"), *FLAGS, *online]
    assert cli.run_command(train.main, TrainConfig, prog="train", args=args) == 0
    shown = capsys.readouterr().out
    for row in METHODS[method].policies:
        assert f"\n{TITLES[row]} " in shown
    assert len(shown.splitlines()) == 2 + 5 + len(METHODS[method].policies)
    assert (tmp_path / "run/training.png").read_bytes().startswith(b"\x89PNG")
    options = evaluate.EvaluateOptions
    assert cli.run_command(evaluate.main, options, prog="evaluate", args=[str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == shown


def test_an_unknown_method_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--method", "magic", "--out", str(tmp_path / "run"), *FLAGS]
    assert cli.run_command(train.main, TrainConfig, prog="train", args=args) == 2
    assert "magic" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

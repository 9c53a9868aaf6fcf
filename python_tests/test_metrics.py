"""Metrics files: round trips, resumption, damage; progress lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from irecgan_ext.errors import LogError
from irecgan_ext.training import progress
from irecgan_ext.training.metrics import MetricsWriter, read_metrics
from irecgan_ext.training.progress import Progress

VALUES = st.dictionaries(st.sampled_from(["d_loss", "ll_valid", "q_mean"]), st.floats(width=64), max_size=3)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, max_size=4))
def test_round_trip(tmp_path: Path, values: list[dict[str, float]]) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step, numbers in enumerate(values):
            writer.write("r_step", step, step + 1, numbers)
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records] == list(range(1, len(values) + 1))
    for record, numbers in zip(records, values, strict=True):
        assert record["phase"] == "r_step"
        assert record["unit"] == record["step"] - 1
        assert record["wall"] >= 0
        for name, number in numbers.items():
            assert record[name] == number if math.isfinite(number) else math.isnan(record[name])


def test_each_line_is_strict_json_and_visible_at_once(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write("d_step", 0, 1, {"d_loss": torch.tensor(0.5), "q_mean": math.nan})

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        record = json.loads(writer.path.read_text(), parse_constant=refuse)
        assert record["d_loss"] == 0.5
        assert record["q_mean"] is None
        with pytest.raises(ValueError, match="values must not be named phase, unit, step, wall, got unit"):
            writer.write("d_step", 0, 1, {"unit": 3})
    assert len(read_metrics(tmp_path / "run")) == 1


def scalars(directory: Path) -> dict[int, float]:
    events = EventAccumulator(str(directory)).Reload()
    return {event.step: event.value for event in events.Scalars("r_step/q_mean")}


def test_resumed_run_repeats_no_record(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 8):
            writer.write("r_step", step - 1, step, {"q_mean": step})
    kept = writer.path.read_text().splitlines()[:4]
    with open(writer.path, "a") as stream:
        stream.write('{"phase": "r_step", "un')
    assert len(read_metrics(tmp_path)) == 7
    with MetricsWriter(tmp_path, resume_at=4) as writer:
        assert writer.path.read_text().splitlines() == kept
        for step in range(5, 9):
            writer.write("r_step", step - 1, step, {"q_mean": 10 * step})
    records = read_metrics(tmp_path)
    assert [r["q_mean"] for r in records] == [1, 2, 3, 4, 50, 60, 70, 80]
    assert [r["wall"] for r in records] == sorted(r["wall"] for r in records)
    assert scalars(tmp_path) == {r["step"]: r["q_mean"] for r in records}


def test_fresh_run_starts_empty_files(tmp_path: Path) -> None:
    for value, steps in ((1.0, 3), (2.0, 1)):
        with MetricsWriter(tmp_path) as writer:
            for step in range(1, steps + 1):
                writer.write("r_step", 0, step, {"q_mean": value})
    assert [r["q_mean"] for r in read_metrics(tmp_path)] == [2.0]
    assert scalars(tmp_path) == {1: 2.0}


def test_resume_without_a_file(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, resume_at=3) as writer:
        writer.write("r_step", 0, 4, {})
    assert [r["step"] for r in read_metrics(writer.path)] == [4]


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(LogError, match=r"metrics\.jsonl: No such file or directory"):
        read_metrics(path)
    good = '{"phase": "r", "unit": 0, "step": 1, "wall": 0.5}\n'
    for bad, message in {"{": "not JSON", "[]": "must be a JSON object, got list", "{}": "phase is missing"}.items():
        path.write_text(good + bad + "\n" + good)
        with pytest.raises(LogError, match=rf"metrics\.jsonl: line 2: {message}") as error:
            read_metrics(path)
        assert "\n" not in str(error.value)
    path.write_text(good.replace("1", '"1"'))
    with pytest.raises(LogError, match="line 1: step must be a number, got '1'"):
        MetricsWriter(tmp_path, resume_at=1)
    path.write_bytes(b"\xff\n")
    with pytest.raises(LogError, match="line 1: not JSON"):
        read_metrics(path)


def test_progress_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pre-train user model", 5, unit="epoch", done=2) as bar:
        bar.update({"loss": 3.0})
        bar.update({"loss": 2.5}, 2)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "pre-train user model: started at epoch 2 of 5"
    assert last.startswith("pre-train user model: finished at epoch 5 of 5 after ")
    assert last.endswith(", loss 2.5")
    with pytest.raises(KeyError), Progress("d-steps", 5) as bar:
        raise KeyError
    assert "d-steps: stopped at batch 0 of 5 after" in capsys.readouterr().err
    with Progress("quiet", 5, quiet=True) as bar:
        bar.update({"loss": 3.0})
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("r-steps", 3) as bar:
        bar.update({"q": 0.25}, 3)
    shown = capsys.readouterr().err
    assert "r-steps: 100%" in shown
    assert "3/3" in shown
    assert "q=0.25" in shown

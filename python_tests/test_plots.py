"""Figures: written, not blank, tolerant of what a run did not measure."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from irecgan_ext import plots
from irecgan_ext.errors import LogError
from irecgan_ext.training.metrics import MetricsWriter


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG")
    return imread(path)[..., :3]


def has_colour(image: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return bool((np.abs(image - wanted).max(-1) < 0.01).any())


def write(directory: Path, records: list[tuple[str, dict[str, float]]]) -> Path:
    with MetricsWriter(directory) as writer:
        for step, (phase, values) in enumerate(records):
            writer.write(phase, step, step + 1, values)
    return writer.path


def test_training_with_every_series(tmp_path: Path) -> None:
    records = [("pretrain_user", {"ll_train": -5 + 0.1 * i, "ll_valid": -5.0}) for i in range(5)]
    for i in range(4):
        records += [("r_step", {"agent_return": 2 + 0.1 * i, "q_mean": 0.4}), ("d_step", {"d_loss": 0.7})]
    records += [("d_step", {"d_accuracy_real": 0.5, "d_accuracy_generated": 0.6})]
    records += [("pretrain_agent", {"loss": 3.0, "loss_valid": 3.1, "critic_loss": 2.0})]
    records += [("online", {"reward": 2.0, "greedy_reward": 2.5, "coverage_1": 0.2, "coverage_10": 0.3})]
    assert {name for _, values in records for name in values} == set(plots.SERIES)
    plots.plot_training(write(tmp_path, records), tmp_path / "all.png")
    image = pixels(tmp_path / "all.png")
    assert has_colour(image, plots._COLOURS[0])
    assert has_colour(image, plots._COLOURS[1])
    assert has_colour(image, plots._TINTS[0])
    assert has_colour(image, plots._TINTS[1])
    plots.plot_training(write(tmp_path / "few", records[:5]), tmp_path / "few.png")
    assert pixels(tmp_path / "few.png").size < image.size


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], [math.nan, 2.0, math.inf]])
def test_training_with_little_to_show(tmp_path: Path, values: list[float]) -> None:
    path = write(tmp_path, [("d_step", {"d_loss": value, "unknown": 3.0}) for value in values])
    plots.plot_training(path.parent, tmp_path / "figure.png")
    assert has_colour(pixels(tmp_path / "figure.png"), plots._COLOURS[0])


def test_training_with_nothing_to_show(tmp_path: Path) -> None:
    path = write(tmp_path, [("d_step", {"unknown": 3.0, "d_loss": math.nan})])
    with pytest.raises(LogError, match=r"metrics\.jsonl: nothing to plot"):
        plots.plot_training(path, tmp_path / "figure.png")
    with pytest.raises(LogError, match="No such file"):
        plots.plot_training(tmp_path / "absent.jsonl", tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()


def test_phases_that_take_turns_are_one_segment() -> None:
    records = [{"phase": phase, "step": step} for step, phase in enumerate(["a", "a", "b", "r", "d", "r", "d"])]
    assert plots._segments(records) == [(("a",), 0, 1), (("b",), 2, 2), (("r", "d"), 3, 6)]


def test_results(tmp_path: Path) -> None:
    summary = {
        "PG": {"reward": 2.7, "interval": (2.5, 3.1)},
        "IRecGAN": {"reward": 3.4, "interval": 0.1},
        "LSTM": {"reward": 2.9},
        "oracle": {"reward": 12.0, "mark": True},
    }
    plots.plot_results(summary, tmp_path / "marks.png")
    image = pixels(tmp_path / "marks.png")
    assert has_colour(image, plots._COLOURS[0])
    assert has_colour(image, plots._COLOURS[1])
    del summary["oracle"]
    plots.plot_results(summary, tmp_path / "bars.png")
    assert not has_colour(pixels(tmp_path / "bars.png"), plots._COLOURS[1])


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ({}, "summary must hold a method that is not a mark"),
        ({"oracle": {"reward": 1.0, "mark": True}}, "summary must hold a method that is not a mark"),
        ({"PG": {"reward": math.nan}}, "reward of PG must be finite, got nan"),
    ],
)
def test_bad_results(tmp_path: Path, summary: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.plot_results(summary, tmp_path / "figure.png")


def test_matplotlib_is_loaded_only_to_draw() -> None:
    program = "import sys, irecgan_ext.plots; print([m for m in sys.modules if 'matplotlib' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == []

"""The cell of most grids: one run of irecgan_ext.train, whose results hold several methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from irecgan_ext.evaluation.online import MARKS
from irecgan_ext.experiments.cells import Cell, Row
from irecgan_ext.experiments.options import train_config
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.training.job import train_and_evaluate
from irecgan_ext.training.summary import CONFIG_FILE

FUNCTION = "irecgan_ext.experiments.training_cell:run"


def task(preset: str, flags: list[str], methods: Mapping[str, str]) -> dict[str, Any]:
    """What `run` needs to know.

    Args:
        preset, flags: of irecgan_ext.train.
        methods: rows of the run's results to keep -> their names in the experiment.
    """
    return {"preset": preset, "flags": flags, "methods": dict(methods)}


def run(cell: Cell, directory: Path) -> list[Row]:
    """Train and evaluate; a run that was interrupted in `directory` goes on."""
    config = cell_config(cell, directory)
    results = train_and_evaluate(config, resume=(directory / CONFIG_FILE).exists())["results"]
    return [
        Row(cell.configuration, name, cell.seed, metric, value)
        for method, name in cell.task["methods"].items()
        for metric, value in metrics(results[method])
    ]


def cell_config(cell: Cell, directory: Path) -> TrainConfig:
    """The configuration of the cell's run, in `directory`."""
    config = train_config(cell.task["preset"], cell.task["flags"])
    return replace(config, seed=cell.seed, out=directory, threads=1, quiet=True)


def metrics(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """A row of `evaluate_methods` as metrics: reward, reward_sampled, coverage_1, ..., coverage_10."""
    yield "reward", result["reward"]["mean"]
    if "sampled" in result:
        yield "reward_sampled", result["sampled"]["reward"]["mean"]
    for depth, value in result.get("coverage", {}).items():
        yield f"coverage_{depth}", value


MARK_METHODS = {name: name for name in MARKS}
"""The marks, under their own names."""

"""Table 1 on a prepared log at a tiny size."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from ragged_logs import write_prepared_by_hand
from test_experiments import TINY

from irecgan_ext.errors import UsageError
from irecgan_ext.evaluation.rerank import BASELINES
from irecgan_ext.experiments import table1
from irecgan_ext.experiments.cells import CellResult
from irecgan_ext.experiments.options import ExperimentOptions
from irecgan_ext.experiments.report import write_report

METHODS = {"lstm", "lstmd", "pg", "pgis", "ac", "pgu", "acu", "irecgan"}


@pytest.fixture
def options(tmp_path: Path) -> ExperimentOptions:
    write_prepared_by_hand(tmp_path / "mylog")
    return ExperimentOptions(
        "table1", seeds=2, data=tmp_path / "mylog", out=tmp_path / "out", train_flags=TINY, jobs=1, sessions=40
    )


def test_the_grid_trains_every_method_of_the_paper(options: ExperimentOptions) -> None:
    options.check()
    grid = table1.grid(options)
    rows = [row for cell in grid.cells if cell.seed == 1 for row in cell.task["methods"]]
    assert sorted(rows) == sorted(METHODS) == sorted(table1.PAPER)
    assert {cell.configuration for cell in grid.cells} == {"mylog"}
    assert [cell.task["once"] for cell in grid.cells] == [True] * 5 + [False] * 5
    for cell in grid.cells:
        assert table1.training_cell.cell_config(cell, Path("x")).method == cell.job


def test_runs_and_report(options: ExperimentOptions, tmp_path: Path) -> None:
    cells = [cell for cell in table1.grid(options).cells if cell.job in ("irecgan", "pgis")]
    results = []
    for cell in cells:
        (tmp_path / "work" / cell.name).mkdir(parents=True)
        rows = table1.run(cell, tmp_path / "work" / cell.name)
        results.append(CellResult(cell, tuple(rows), 1.0, "commit", "machine"))
    (tmp_path / "out").mkdir()
    text = write_report(table1.EXPERIMENT, results, tmp_path / "out", options.command())
    lines = {line.split(" | ")[0].strip("| *"): line.strip("| ").split(" | ") for line in text.splitlines()[2:]}
    head = lines["method"]
    assert lines["IRecGAN"][head.index("P@10, paper")] == "35.06"
    assert lines["LSTM"][head.index("P@1, paper")] == "8.20"
    assert "±" in lines["PGIS"][head.index("P@10")] and "±" not in lines["chance"][head.index("P@10")]
    assert set(BASELINES.values()) < set(lines)
    with open(tmp_path / "out/results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for name in ("lstm", "lstmd", "pg", "irecgan", "pgis"):
        values = [row for row in rows if (row["method"], row["metric"]) == (name, "p@10")]
        assert [row["seed"] for row in values] == ["0", "1"]
        assert all(0 <= float(row["value"]) <= 100 for row in values)
    assert "--data" in (tmp_path / "out/README.md").read_text()


def test_wrong_options(options: ExperimentOptions, tmp_path: Path) -> None:
    for data, message in ((None, "table1 needs --data DIR"), (tmp_path, "is not a directory that irecgan_ext.prepare")):
        with pytest.raises(UsageError, match=message):
            table1.grid(replace(options, data=data))
    with pytest.raises(UsageError, match="--data: figure2 makes its own logs"):
        replace(options, experiment="figure2").check()

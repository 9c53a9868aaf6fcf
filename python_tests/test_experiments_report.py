"""Tables of an experiment against numbers computed by hand."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from irecgan_ext.experiments.cells import Cell, CellResult, Grid, Row
from irecgan_ext.experiments.options import Column, Experiment, ExperimentOptions
from irecgan_ext.experiments.report import markdown, sorted_rows, table_csv, write_report
from irecgan_ext.experiments.statistics import Estimate, Table, estimate, t95

# Three seeds; IRecGAN minus LSTM: 1, 2, 3, whose standard deviation is 1. belief - random is 4, 2, 4.
REWARDS = {"random": (1, 2, 1), "lstm": (2, 1, 3), "irecgan": (3, 3, 6), "belief": (5, 4, 5)}


def drawn(rows: Sequence[Row], out_png: Path) -> None:
    out_png.write_bytes(str(len(rows)).encode())


def nothing(options: ExperimentOptions) -> Grid:
    return Grid("test", "", {}, ())


EXPERIMENT = Experiment(
    title="A title",
    about="What it is.",
    titles={"random": "random", "lstm": "LSTM", "irecgan": "IRecGAN", "belief": "belief"},
    columns=(Column("reward", "reward", decimals=3, paired=True), Column("reward_sampled", "sampled", decimals=1)),
    grid=nothing,
    draw=drawn,
)


def rows(configuration: str = "random(9)") -> list[Row]:
    found = [
        Row(configuration, method, seed, "reward", float(value))
        for seed in range(3)
        for method, values in REWARDS.items()
        for value in values[seed : seed + 1]
    ]
    return [*found, Row(configuration, "lstm", 0, "reward_sampled", 0.25)]


@pytest.mark.parametrize(
    ("freedom", "point"), [(1, 12.706), (4, 2.776), (30, 2.042), (31, 2.0395), (40, 2.0211), (120, 1.9799)]
)
def test_points_of_t(freedom: int, point: float) -> None:
    assert t95(freedom) == pytest.approx(point, abs=1e-4)


def test_interval_by_hand() -> None:
    """Mean 4, squares 4 + 0 + 4 over two degrees of freedom: deviation 2, half width 4.303 * 2 / sqrt(3)."""
    found = estimate([2.0, 4.0, 6.0])
    assert found.mean == 4
    assert found.half == pytest.approx(4.303 * 2 / math.sqrt(3))
    assert found.text(1) == "4.0 ± 5.0"
    assert estimate([3.0]) == Estimate(3.0, math.inf)
    assert estimate([3.0]).text(2, signed=True) == "+3.00"
    with pytest.raises(ValueError, match="^values must hold at least one number, got 0$"):
        estimate([])
    with pytest.raises(ValueError, match="^freedom must be at least 1, got 0$"):
        t95(0)


def test_differences_are_paired_by_seed() -> None:
    table = Table(rows())
    gap = table.difference("random(9)", "lstm", "irecgan", "reward")
    assert gap is not None
    assert gap.mean == pytest.approx(-2)
    assert gap.half == pytest.approx(4.303 / math.sqrt(3))  # much less than unpaired: both methods vary by seed
    only = Table([*rows()[:-1], Row("random(9)", "pg", 2, "reward", 7.0)])
    assert only.difference("random(9)", "pg", "irecgan", "reward") == Estimate(1.0, math.inf)
    assert only.difference("random(9)", "pg", "irecgan", "coverage_1") is None


def test_share_of_the_way_is_the_mean_over_seeds() -> None:
    share = Table(rows()).share("random(9)", "irecgan", "random", "belief", "reward")
    assert share is not None
    each = [2 / 4, 1 / 2, 5 / 4]
    assert share.mean == pytest.approx(sum(each) / 3)
    assert share.half == pytest.approx(4.303 * math.sqrt(2 * 0.25**2 + 0.5**2) / math.sqrt(2) / math.sqrt(3))


def test_markdown() -> None:
    assert markdown(EXPERIMENT, Table(sorted_rows(EXPERIMENT, rows()))) == (
        "### random(9)\n"
        "\n"
        "| method | reward | difference | sampled |\n"
        "| --- | --- | --- | --- |\n"
        "| random | 1.333 ± 1.434 | -2.667 ± 5.172 |  |\n"
        "| LSTM | 2.000 ± 2.484 | -2.000 ± 2.484 | 0.2 |\n"
        "| **IRecGAN** | 4.000 ± 4.303 |  |  |\n"
        "| belief | 4.667 ± 1.434 | +0.667 ± 3.795 |  |\n"
        "\n"
        "### Share of the way from random to belief\n"
        "\n"
        "| method | random(9) |\n"
        "| --- | --- |\n"
        "| LSTM | 8 ± 129 % |\n"
        "| **IRecGAN** | 75 ± 108 % |"
    )


def test_table_csv() -> None:
    header, lines = table_csv(EXPERIMENT, Table(sorted_rows(EXPERIMENT, rows())))
    assert header == ["configuration", "method", "metric", "seeds", "mean", "ci95", "difference", "difference_ci95"]
    line = next(line for line in lines if line[1:3] == ["lstm", "reward"])
    assert line[:5] == ["random(9)", "lstm", "reward", "3", "2"]
    assert [float(cell) for cell in line[5:]] == pytest.approx([4.303 / math.sqrt(3), -2, 4.303 / math.sqrt(3)])
    single = next(line for line in lines if line[2] == "reward_sampled")
    assert single[3:] == ["1", "0.25", "", "", ""]
    own = next(line for line in lines if line[1] == "irecgan")
    assert own[6:] == ["", ""]


def test_the_same_number_twice_must_agree() -> None:
    found = rows()
    assert sorted_rows(EXPERIMENT, [*found, found[0]]) == sorted_rows(EXPERIMENT, found)
    with pytest.raises(ValueError, match="^results must agree, got"):
        sorted_rows(EXPERIMENT, [*found, found[0]._replace(value=9.0)])


def test_the_files_of_a_report(tmp_path: Path) -> None:
    cells = [Cell("random(9)", "irecgan", seed, {}) for seed in range(3)]
    results = [
        CellResult(cell, tuple(row for row in rows() if row.seed == cell.seed), 1800.0, "abc", "a machine, 2 cores")
        for cell in cells
    ]
    text = write_report(EXPERIMENT, results, tmp_path, "python -m this --seeds 3")
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "table.csv", "figure.png", "README.md"}
    with open(tmp_path / "results.csv", newline="") as stream:
        lines = list(csv.reader(stream))
    assert lines[0] == ["configuration", "method", "seed", "metric", "value"]
    assert {Row(c, m, int(s), metric, float(v)) for c, m, s, metric, v in lines[1:]} == set(rows())
    assert len(lines) == 1 + len(rows())
    assert (tmp_path / "figure.png").read_bytes() == b"13"
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# A title\n\nWhat it is.\n\n```\npython -m this --seeds 3\n```\n\n* commit abc\n")
    assert "* machine: a machine, 2 cores\n* 1.50 hours of work, one thread each, in 3 runs; seeds 0, 1, 2\n" in page
    assert page.endswith(text + "\n")

"""Table 1: every method reranks the lists of a real log's test sessions (section 7.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from irecgan_ext.data.packed_log import is_prepared
from irecgan_ext.errors import UsageError
from irecgan_ext.evaluation.rerank import BASELINES, COLUMNS
from irecgan_ext.experiments import training_cell
from irecgan_ext.experiments.cells import Cell, Grid, Row
from irecgan_ext.experiments.figures import INK, error_bar
from irecgan_ext.experiments.options import Column, Experiment, ExperimentOptions
from irecgan_ext.experiments.statistics import Table
from irecgan_ext.plots import drawing
from irecgan_ext.training.job import train_and_evaluate
from irecgan_ext.training.methods import TITLES
from irecgan_ext.training.summary import CONFIG_FILE

# Table 1 of the paper, on DIGINETICA: P@10 and P@1 in percent.
PAPER = {
    "lstm": (32.89, 8.20),
    "lstmd": (33.42, 8.55),
    "pg": (33.28, 6.25),
    "pgis": (28.13, 4.61),
    "ac": (31.93, 6.54),
    "pgu": (34.12, 6.44),
    "acu": (32.43, 6.63),
    "irecgan": (35.06, 6.79),
}
JOBS = {"irecgan": ("lstm", "lstmd", "pg", "irecgan"), **{name: (name,) for name in ("pgis", "ac", "pgu", "acu")}}
"""Rows that each training run leaves: LSTM and PG are IRecGAN's pre-trained models, LSTMD is its user model."""
FUNCTION = "irecgan_ext.experiments.table1:run"
COLOURS = {"p@10": "#1f5f99", "p@1": "#d1731c"}


def grid(options: ExperimentOptions) -> Grid:
    """Five training runs per seed, on the log of `--data`.

    Raises:
        UsageError: `--data` is missing or no prepared directory.
    """
    if options.data is None:
        raise UsageError("table1 needs --data DIR, a directory that irecgan_ext.prepare wrote")
    if not is_prepared(options.data):
        raise UsageError(f"--data: {options.data} is not a directory that irecgan_ext.prepare wrote")
    name = options.data.resolve().name
    options.chosen([name])
    cells = []
    for seed in options.seed_range:
        for job, rows in JOBS.items():
            flags = options.flags("--data", str(options.data.resolve()), "--method", job)
            task = training_cell.task(options.preset, flags, {row: row for row in rows})
            cells.append(Cell(name, job, seed, task | {"once": seed == options.first_seed}))
    return Grid("table1", FUNCTION, options.settings(), tuple(cells))


def run(cell: Cell, directory: Path) -> list[Row]:
    """Train and rerank; a run that was interrupted in `directory` goes on.

    What does not depend on the seed, the baselines and the paper's numbers, is told once.
    """
    config = training_cell.cell_config(cell, directory)
    found = train_and_evaluate(config, resume=(directory / CONFIG_FILE).exists())["rerank"]["methods"]
    kept = [*cell.task["methods"], *(BASELINES if cell.task["once"] and cell.job == "irecgan" else ())]
    values = [(name, metric, value) for name in kept if name in found for metric, value in metrics(found[name])]
    if cell.task["once"]:
        for name in cell.task["methods"]:
            values += [(name, "paper_p@10", PAPER[name][0]), (name, "paper_p@1", PAPER[name][1])]
    return [Row(cell.configuration, name, cell.seed, metric, value) for name, metric, value in values]


def metrics(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """A row of `evaluation.rerank` as metrics, in percent: p@1, ..., p@1_longer, p@10_longer."""
    for name in COLUMNS:
        yield name, 100 * row[name]
    for name, value in row["longer"].items():
        if value is not None:
            yield f"{name}_longer", 100 * value


def draw(rows: Sequence[Row], out_png: Path) -> None:
    """P@10 and P@1 of every method, with intervals; the paper's as crosses."""
    table = Table(rows)
    with drawing(out_png, 1, 2, (9.5, 3.8)) as (figure, axes):
        for axis, (metric, colour) in zip(axes, COLOURS.items(), strict=True):
            name = table.configurations[0]
            methods = [m for m in EXPERIMENT.titles if table.has(name, m, metric)]
            for place, method in enumerate(methods):
                mean = table.mean(name, method, metric)
                axis.bar(place, mean.mean, 0.7, color=colour if method in PAPER else "#bbbbbb")
                error_bar(axis, place, mean)
            printed = [
                (place, table.mean(name, m, f"paper_{metric}").mean) for place, m in enumerate(methods) if m in PAPER
            ]
            axis.plot(*zip(*printed), "x", color=INK, markersize=5, label="the paper's, on DIGINETICA")
            titles = [EXPERIMENT.titles[m] for m in methods]
            axis.set_xticks(range(len(methods)), titles, rotation=60, ha="right", fontsize=7)
            axis.set_title(f"{metric.upper()} (%), every step", loc="left")
            axis.set_ylim(bottom=0)
            axis.grid(axis="x", visible=False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", frameon=False)


EXPERIMENT = Experiment(
    title="Table 1: reranking the lists of a real log",
    about=(
        "Every method reranks the list shown at each step of the test sessions, and the item clicked is the relevant one. P@1 "
        "and P@10, in percent: the share of steps on which it is among the first 1 or 10; *lists > 10* counts only the steps "
        "whose list is longer than 10, as the authors do. `logged position`, `popularity` (clicks in the training sessions) "
        "and `chance` need no learning. Seeds differ in weights and samples; the log and its split are the same. The last "
        "columns are the paper's, on DIGINETICA: to be compared only where that log is the one above."
    ),
    titles={**BASELINES, **{name: TITLES[name] for name in PAPER}},
    columns=(
        Column("p@10", "P@10", paired=True),
        Column("p@1", "P@1", paired=True),
        Column("mrr", "MRR"),
        Column("ndcg@10", "NDCG@10"),
        Column("p@10_longer", "P@10, lists > 10"),
        Column("p@1_longer", "P@1, lists > 10"),
        Column("paper_p@10", "P@10, paper"),
        Column("paper_p@1", "P@1, paper"),
    ),
    grid=grid,
    draw=draw,
    way=False,
)

"""What a finished grid leaves for readers: results.csv, table.csv, figure.png and a README."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from irecgan_ext.experiments.cells import CellResult, Row
from irecgan_ext.experiments.options import Experiment
from irecgan_ext.experiments.statistics import Estimate, Table
from irecgan_ext.files import atomic_write

RESULTS_FILE, TABLE_FILE, FIGURE_FILE, README_FILE = "results.csv", "table.csv", "figure.png", "README.md"
LOW, HIGH = "random", "belief"  # the way that is told in shares


def write_report(experiment: Experiment, results: Sequence[CellResult], out: Path, command: str) -> str:
    """Write the four files and return the tables as Markdown."""
    rows = sorted_rows(experiment, [row for result in results for row in result.rows])
    table = Table(rows)
    _write(out / RESULTS_FILE, _csv(Row._fields, [(*row[:-1], _number(row.value)) for row in rows]))
    _write(out / TABLE_FILE, _csv(*table_csv(experiment, table)))
    experiment.draw(rows, out / FIGURE_FILE)
    text = markdown(experiment, table)
    _write(out / README_FILE, readme(experiment, results, text, command))
    return text


def sorted_rows(experiment: Experiment, rows: Iterable[Row]) -> list[Row]:
    """Without repetitions (several runs measure the same marks), by configuration as they come, method, seed and metric.

    Raises:
        ValueError: the same number was measured twice, with different values.
    """
    kept: dict[tuple[str, str, int, str], Row] = {}
    for row in rows:
        if kept.setdefault(row[:-1], row).value != row.value:
            raise ValueError(f"results must agree, got {kept[row[:-1]]} and {row}")
    configurations = list(dict.fromkeys(row.configuration for row in kept.values()))
    methods = list(experiment.titles)

    def key(row: Row) -> tuple[int, int, int]:
        return configurations.index(row.configuration), methods.index(row.method), row.seed

    return sorted(kept.values(), key=key)


def table_csv(experiment: Experiment, table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and lines of table.csv: mean, interval and paired difference of every metric."""
    header = ["configuration", "method", "metric", "seeds", "mean", "ci95", "difference", "difference_ci95"]
    lines = []
    for configuration in table.configurations:
        for method in table.methods:
            for metric in table.metrics:
                if not table.has(configuration, method, metric):
                    continue
                count = len(table.values(configuration, method, metric))
                cells = [configuration, method, metric, str(count), *_pair(table.mean(configuration, method, metric))]
                lines.append(cells + _pair(_difference(experiment, table, configuration, method, metric)))
    return header, lines


def markdown(experiment: Experiment, table: Table) -> str:
    """The tables of all configurations, and the shares of the way."""
    parts = [_configuration(experiment, table, name) for name in table.configurations if experiment.in_table(name)]
    if experiment.way and all(table.has(name, LOW, "reward") for name in table.configurations):
        parts.append(_shares(experiment, table))
    return "\n\n".join(parts)


def readme(experiment: Experiment, results: Sequence[CellResult], text: str, command: str) -> str:
    """The page of the experiment's directory."""
    seeds = sorted({result.cell.seed for result in results})
    hours = sum(result.seconds for result in results) / 3600
    facts = [
        f"* commit {', '.join(sorted({result.commit for result in results}))}",
        f"* machine: {'; '.join(sorted({result.machine for result in results}))}",
        f"* {hours:.2f} hours of work, one thread each, in {len(results)} runs; seeds {', '.join(map(str, seeds))}",
    ]
    notes = "Means over seeds with 95% t-intervals."
    if experiment.reference is not None:
        notes += f" Columns of differences: the row's method minus {experiment.titles[experiment.reference]}, paired by seed."
    parts = [
        f"# {experiment.title}",
        experiment.about,
        f"```\n{command}\n```",
        "\n".join(facts),
        f"![{experiment.title}]({FIGURE_FILE})",
        f"{notes} Every number is in {RESULTS_FILE}, every mean in {TABLE_FILE}.",
        text,
    ]
    return "\n\n".join(parts) + "\n"


def _configuration(experiment: Experiment, table: Table, configuration: str) -> str:
    """One configuration's table; columns without a value in it are left out."""
    columns = [c for c in experiment.columns if any(table.has(configuration, m, c.metric) for m in table.methods)]
    heads = ["method"]
    for column in columns:
        heads += [column.title, "difference"] if column.paired and experiment.reference else [column.title]
    lines = [heads, ["---"] * len(heads)]
    for method in table.methods:
        if not any(table.has(configuration, method, column.metric) for column in columns):
            continue
        cells = [_emphasis(experiment, method)]
        for column in columns:
            known = table.has(configuration, method, column.metric)
            mean = table.mean(configuration, method, column.metric) if known else None
            cells.append("" if mean is None else mean.text(column.decimals))
            if column.paired and experiment.reference:
                difference = _difference(experiment, table, configuration, method, column.metric)
                cells.append("" if difference is None else difference.text(column.decimals, signed=True))
        lines.append(cells)
    return f"### {configuration}\n\n" + _lines(lines)


def _shares(experiment: Experiment, table: Table) -> str:
    """How far each method gets from `random` to `belief` in each configuration, by greedy reward."""
    lines = [["method", *table.configurations], ["---"] * (len(table.configurations) + 1)]
    for method in table.methods:
        if method in (LOW, HIGH, "oracle"):
            continue
        shares = [table.share(configuration, method, LOW, HIGH, "reward") for configuration in table.configurations]
        cells = ["" if s is None else f"{Estimate(100 * s.mean, 100 * s.half).text(0)} %" for s in shares]
        lines.append([_emphasis(experiment, method), *cells])
    return "### Share of the way from random to belief\n\n" + _lines(lines)


def _difference(experiment: Experiment, table: Table, configuration: str, method: str, metric: str) -> Estimate | None:
    reference = experiment.reference
    if reference is None or method == reference:
        return None
    return table.difference(configuration, method, reference, metric)


def _emphasis(experiment: Experiment, method: str) -> str:
    title = experiment.titles[method]
    return f"**{title}**" if method == experiment.reference else title


def _lines(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _pair(value: Estimate | None) -> list[str]:
    if value is None:
        return ["", ""]
    return [_number(value.mean), "" if math.isinf(value.half) else _number(value.half)]


def _number(value: float) -> str:
    return f"{value:.10g}"


def _csv(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text.encode())

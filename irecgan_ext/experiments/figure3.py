"""Figure 3: learning in turns with the simulated users, from scratch (section 7.1, "Online Learning")."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from irecgan_ext.experiments import training_cell
from irecgan_ext.experiments.cells import Cell, Grid, Row
from irecgan_ext.experiments.figure2 import PEAKED
from irecgan_ext.experiments.figures import METHOD_COLOURS
from irecgan_ext.experiments.options import Column, Experiment, ExperimentOptions
from irecgan_ext.experiments.statistics import Table
from irecgan_ext.plots import drawing
from irecgan_ext.training.methods import TITLES
from irecgan_ext.training.methods.online import turns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = ("pg-online", "pg-online-offline", "lstm-offline", "irecgan-online")
CONFIGURATIONS = {"online": "", "online peaked": " peaked"}  # -> what follows the turn in the rows' configuration
METRICS = ("reward", "coverage_1", "coverage_10", "greedy_reward", "greedy_coverage_1", "greedy_coverage_10")
PANELS = {"coverage_1": "coverage@1", "coverage_10": "coverage@10"}


def grid(options: ExperimentOptions) -> Grid:
    """One run per method, seed and kind of transitions; each turn is a configuration in the results."""
    cells = []
    for seed in options.seed_range:
        for name in options.chosen(list(CONFIGURATIONS)):
            peaked = ["--transition-temperature", str(PEAKED)] if CONFIGURATIONS[name] else []
            for method in METHODS:
                flags = options.flags("--method", method, *peaked)
                cells.append(Cell(name, method, seed, training_cell.task(options.preset, flags, {})))
    return Grid("figure3", "irecgan_ext.experiments.figure3:run", options.settings(), tuple(cells))


def run(cell: Cell, directory: Path) -> Iterator[Row]:
    """Train online, then read what each turn measured."""
    training_cell.run(cell, directory)
    for turn in turns(directory):
        name = f"turn {turn['turn']}{CONFIGURATIONS[cell.configuration]}"
        for metric in METRICS:
            yield Row(name, cell.job, cell.seed, metric, turn[metric])


def draw(rows: Sequence[Row], out_png: Path) -> None:
    """Coverage@1 and @10 of each turn's online sessions, with 95% bands; a line of panels per kind of transitions."""
    table = Table(rows)
    kinds = [name for name, suffix in CONFIGURATIONS.items() if _turns(table, suffix)]
    with drawing(out_png, len(kinds), len(PANELS), (5.2 * len(PANELS), 3.4 * len(kinds) + 0.4)) as (figure, axes):
        for line, name in enumerate(kinds):
            for column, (metric, title) in enumerate(PANELS.items()):
                axis = axes[line * len(PANELS) + column]
                _panel(axis, table, CONFIGURATIONS[name], metric)
                axis.set_title(f"{title}{CONFIGURATIONS[name]}", loc="left")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _panel(axis: Axes, table: Table, suffix: str, metric: str) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = _turns(table, suffix)
    for method in METHODS:
        means = [table.mean(f"turn {number}{suffix}", method, metric) for number in numbers]
        colour = METHOD_COLOURS[method]
        axis.plot(numbers, [m.mean for m in means], color=colour, linewidth=1.6, label=EXPERIMENT.titles[method])
        if all(math.isfinite(m.half) for m in means):
            low, high = [m.mean - m.half for m in means], [m.mean + m.half for m in means]
            axis.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set_xlabel("turn")
    axis.set_ylim(0, 1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(numbers[0], max(numbers[-1], numbers[0] + 1))


def _turns(table: Table, suffix: str) -> list[int]:
    """The turns of one kind of transitions."""
    names = [name.removesuffix(suffix).split() for name in table.configurations if name.endswith(suffix)]
    return [int(words[1]) for words in names if len(words) == 2]


def _in_table(configuration: str) -> bool:
    """Every fifth turn."""
    return int(configuration.split()[1]) % 5 == 0


EXPERIMENT = Experiment(
    title="Figure 3: online learning",
    about=(
        "Turns of 200 sessions with the simulated users, each followed by offline learning on all sessions so far. Coverage and "
        "reward are of the turn's sessions as they were played; greedy ones of the policy after the turn, its K best items, in "
        "sessions of their own. PG-online learns only as it plays; PG-online&offline also from the gathered log; LSTM-offline "
        "only from the gathered log; IRecGAN also from sessions that its user model generates."
    ),
    titles={**{name: TITLES[name] for name in METHODS}, "irecgan-online": TITLES["irecgan"]},
    columns=(
        Column("coverage_1", "coverage@1", paired=True),
        Column("coverage_10", "coverage@10", paired=True),
        Column("reward", "reward"),
        Column("greedy_coverage_1", "coverage@1, greedy"),
        Column("greedy_coverage_10", "coverage@10, greedy"),
        Column("greedy_reward", "reward, greedy"),
    ),
    grid=grid,
    draw=draw,
    reference="irecgan-online",
    way=False,
    in_table=_in_table,
)

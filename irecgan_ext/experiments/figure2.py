"""Figure 2: what is learnt from logs of three policies and two sizes, in front of simulated users (section 7.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from irecgan_ext.evaluation.online import MARKS
from irecgan_ext.experiments import training_cell
from irecgan_ext.experiments.cells import Cell, Grid, Row
from irecgan_ext.experiments.figures import METHOD_COLOURS, draw_marks, error_bar
from irecgan_ext.experiments.options import Baseline, Column, Experiment, ExperimentOptions
from irecgan_ext.experiments.statistics import Table
from irecgan_ext.plots import drawing
from irecgan_ext.training.methods import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (("random", 200), ("random", 10_000), ("max", 10_000), ("mix", 10_000))
PEAKED = 0.05  # transition temperature at which the click history says much about the user's state
DEPTHS = range(1, 11)
METHODS = ("lstm", "pg", "lstmd", "irecgan")
REWARD_PLACE = 12.2  # of the reward's bars, right of the coverage's at 1..10

CONFIGURATIONS = {
    f"{policy}({sessions}){suffix}": ["--log-policy", policy, "--log-sessions", str(sessions), *temperature]
    for suffix, temperature in (("", []), (" peaked", ["--transition-temperature", str(PEAKED)]))
    for policy, sessions in PANELS
}
"""Flags of irecgan_ext.train by the name of the configuration."""


def grid(options: ExperimentOptions) -> Grid:
    """One IRecGAN run per configuration and seed: LSTM and PG are its pre-trained models, LSTMD its user model. Further
    baselines have runs of their own."""
    jobs = {"irecgan": {**training_cell.MARK_METHODS, **{name: name for name in METHODS}}}
    jobs |= {name: {name: name} for name in options.baselines}
    cells = []
    for seed in options.seed_range:
        for name in options.chosen(list(CONFIGURATIONS)):
            for job, kept in jobs.items():
                flags = options.flags(*CONFIGURATIONS[name], "--method", job)
                cells.append(Cell(name, job, seed, training_cell.task(options.preset, flags, kept)))
    return Grid("figure2", training_cell.FUNCTION, options.settings(), tuple(cells))


def draw(rows: Sequence[Row], out_png: Path) -> None:
    """A panel per configuration as in the paper: coverage@1..10 as groups of bars, the reward's bars rightmost."""
    table = Table(rows)
    columns = min(4, len(table.configurations))
    lines = -(-len(table.configurations) // columns)
    with drawing(out_png, lines, columns, (4.6 * columns, 3.3 * lines + 0.5)) as (figure, axes):
        for axis, name in zip(axes, table.configurations, strict=False):
            _panel(axis, table, name)
        for axis in axes[len(table.configurations) :]:
            axis.set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _panel(axis: Axes, table: Table, name: str) -> None:
    """Coverage on the left scale, reward and its marks on the right one."""
    width = 0.8 / len(METHODS)
    right = axis.twinx()
    for index, method in enumerate(METHODS):
        offset = (index - (len(METHODS) - 1) / 2) * width
        colour = METHOD_COLOURS[method]
        means = [table.mean(name, method, f"coverage_{depth}") for depth in DEPTHS]
        places = [depth + offset for depth in DEPTHS]
        axis.bar(places, [m.mean for m in means], width, color=colour, label=TITLES[method])
        for place, mean in zip(places, means, strict=True):
            error_bar(axis, place, mean)
        reward = table.mean(name, method, "reward")
        right.bar(REWARD_PLACE + 1.9 * offset, reward.mean, 1.9 * width, color=colour)
        error_bar(right, REWARD_PLACE + 1.9 * offset, reward)
    marks = {mark: table.mean(name, mark, "reward").mean for mark in MARKS}
    top = 1.3 * max(marks["belief"], *(table.mean(name, method, "reward").mean for method in METHODS))
    draw_marks(right, marks, 11.2, 13.8, top)
    axis.axvline(10.8, color="#999999", linewidth=0.8)
    axis.set_title(name, loc="left")
    axis.set_xticks([*DEPTHS, REWARD_PLACE], [*map(str, DEPTHS), "reward"])
    axis.set_xlabel("coverage@r")
    axis.set_ylim(0, 1.02)
    axis.set_xlim(0.4, 17.0)
    axis.grid(axis="x", visible=False)
    right.set_ylim(0, top)
    right.grid(visible=False)
    right.spines["right"].set_visible(True)


EXPERIMENT = Experiment(
    title="Figure 2: learning from logs",
    about=(
        "Cumulative reward and coverage@1..10 of what is learnt from logs of the policies random, max and mix, once with the "
        f"paper's transitions and once with peaked ones (temperature {PEAKED}). Greedy recommends the K best items, as "
        "deployed; sampled draws slates as in training. `random`, the logging policy, `counts` (clicks per showing), `belief` "
        "(knows the MDP, sees clicks) and `oracle` (sees the user's state) are marks, not competitors."
    ),
    titles={name: MARKS[name] for name in ("random", "log", "counts")}
    | {name: TITLES[name] for name in (*get_args(Baseline), *METHODS)}
    | {name: MARKS[name] for name in ("belief", "oracle")},
    columns=(
        Column("reward", "reward, greedy", paired=True),
        Column("reward_sampled", "reward, sampled", paired=True),
        Column("coverage_1", "coverage@1"),
        Column("coverage_10", "coverage@10"),
    ),
    grid=grid,
    draw=draw,
)

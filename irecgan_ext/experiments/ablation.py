"""What each part of IRecGAN is worth: one change at a time, everything else and the budget the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from irecgan_ext.evaluation.online import MARKS
from irecgan_ext.experiments import training_cell
from irecgan_ext.experiments.cells import Cell, Grid, Row
from irecgan_ext.experiments.figure2 import CONFIGURATIONS
from irecgan_ext.experiments.figures import INK
from irecgan_ext.experiments.options import Column, Experiment, ExperimentOptions
from irecgan_ext.experiments.statistics import Table
from irecgan_ext.plots import drawing
from irecgan_ext.training.methods import TITLES

DEFAULT = ("random(10000)", "random(10000) peaked")
FIXED = {
    "constant-scores": ("constant scores for D's", ["--adversarial.discriminator", "constant"]),
    "random-scores": ("random scores for D's", ["--adversarial.discriminator", "random"]),
    "no-rescaling": ("rewards not rescaled", ["--adversarial.no-rescale-rewards"]),
    "no-pessimism": ("rarely logged items trusted", ["--adversarial.pessimism", "0"]),
    "completions-1": ("N = 1", ["--adversarial.completions", "1"]),
    "completions-5": ("N = 5", ["--adversarial.completions", "5"]),
    "completions-20": ("N = 20", ["--adversarial.completions", "20"]),
    "gru": ("GRU", ["--model.cell", "gru"]),
    "lstm-cell": ("LSTM cells", ["--model.cell", "lstm"]),
    "click": ("clicked item's log-probability", ["--adversarial.action", "click"]),
    "slate": ("slate's log-probability", ["--adversarial.action", "slate"]),
    "no-anchor": ("agent not held to the log", ["--adversarial.log-anchor", "0"]),
    "history-dropout": ("half of the clicks hidden from the agent", ["--model.history-dropout", "0.5"]),
    "value-baseline": ("learnt value baseline", ["--adversarial.value-baseline"]),
}
"""Variants: title and flags. One whose flags change nothing in the preset is IRecGAN itself and is left out."""
RATIOS = {"generated-9": 10.0, "generated-33": 2.0, "generated-67": 0.5}
"""Logged sessions per generated one; the sum of both per r-step stays the preset's."""
COLOURS = {"reward": "#1f5f99", "reward_sampled": "#d1731c"}


def grid(options: ExperimentOptions) -> Grid:
    """IRecGAN and its variants; the marks, LSTM and PG come with IRecGAN's own runs."""
    names = options.chosen(list(CONFIGURATIONS), DEFAULT)
    changes = variants(options)
    own = {**training_cell.MARK_METHODS, "lstm": "lstm", "pg": "pg", "irecgan": "irecgan"}
    cells = []
    for seed in options.seed_range:
        for name in names:
            for variant, flags in changes.items():
                kept = own if variant == "irecgan" else {"irecgan": variant}
                task = training_cell.task(options.preset, options.flags(*CONFIGURATIONS[name], *flags), kept)
                cells.append(Cell(name, variant, seed, task))
    return Grid("ablation", training_cell.FUNCTION, options.settings(), tuple(cells))


def variants(options: ExperimentOptions) -> dict[str, list[str]]:
    """Flags by the name of the variant; the first is IRecGAN, with none."""
    own = options.config()
    sessions = own.adversarial.generated * (1 + own.adversarial.logged_ratio)
    every = {name: flags for name, (_, flags) in FIXED.items()}
    for name, ratio in RATIOS.items():
        generated = str(round(sessions / (1 + ratio)))
        every[name] = ["--adversarial.generated", generated, "--adversarial.logged-ratio", str(ratio)]
    changes = {name: flags for name, flags in every.items() if options.config(*flags) != own}
    return {"irecgan": [], **changes}


def draw(rows: Sequence[Row], out_png: Path) -> None:
    """Differences to IRecGAN with their intervals, a panel per configuration."""
    table = Table(rows)
    methods = [name for name in table.methods if name in EXPERIMENT.titles and name not in (*MARKS, "irecgan")]
    count = len(table.configurations)
    with drawing(out_png, 1, count, (5.4 * count + 1.5, 0.32 * len(methods) + 1.6)) as (figure, axes):
        for axis, configuration in zip(axes, table.configurations, strict=True):
            for shift, (metric, colour) in zip((-0.12, 0.12), COLOURS.items(), strict=True):
                for place, method in enumerate(methods):
                    gap = table.difference(configuration, method, "irecgan", metric)
                    if gap is None:
                        continue
                    half = gap.half if math.isfinite(gap.half) else 0.0
                    axis.errorbar(gap.mean, place + shift, xerr=half, fmt="o", color=colour, markersize=4, capsize=2)
            axis.axvline(0, color=INK, linewidth=0.8)
            axis.set_yticks(range(len(methods)), [EXPERIMENT.titles[method] for method in methods])
            axis.invert_yaxis()
            axis.set_xlabel("reward minus IRecGAN's")
            axis.set_title(configuration, loc="left")
        handles = [axes[0].plot([], [], "o", color=colour)[0] for colour in COLOURS.values()]
        figure.legend(handles, ["greedy", "sampled"], loc="outside lower center", ncols=2, frameon=False)


EXPERIMENT = Experiment(
    title="Ablation: what each part is worth",
    about=(
        "IRecGAN with one part changed, the same seeds, logs and budget: D's scores replaced by a constant or by random numbers, "
        "rewards not rescaled, N completions per prefix, another share of generated sessions (the sum of logged and generated "
        "ones per update stays), another recurrent cell, another log-probability of the agent's action, a learnt value baseline. "
        "LSTM and PG, the pre-trained models, show what adversarial training adds at all."
    ),
    titles={name: MARKS[name] for name in ("random", "log", "counts")}
    | {name: TITLES[name] for name in ("lstm", "pg", "irecgan")}
    | {name: title for name, (title, _) in FIXED.items()}
    | {name: f"{100 / (1 + ratio):.0f} % generated sessions" for name, ratio in RATIOS.items()}
    | {name: MARKS[name] for name in ("belief", "oracle")},
    columns=(
        Column("reward", "reward, greedy", decimals=3, paired=True),
        Column("reward_sampled", "reward, sampled", decimals=3, paired=True),
        Column("coverage_1", "coverage@1"),
        Column("coverage_10", "coverage@10"),
    ),
    grid=grid,
    draw=draw,
)

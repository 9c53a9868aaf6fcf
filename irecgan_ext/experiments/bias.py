"""Section 6 measured: does adversarial training reduce the bias of the value estimate, and does D's rescaling?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from irecgan_ext.evaluation.diagnostics import diagnose
from irecgan_ext.experiments import training_cell
from irecgan_ext.experiments.cells import Cell, Grid, Row
from irecgan_ext.experiments.figure2 import CONFIGURATIONS
from irecgan_ext.experiments.figures import INK, error_bar
from irecgan_ext.experiments.options import Column, Experiment, ExperimentOptions
from irecgan_ext.experiments.statistics import Table
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.plots import drawing
from irecgan_ext.training.methods import TITLES
from irecgan_ext.training.outcome import Outcome
from irecgan_ext.training.source import reopen_source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFAULT = tuple(name for name in CONFIGURATIONS if "peaked" not in name)
HORIZON = 50  # steps of a session that count, where the run has no cap of its own
TEST_SESSIONS = "200"  # of the run's own online test, which is not used
BIASES = {"bias_without": "without D", "bias_optimal": "optimal D*", "bias_learnt": "learnt D"}
COLOURS = ("#1f5f99", "#3b8a4c", "#d1731c")
SIZES = {"delta_size": "mean |Delta|", "delta_1": "mean |delta_1|"}


def grid(options: ExperimentOptions) -> Grid:
    """One IRecGAN run per configuration and seed, then the diagnostics of its models before and after."""
    cells = []
    for seed in options.seed_range:
        for name in options.chosen(list(CONFIGURATIONS), DEFAULT):
            flags = options.flags(*CONFIGURATIONS[name], "--evaluation.sessions", TEST_SESSIONS)
            task = training_cell.task(options.preset, flags, {})
            cells.append(Cell(name, "irecgan", seed, {**task, "sessions": options.sessions}))
    return Grid("bias", "irecgan_ext.experiments.bias:run", options.settings(), tuple(cells))


def run(cell: Cell, directory: Path) -> Iterator[Row]:
    """Train, then measure the pre-trained models, the pre-trained user model with the final agent, and the final models."""
    training_cell.run(cell, directory)
    config, source = training_cell.cell_config(cell, directory), reopen_source(directory)
    assert source.mdp is not None
    policy = source.logging_policy
    assert policy is not None
    outcome = Outcome.load(directory, config, source.items, source.reward_mode())
    user, agent, final = outcome.learnt["lstm"], outcome.learnt["pg"], outcome.models
    assert isinstance(user, UserModel)
    assert isinstance(agent, Agent)
    for name, models in {
        "pretrained": (user, agent, None),
        "pretrained-user": (user, final.agent, None),
        "irecgan": (final.user, final.agent, final.discriminator),
    }.items():
        found = diagnose(
            source.mdp,
            policy,
            *models,
            slate_size=config.slate_size,
            sessions=cell.task["sessions"],
            max_steps=config.adversarial.max_steps or HORIZON,
            lambda_1=1 / (1 + config.adversarial.logged_ratio),
            completions=config.adversarial.completions,
            seed=config.evaluation.seed,
        )
        for metric, value in vars(found).items():
            if isinstance(value, float):
                yield Row(cell.configuration, name, cell.seed, metric, value)


def draw(rows: Sequence[Row], out_png: Path) -> None:
    """Bias of the value estimate by kind of rescaling; size of Delta and delta_1 before and after adversarial training."""
    table = Table(rows)
    with drawing(out_png, 1, 1 + len(SIZES), (4.6 * (1 + len(SIZES)), 3.4)) as (_, axes):
        series = {title: ("irecgan", metric) for metric, title in BIASES.items()}
        _bars(axes[0], table, series)
        axes[0].set_title("bias of the value estimate", loc="left")
        for axis, (metric, title) in zip(axes[1:], SIZES.items(), strict=True):
            methods = ("pretrained-user", "irecgan")
            _bars(axis, table, {EXPERIMENT.titles[method]: (method, metric) for method in methods})
            axis.set_title(title, loc="left")


def _bars(axis: Axes, table: Table, series: dict[str, tuple[str, str]]) -> None:
    """Groups of bars, one group per configuration, a bar for each (method, metric)."""
    width = 0.8 / len(series)
    for index, (label, (method, metric)) in enumerate(series.items()):
        offset = (index - (len(series) - 1) / 2) * width
        means = [table.mean(name, method, metric) for name in table.configurations]
        places = [place + offset for place in range(len(means))]
        axis.bar(places, [m.mean for m in means], width, color=COLOURS[index], label=label)
        for place, mean in zip(places, means, strict=True):
            error_bar(axis, place, mean)
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.set_xticks(range(len(table.configurations)), table.configurations, fontsize=8)
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.3)
    axis.legend(loc="upper right")


EXPERIMENT = Experiment(
    title="Section 6: the bias of the value estimate",
    about=(
        "In the simulator the laws of logged sessions, of generated ones and of the agent with the true users are known, and "
        "so is the agent's value V. Delta is what the user model expects of a slate minus what the users do; |delta_1| and "
        "|delta_2| average to the distance of the agent's sessions from the generated and from the logged ones (L1, 0 to 2); w "
        "is the weight of Delta in the bias, half the share of generated data where all laws agree. The bias is that of Eq "
        "(12): generated rewards not rescaled, rescaled by the optimal D* and by the learnt q_D, plus logged rewards, minus V. "
        "Before: the pre-trained models; between: the pre-trained user model with the final agent, which tells what happened "
        "to the user model; last: IRecGAN. `irecgan_ext.evaluation.diagnostics` has the definitions."
    ),
    titles={"pretrained": "before", "pretrained-user": "pre-trained U, final A", "irecgan": TITLES["irecgan"]},
    columns=(
        Column("delta", "Delta", decimals=3, paired=True),
        Column("delta_size", "mean abs. Delta", decimals=3, paired=True),
        Column("delta_1", "mean abs. delta_1", decimals=3, paired=True),
        Column("delta_2", "mean abs. delta_2", decimals=3),
        Column("weight", "w", decimals=3),
        Column("value", "V"),
        Column("bias_without", "bias without D"),
        Column("bias_optimal", "with D*"),
        Column("bias_learnt", "with learnt D"),
    ),
    grid=grid,
    draw=draw,
    way=False,
)

"""Options of the experiments' command, and what an experiment is."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from irecgan_ext.cli import parse_options
from irecgan_ext.errors import UsageError
from irecgan_ext.experiments.cells import Grid, Row
from irecgan_ext.experiments.machine import cores
from irecgan_ext.training.config import Preset, TrainConfig, preset

ExperimentName = Literal["figure2", "figure3", "ablation", "bias", "table1"]
Baseline = Literal["pgis", "ac", "pgu", "acu"]


@dataclass(frozen=True)
class ExperimentOptions:
    """Run an experiment of the paper over seeds, then write its table and figure.

    Every cell's result is stored as it ends: the same command goes on where an interrupted one stopped, and with more
    seeds or configurations it adds what is missing.
    """

    experiment: tyro.conf.Positional[ExperimentName]
    """figure2: what is learnt from logs. figure3: online learning. ablation: what each part of IRecGAN is worth. bias:
    section 6, measured. table1: reranking the lists of a real log (needs --data)."""
    preset: Preset = "quick"
    """Models and schedule, as of irecgan_ext.train."""
    seeds: int = 5
    """Number of seeds; each has its own users, logs, weights and samples."""
    first_seed: int = 0
    """The first of them."""
    jobs: int | None = None
    """Worker processes at a time, one thread each. None: one per core."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where the runs train. cuda: all workers share the device, so fewer jobs may be faster."""
    out: Path | None = None
    """Directory for results.csv, table.csv, figure.png, README.md and the finished cells. None: runs/EXPERIMENT."""
    configurations: tuple[str, ...] = ()
    """Only these configurations, such as "random(200)" "mix(10000) peaked". Empty: those that the experiment is about."""
    baselines: tuple[Baseline, ...] = ()
    """figure2: further methods for the tables, such as "pgis" "ac"; each costs a run per configuration and seed."""
    sessions: int = 20_000
    """Evaluation sessions per policy."""
    data: Path | None = None
    """Of table1: the directory that irecgan_ext.prepare wrote."""
    train_flags: str = ""
    """Further flags of irecgan_ext.train for every run, in one word: --train-flags="--model.hidden 32 --user.epochs 9"."""
    quiet: bool = False
    """No progress on standard error."""

    @property
    def directory(self) -> Path:
        """Where results go."""
        return self.out if self.out is not None else Path("runs") / self.experiment

    @property
    def workers(self) -> int:
        """Worker processes at a time."""
        return self.jobs if self.jobs is not None else cores()

    @property
    def seed_range(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def check(self) -> None:
        """Raise UsageError, naming the flag, for a value that its type allows but no grid can use."""
        for flag, value, least in (
            ("seeds", self.seeds, 1),
            ("first-seed", self.first_seed, 0),
            ("jobs", self.workers, 1),
            ("sessions", self.sessions, 2),
        ):
            if value < least:
                raise UsageError(f"--{flag} must be at least {least}, got {value}")
        try:
            flags = shlex.split(self.train_flags)
        except ValueError as error:
            raise UsageError(f"--train-flags: {error}, got {self.train_flags!r}") from error
        for taken in ("--preset", "--method", "--seed", "--out", "--resume", "--device", "--evaluation.sessions"):
            if any(flag == taken or flag.startswith(f"{taken}=") for flag in flags):
                raise UsageError(
                    f"--train-flags must not hold {taken}, which the grid decides, got {self.train_flags!r}"
                )
        if self.data is not None and self.experiment != "table1":
            raise UsageError(f"--data: {self.experiment} makes its own logs; only table1 reads one")
        if self.baselines and self.experiment != "figure2":
            raise UsageError(f"--baselines is for figure2 only, got {self.experiment}")
        if self.device != "cpu":
            from irecgan_ext.training.job import choose_device  # here: it loads torch, which the runner does without

            choose_device(self.device)
        self.config()

    def flags(self, *more: str) -> list[str]:
        """Flags of irecgan_ext.train for one run: this command's, then `more`, which say what is compared and win."""
        device = [] if self.device == "cpu" else ["--device", self.device]
        return ["--evaluation.sessions", str(self.sessions), *device, *shlex.split(self.train_flags), *more]

    def config(self, *more: str) -> TrainConfig:
        """The configuration that `flags` stand for.

        Raises:
            UsageError: irecgan_ext.train does not know a flag, or cannot use its value.
        """
        config = train_config(self.preset, self.flags(*more))
        config.check()
        return config

    def chosen(self, names: Sequence[str], default: Sequence[str] = ()) -> list[str]:
        """The configurations to run, out of all `names`: the ones asked for, or else the `default` ones (none: all).

        Raises:
            UsageError: one is unknown.
        """
        for name in self.configurations:
            if name not in names:
                raise UsageError(f"--configurations must be among {', '.join(names)}, got {name!r}")
        wanted = self.configurations or default or names
        return [name for name in names if name in wanted]

    def settings(self) -> dict[str, str | int]:
        """What all results in one directory have in common."""
        common: dict[str, str | int] = {
            "preset": self.preset,
            "sessions": self.sessions,
            "train_flags": self.train_flags,
        }
        if self.device != "cpu":
            common["device"] = self.device
        return common if self.data is None else {**common, "data": str(self.data.resolve())}

    def command(self) -> str:
        """The command line that these options stand for."""
        words = ["python", "-m", "irecgan_ext.experiments", self.experiment, "--preset", self.preset]
        words += ["--seeds", str(self.seeds)]
        words += ["--first-seed", str(self.first_seed)] if self.first_seed else []
        words += ["--jobs", str(self.workers), "--out", str(self.directory)]
        words += ["--device", self.device] if self.device != "cpu" else []
        words += ["--configurations", *self.configurations] if self.configurations else []
        words += ["--baselines", *self.baselines] if self.baselines else []
        words += ["--sessions", str(self.sessions)] if self.sessions != type(self).sessions else []
        words += ["--data", str(self.data)] if self.data is not None else []
        words += [f"--train-flags={self.train_flags}"] if self.train_flags else []
        return shlex.join(words)


def train_config(name: Preset, flags: Sequence[str]) -> TrainConfig:
    """The configuration of irecgan_ext.train with these flags, on the CPU unless they say otherwise.

    Raises:
        UsageError: a flag is unknown or malformed.
    """
    return parse_options(TrainConfig, "irecgan_ext.train", flags, replace(preset(name), device="cpu"))


@dataclass(frozen=True)
class Column:
    """A metric in the tables.

    Attributes:
        metric: its name in results.csv. title: its name in tables. decimals: shown.
        paired: also show the paired difference to the reference method.
    """

    metric: str
    title: str
    decimals: int = 2
    paired: bool = False


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        title, about: what its README begins with.
        titles: of methods, by name; in the order of tables and figures.
        columns: of the tables.
        grid: its cells for given options.
        draw: its figure, from all rows.
        reference: the method that differences are taken to; None for no differences.
        way: whether to tell the share of the way from random to belief.
        in_table: whether a configuration has a table in the README; all are in the CSV files.
    """

    title: str
    about: str
    titles: dict[str, str]
    columns: tuple[Column, ...]
    grid: Callable[[ExperimentOptions], Grid]
    draw: Callable[[Sequence[Row], Path], None]
    reference: str | None = "irecgan"
    way: bool = True
    in_table: Callable[[str], bool] = lambda configuration: True

"""Where does an adversarial epoch of the quick preset spend its time, and what would it take with the eager rollout?

And, once: what share of a whole training, pre-training included, do the rollouts take?
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench import device, harness
from bench.models import short_training, start
from bench.peers.rollout import eager
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.rollout import Rollout, rollout
from irecgan_ext.training import adversarial
from irecgan_ext.training.config import TrainConfig, preset
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.types import BOS, PAD, Trajectories

LOG_SESSIONS, QUICK_LOG_SESSIONS = preset("quick").log_sessions, 100
ROUNDS, QUICK_ROUNDS = 5, 1

# The parts of an epoch, by the lines of Algorithm 1 that they are.
SCORED = "rollouts with q_D (lines 9, 10)"
PLAIN = "rollouts for D (line 16)"
LOSSES = "losses and gradients (lines 12, 13, 18)"
OPTIMISER = "optimiser's steps (lines 12, 13, 18)"
REST = "rest: sampling logged sessions, bookkeeping"
EPOCH = "whole epoch"
TRAINING = "whole training"

Seconds = dict[str, float]  # by part
Play = Callable[..., Rollout]


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per number of threads, the parts of an epoch with the native rollout, and with the eager one, and the
    rollouts' part of one training.

    Every timed epoch starts from the same pre-trained models and is the first of its run; the two kinds take turns.
    """
    config = short_training(QUICK_LOG_SESSIONS if quick else LOG_SESSIONS, epochs=0)
    rows = []
    # Logs and simulated users are the CPU's; a run has a device of its own.
    with torch.device("cpu"), tempfile.TemporaryDirectory() as directory:
        pretrained = Path(directory) / "pretrained"
        first = start(config, pretrained)
        adversarial.train_irecgan(first)
        first.close()
        check_same(first)
        for number in threads:
            with harness.thread_count(number):
                rows += _measure(first, config, Path(directory), number, QUICK_ROUNDS if quick else ROUNDS)
                own = short_training(QUICK_LOG_SESSIONS, epochs=1) if quick else preset("quick")
                whole = [_training(own, Path(directory) / f"training-{number}")]
                rows += _rows("native, all of training", whole, whole, (SCORED, PLAIN, TRAINING), number)
    return rows


def _measure(first: Run, config: TrainConfig, directory: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    plays: dict[str, Play] = {"native": rollout, "eager PyTorch": eager_rollout}
    times: dict[str, list[Seconds]] = {name: [] for name in plays}
    for number in range(rounds + 1):
        for name, play in plays.items():
            seconds = _epoch(first, config, directory / "epoch", play)
            if number > 0:  # the first round warms up
                times[name].append(seconds)
    parts = (SCORED, PLAIN, LOSSES, OPTIMISER, REST, EPOCH)
    return [row for name, seconds in times.items() for row in _rows(name, seconds, times["native"], parts, threads)]


def _rows(
    name: str, rounds: Sequence[Seconds], native: Sequence[Seconds], parts: Sequence[str], threads: int
) -> list[dict[str, Any]]:
    """A row per part of the rounds; the last part is the whole."""
    return [
        {
            "rollout": name,
            "threads": threads,
            "part": part,
            "ms (quartiles)": harness.Spread.of([1e3 * seconds[part] for seconds in rounds]),
            "% of the whole (quartiles)": harness.Spread.of([100 * s[part] / s[parts[-1]] for s in rounds]),
            "time / native (quartiles)": harness.Spread.of([x[part] / y[part] for x, y in zip(rounds, native)]),
            "rounds": len(rounds),
        }
        for part in parts
    ]


def _training(config: TrainConfig, directory: Path) -> Seconds:
    """Seconds of a training with `config` as a user would start it, and of its rollouts."""
    with torch.device("cpu"):
        run = start(replace(config, quiet=True, device=device.current().type), directory)
    clock = Clock()
    with _timed_functions(clock, rollout), clock.time(TRAINING):
        adversarial.train_irecgan(run)
    run.close()
    return clock.seconds


def _epoch(first: Run, config: TrainConfig, directory: Path, play: Play) -> Seconds:
    """Seconds of one adversarial epoch by part, from where `first` stopped; `directory` is used and removed."""
    shutil.copytree(first.directory, directory)
    try:
        once = replace(config, adversarial=replace(config.adversarial, epochs=1))
        clock = Clock()
        timed = TimedRun(clock, once, directory, first.train, first.valid, first.items, "survival", first.device, True)
        with _timed_functions(clock, play):
            adversarial.train_irecgan(timed)
        timed.close()
    finally:
        shutil.rmtree(directory)
    return clock.parts()


class Clock:
    """Seconds by name; a name's seconds include those of names that are timed within it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        device.synchronize()
        begin = time.perf_counter()
        yield
        device.synchronize()
        self.seconds[name] += time.perf_counter() - begin

    def parts(self) -> Seconds:
        """Every part once: the optimiser's steps happen within the updates, and everything within the epoch."""
        s = self.seconds
        losses = s["updates"] - s[OPTIMISER]
        rest = s[EPOCH] - s["updates"] - s[SCORED] - s[PLAIN]
        return {**{name: s[name] for name in (SCORED, PLAIN, OPTIMISER, EPOCH)}, LOSSES: losses, REST: rest}


class TimedRun(Run):
    """A run that times its adversarial epochs and the optimisers' steps in them."""

    def __init__(self, clock: Clock, *args: Any) -> None:
        super().__init__(*args)
        self.clock = clock

    def units(self, phase: str, count: int, unit: str = "epoch") -> Iterator[Unit]:
        for work in super().units(phase, count, unit):
            with self.clock.time(EPOCH if phase == "adversarial" else "other phases"):
                yield work

    def optimiser(self, name: str, module: torch.nn.Module, learning_rate: float, **options: Any) -> Any:
        known = name in self.optimisers
        optimiser = super().optimiser(name, module, learning_rate, **options)
        if not known:
            plain = optimiser.step

            def step(*args: Any) -> None:
                with self.clock.time(OPTIMISER):
                    plain(*args)

            optimiser.step = step  # type: ignore[method-assign]
        return optimiser


@contextmanager
def _timed_functions(clock: Clock, play: Play) -> Iterator[None]:
    """`irecgan_ext.training.adversarial` with `play` for its rollout, and its updates timed."""

    def timed_play(*args: Any, **options: Any) -> Rollout:
        with clock.time(SCORED if options["completions"] else PLAIN):
            return play(*args, **options)

    def timed_update(update: Callable[..., None], *args: Any) -> None:
        with clock.time("updates"):
            update(*args)

    updates = {
        name: partial(timed_update, getattr(adversarial, name))
        for name in ("update_user", "update_agent", "update_discriminator")
    }
    with mock.patch.multiple(adversarial, rollout=timed_play, **updates):
        yield


def eager_rollout(
    user: UserModel,
    agent: Agent,
    discriminator: Discriminator | None,
    *,
    slate_size: int,
    max_steps: int,
    start: Tensor,
    completions: int,
    generator: torch.Generator,
) -> Rollout:
    """The eager peer in the place of `irecgan_ext.rollout.rollout`, for sessions that begin with BOS."""
    if not bool((start == BOS).all()):
        raise ValueError("start must be BOS for the eager rollout")
    with start.device:
        played = eager.rollout(
            user,
            agent,
            discriminator,
            sessions=len(start),
            slate_size=slate_size,
            max_steps=max_steps,
            completions=completions,
        )
    lengths = played.lengths.clone()
    horizon = int(lengths.max())
    counted = torch.arange(horizon, device=lengths.device) < lengths[:, None]
    clicks, slates, rewards, q = (
        x[:, :horizon].clone() for x in (played.clicks, played.slates, played.rewards, played.q)
    )
    trajectories = Trajectories(
        start, slates, torch.where(counted, clicks, PAD), rewards, lengths, ~(clicks == -2).any(1)
    )
    return Rollout(trajectories, played.scores.clone(), q if completions else None, torch.zeros(4, dtype=torch.int64))


def check_same(first: Run) -> None:
    """Raise AssertionError unless both rollouts give valid sessions of the same mean length, on the models of `first`."""
    models = [model.eval() for model in (first.average.user, first.models.agent, first.models.discriminator)]
    options: dict[str, Any] = {"slate_size": first.train.slate_size, "max_steps": first.max_steps, "completions": 1}
    start = torch.full((1000,), BOS, device=first.device)
    played = [play(*models, start=start, generator=torch.Generator(), **options) for play in (rollout, eager_rollout)]
    lengths = [x.trajectories.lengths.double() for x in played]
    for x in played:
        x.trajectories.validate(first.items)
    error = sum(float(x.var()) / len(x) for x in lengths) ** 0.5
    if abs(float(lengths[0].mean() - lengths[1].mean())) > 4.5 * error:
        raise AssertionError(f"mean lengths must agree, got {lengths[0].mean():.3f} and {lengths[1].mean():.3f}")

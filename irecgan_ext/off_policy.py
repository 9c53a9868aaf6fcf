"""Judge a trained agent on a log alone: `python -m irecgan_ext.off_policy DIR --log FILE`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from irecgan_ext.cli import run_command
from irecgan_ext.data.propensities import read_propensities
from irecgan_ext.data.sessions import SessionLog, read_sessions
from irecgan_ext.errors import UsageError, checking_arguments
from irecgan_ext.evaluation.assessment import Value, assess
from irecgan_ext.evaluation.calibration import Point, calibrate
from irecgan_ext.evaluation.importance import tempered
from irecgan_ext.plots import plot_calibration
from irecgan_ext.training.source import find_users
from irecgan_ext.training.trained import Trained, load_trained
from irecgan_ext.types import Propensities


@dataclass(frozen=True)
class OffPolicyOptions:
    """Estimate from a log with propensities what a trained agent would have earned in place of the policy that logged it.

    The agent is judged as it is in training: it draws its slates from its softmax. The log needs the column pscore, the
    probability of each slate under the logging policy, as irecgan_ext.simulate writes it; with pscore_item_position and
    pscore_cascade the slate estimators iips and rips come beside the others. Estimator names are Open Bandit Pipeline's.
    Take another log than the agent learnt from: on its own log every estimate flatters it.
    """

    directory: tyro.conf.Positional[Path]
    """Directory of a finished run of irecgan_ext.train."""
    log: Path
    """Parquet log with propensities."""
    value: Value = "session"
    """What to estimate. session: the reward of whole sessions, every slate from the agent. first: the reward of a session's
    first step. step: the mean reward of a step, in the click histories as they were logged."""
    agent: str | None = None
    """Which agent of the run, by its row in the run's table: irecgan, pg, ... None: that of the run's method."""
    temperature: float = 1.0
    """Divides the agent's logits: 1 is the agent as trained, larger values a more exploring one."""
    iips: bool = True
    """Estimate iips too, of a step's value: its exact probabilities per place take about a millisecond a step for 50 items and
    slates of ten, and time in proportion to the catalogue."""
    bootstrap: int = 1000
    """Resamples of the 95% intervals."""
    seed: int = 0
    """Of the bootstrap and of the slates drawn for the model-based estimators."""
    calibration: Path | None = None
    """Draw estimates against true values here (PNG), for the agent at several temperatures. Needs the simulated users."""
    temperatures: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """Of the calibration."""
    mdp: Path | None = None
    """The simulated users, for the calibration, where the log does not name them."""
    json: bool = False
    """Print JSON instead of a table."""


def main(options: OffPolicyOptions) -> None:
    """Load the agent and the log, estimate, print.

    Raises:
        UserError: the run, the log or an option.
    """
    _check(options)
    trained = load_trained(options.directory, options.agent)
    log, propensities = _read_log(options.log, trained)
    if options.calibration is not None:
        _calibrate(options, trained, log, propensities)
        return
    with checking_arguments():
        agent = tempered(trained.agent, options.temperature)
    with _progress(int(log.trajectories.lengths.sum()) if options.value != "first" else len(log.trajectories)) as bar:
        found = assess(
            agent,
            trained.user,
            log.trajectories,
            propensities,
            value=options.value,
            iips=options.iips,
            samples=options.bootstrap,
            seed=options.seed,
            progress=bar.update,
        )
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if options.json:
        estimates = {name: row.plain() for name, row in found.estimates.items()}
        _print_json(
            {"value": found.value, "sessions": found.sessions, "estimates": estimates, "warnings": found.warnings}
        )
    else:
        print(found.table())


def _check(options: OffPolicyOptions) -> None:
    if options.bootstrap < 1:
        raise UsageError(f"--bootstrap must be at least 1, got {options.bootstrap}")
    if options.seed < 0:
        raise UsageError(f"--seed must not be negative, got {options.seed}")
    if options.calibration is not None and not options.calibration.parent.is_dir():
        raise UsageError(f"--calibration: {options.calibration.parent} is not a directory")
    for flag, values in (("temperature", (options.temperature,)), ("temperatures", options.temperatures)):
        for temperature in values:
            if not 0 < temperature < math.inf:
                raise UsageError(f"--{flag} must be positive and finite, got {temperature}")


def _read_log(path: Path, trained: Trained) -> tuple[SessionLog, Propensities]:
    log = read_sessions(path)
    if log.items != trained.items:
        raise UsageError(f"{path}: has C = {log.items} items, the agent was trained on {trained.items}")
    propensities = read_propensities(path, log.trajectories)
    if propensities is None:
        raise UsageError(f"{path}: has no column pscore, the probability of each slate under the policy that logged it")
    return log, propensities


def _calibrate(options: OffPolicyOptions, trained: Trained, log: SessionLog, propensities: Propensities) -> None:
    """Estimates of the agent at several temperatures, and the simulator's answer."""
    assert options.calibration is not None
    users = find_users(options.mdp, log.items, log.metadata)
    if users is None:
        raise UsageError(f"--calibration: {options.log} does not name its simulated users; pass --mdp")
    if users.items != log.items:
        raise UsageError(f"--mdp: has {users.items} items, {options.log} has {log.items}")
    cap = log.metadata.get("max_steps")
    counted = int(log.trajectories.lengths.sum()) if options.value != "first" else len(log.trajectories)
    with _progress(counted * len(options.temperatures)) as bar, checking_arguments():
        points = calibrate(
            users,
            trained.agent,
            trained.user,
            log.trajectories,
            propensities,
            temperatures=options.temperatures,
            value=options.value,
            iips=options.iips,
            max_steps=cap if isinstance(cap, int) else None,
            samples=options.bootstrap,
            seed=options.seed,
            progress=bar.update,
        )
    for point in points:
        for warning in point.assessment.warnings:
            print(f"warning: temperature {point.temperature:g}: {warning}", file=sys.stderr)
    plot_calibration([point.plain() for point in points], options.calibration)
    if options.json:
        _print_json({"value": options.value, "points": [point.plain() for point in points]})
    else:
        print(_table(points))


def _table(points: list[Point]) -> str:
    """True value and estimates by temperature; an estimate whose interval misses the truth has a star."""
    names = [name for name in points[0].assessment.estimates if name != "logged"]
    lines = [f"{'':20}" + "".join(f"{f'T = {point.temperature:g}':>12}" for point in points)]
    lines.append(f"{'true value':20}" + "".join(f"{point.truth:12.4f}" for point in points))
    for name in names:
        cells = []
        for point in points:
            row = point.assessment.estimates[name]
            missed = not row.interval[0] <= point.truth <= row.interval[1]
            cells.append(f"{f'{row.value:.4f}' + ('*' if missed else ' '):>12}")
        lines.append(f"{name:20}" + "".join(cells))
    return "\n".join([*lines, "* the 95% interval does not hold the true value"])


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar over logged steps on standard error, where that is a terminal."""
    with tqdm(total=total, unit=" steps", desc="weighing", disable=not sys.stderr.isatty(), leave=False) as bar:
        yield bar


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


if __name__ == "__main__":
    sys.exit(run_command(main, OffPolicyOptions, prog="python -m irecgan_ext.off_policy"))

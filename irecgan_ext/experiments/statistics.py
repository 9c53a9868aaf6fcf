"""Means over seeds with 95% t-intervals, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from irecgan_ext.experiments.cells import Row

# Two-sided 95% points of Student's t for 1..30 degrees of freedom.
T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]
T95 += [2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086]
T95 += [2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042]
NORMAL_95 = 1.959964


class Estimate(NamedTuple):
    """A mean over seeds and the half width of its 95% interval; infinite for a single seed."""

    mean: float
    half: float

    def text(self, decimals: int = 2, signed: bool = False) -> str:
        """Such as `3.44 ± 0.05`."""
        mean = f"{self.mean:{'+' if signed else ''}.{decimals}f}"
        return mean if math.isinf(self.half) else f"{mean} ± {self.half:.{decimals}f}"


def t95(freedom: int) -> float:
    """Two-sided 95% point of Student's t; beyond the table by its expansion about the normal's (Abramowitz and Stegun 26.7.5).

    Raises:
        ValueError: `freedom` is below 1.
    """
    if freedom < 1:
        raise ValueError(f"freedom must be at least 1, got {freedom}")
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = NORMAL_95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t-interval of independent values, one per seed.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("values must hold at least one number, got 0")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Estimate(mean, math.inf)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Estimate(mean, t95(len(values) - 1) * deviation / math.sqrt(len(values)))


class Table:
    """The numbers of an experiment by (configuration, method, metric), then by seed."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._values: dict[tuple[str, str, str], dict[int, float]] = {}
        for row in rows:
            self._values.setdefault((row.configuration, row.method, row.metric), {})[row.seed] = row.value
        self.configurations = list(dict.fromkeys(row.configuration for row in rows))
        self.methods = list(dict.fromkeys(row.method for row in rows))
        self.metrics = list(dict.fromkeys(row.metric for row in rows))

    def has(self, configuration: str, method: str, metric: str) -> bool:
        """Whether there is any value."""
        return (configuration, method, metric) in self._values

    def values(self, configuration: str, method: str, metric: str) -> dict[int, float]:
        """By seed; empty where there are none."""
        return self._values.get((configuration, method, metric), {})

    def mean(self, configuration: str, method: str, metric: str) -> Estimate:
        """Over seeds."""
        return estimate(list(self.values(configuration, method, metric).values()))

    def difference(self, configuration: str, method: str, other: str, metric: str) -> Estimate | None:
        """Of `method` minus `other`, paired by seed; None where no seed has both."""
        mine, theirs = self.values(configuration, method, metric), self.values(configuration, other, metric)
        common = [seed for seed in mine if seed in theirs]
        return estimate([mine[seed] - theirs[seed] for seed in common]) if common else None

    def share(self, configuration: str, method: str, low: str, high: str, metric: str) -> Estimate | None:
        """How far `method` gets on the way from `low` to `high`: (method - low) / (high - low) of each seed."""
        mine, start, end = (self.values(configuration, name, metric) for name in (method, low, high))
        common = [seed for seed in mine if seed in start and seed in end and end[seed] != start[seed]]
        shares = [(mine[seed] - start[seed]) / (end[seed] - start[seed]) for seed in common]
        return estimate(shares) if shares else None

"""What the experiments' figures have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from irecgan_ext.experiments.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHOD_COLOURS = {
    "lstm": "#1f5f99",
    "pg": "#d1731c",
    "lstmd": "#7fb2dd",
    "irecgan": "#3b8a4c",
    "pg-online": "#d1731c",
    "pg-online-offline": "#8a4f9e",
    "lstm-offline": "#1f5f99",
    "irecgan-online": "#3b8a4c",
}
INK = "#222222"


def error_bar(axis: Axes, place: float, value: Estimate) -> None:
    """The interval of a mean, unless there is only one seed."""
    if not math.isinf(value.half):
        axis.errorbar(place, value.mean, value.half, fmt="none", ecolor=INK, elinewidth=0.7, capsize=1.2)


def draw_marks(axis: Axes, marks: Mapping[str, float], left: float, right: float, top: float) -> None:
    """Short lines across at the marks' heights, their names beside them, kept apart; a mark above `top` is told at the top."""
    lowest, gap = -math.inf, 0.055 * top
    for name, height in sorted(marks.items(), key=lambda mark: mark[1]):
        label, shown = (name, height) if height <= top else (f"{name} {height:.1f} \u2191", 0.9 * top)
        if height <= top:
            axis.plot([left, right], [height, height], color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
        lowest = max(shown, lowest + gap)
        axis.annotate(label, (right, lowest), (right + 0.1, lowest), fontsize=7, va="center", annotation_clip=False)

"""Figures of a training run and of a comparison of methods, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from irecgan_ext.errors import LogError
from irecgan_ext.files import atomic_write
from irecgan_ext.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Panel(NamedTuple):
    title: str
    axis: str
    series: dict[str, str]  # name in the records -> label


_PANELS = (
    _Panel("User model", "log-likelihood per session", {"ll_train": "training", "ll_valid": "validation"}),
    _Panel("Agent on the log", "loss of the policy gradient", {"loss": "training", "loss_valid": "validation"}),
    _Panel("Discriminator loss", "cross-entropy (nats)", {"d_loss": "loss"}),
    _Panel(
        "Discriminator accuracy",
        "share classified rightly",
        {"d_accuracy_real": "logged sessions", "d_accuracy_generated": "generated sessions"},
    ),
    _Panel("Agent in the learnt user model", "reward per session", {"agent_return": "return"}),
    _Panel("Scores of generated prefixes", r"mean $q_D$", {"q_mean": "mean"}),
    _Panel("Critic", "squared error per session", {"critic_loss": "error"}),
    _Panel("Online sessions", "reward per session", {"reward": "as played", "greedy_reward": "greedy"}),
    _Panel(
        "Coverage in online sessions",
        "share of the best items",
        {"coverage_1": "coverage@1", "coverage_10": "coverage@10"},
    ),
)
SERIES = tuple(name for panel in _PANELS for name in panel.series)
"""Names under which `plot_training` looks for values in the records."""


class _Segment(NamedTuple):
    phases: tuple[str, ...]  # one, or several that take turns
    first: int
    last: int


_COLOURS = ("#1f5f99", "#d1731c", "#3b8a4c", "#8a4f9e")
_TINTS = ("#edf2f8", "#fcf1e4", "#eaf5ec", "#f4edf7")
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.size": 9,
}


def plot_training(metrics_path: str | Path, out_png: str | Path) -> None:
    """Draw how a run went: likelihood, discriminator, return and q_D over the steps, phases shaded.

    Args:
        metrics_path: `metrics.jsonl`, or the directory that holds it. Records may hold any of `SERIES`; panels of
            which the run has no value are left out.
        out_png: file to write.

    Raises:
        LogError: the records cannot be read, or hold none of `SERIES`.
        OSError: the figure cannot be written.
    """
    records = read_metrics(metrics_path)
    panels = [panel for panel in _PANELS if any(_points(records, name) for name in panel.series)]
    if not panels:
        raise LogError(f"{metrics_path}: nothing to plot, no record holds any of {', '.join(SERIES)}")
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    segments = _segments(records)
    with drawing(out_png, rows, columns, (5.2 * columns, 2.9 * rows + 0.5)) as (figure, axes):
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel, records, segments)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        if len(segments) > 1:
            _segment_legend(figure, segments)


def plot_results(summary: Mapping[str, Mapping[str, Any]], out_png: str | Path) -> None:
    """Draw the reward of each method as a bar with its interval.

    Args:
        summary: by method, in the order to show: `reward` (mean per session) and, where it is known, `interval`: the
            half-width of its interval, or its lower and upper end. A method with `mark` true is drawn as a line
            across: what is achievable.
        out_png: file to write.

    Raises:
        ValueError: there is no method that is not a mark, or a reward is not finite.
        OSError: the figure cannot be written.
    """
    for method, result in summary.items():
        if not math.isfinite(result["reward"]):
            raise ValueError(f"reward of {method} must be finite, got {result['reward']}")
    bars = [method for method in summary if not summary[method].get("mark")]
    if not bars:
        raise ValueError("summary must hold a method that is not a mark, got none")
    with drawing(out_png, 1, 1, (max(4.2, 1.1 * len(bars) + 1.6), 3.6)) as (_, (axis,)):
        _draw_bars(axis, {method: summary[method] for method in bars})
        _draw_marks(axis, {method: summary[method] for method in summary if method not in bars})


def plot_calibration(points: Sequence[Mapping[str, Any]], out_png: str | Path) -> None:
    """Draw off-policy estimates against the truth, a panel per estimator: on the diagonal an estimate is right.

    Args:
        points: one per target policy: `truth`, `temperature`, and `estimates` by estimator, each with `value`, `interval` (its
            lower and upper end). The estimate `logged`, the logging policy's own value, is drawn as a line across.
        out_png: file to write.

    Raises:
        ValueError: there is no point.
        OSError: the figure cannot be written.
    """
    if not points:
        raise ValueError("points must hold at least one target policy, got 0")
    names = [name for name in points[0]["estimates"] if name != "logged"]
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    with drawing(out_png, rows, columns, (3.6 * columns, 3.3 * rows)) as (_, axes):
        for axis, name in zip(axes, names, strict=False):
            _draw_estimator(axis, name, points)
        for axis in axes[len(names) :]:
            axis.set_visible(False)


def _draw_estimator(axis: Axes, name: str, points: Sequence[Mapping[str, Any]]) -> None:
    truth = [float(point["truth"]) for point in points]
    low, high = min(truth), max(truth)
    margin = 0.08 * (high - low) or 0.05
    axis.plot([low - margin, high + margin], [low - margin, high + margin], color="#888888", linewidth=1, label="truth")
    for place, point in enumerate(points):
        row = point["estimates"][name]
        ends = [[max(0.0, row["value"] - row["interval"][0])], [max(0.0, row["interval"][1] - row["value"])]]
        options: dict[str, Any] = {"fmt": "o", "markersize": 4, "elinewidth": 1.2, "capsize": 3}
        label = "estimate, 95%" if place == 0 else None
        axis.errorbar(point["truth"], row["value"], yerr=ends, color=_COLOURS[0], label=label, **options)
    logged = points[0]["estimates"].get("logged")
    if logged is not None:
        axis.axhline(logged["value"], color=_COLOURS[1], linestyle="--", linewidth=1.2, label="logging policy")
    axis.set_title(name.replace("_", " "), loc="left")
    axis.set_xlabel("true value")
    axis.set_ylabel("estimate")
    axis.legend(loc="best")


@contextmanager
def drawing(
    out_png: str | Path, rows: int, columns: int, size: tuple[float, float]
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure drawn in memory (no display, no state of pyplot), written when the block ends without an error."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)
        with atomic_write(out_png) as stream:
            figure.savefig(stream, format="png", dpi=150)


def _draw_bars(axis: Axes, results: Mapping[str, Mapping[str, Any]]) -> None:
    axis.bar(list(results), [result["reward"] for result in results.values()], width=0.62, color=_COLOURS[0])
    for place, result in enumerate(results.values()):
        reward = float(result["reward"])
        below, above = _error_bar(result)
        if below or above:
            yerr = [[below], [above]]
            axis.errorbar(place, reward, yerr=yerr, fmt="none", ecolor="#222222", elinewidth=1.2, capsize=4)
        axis.annotate(
            f"{reward:.2f}",
            (place, reward + above),
            (0, 5),
            textcoords="offset points",
            ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    axis.set_ylabel("reward per session")
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.12)


def _draw_marks(axis: Axes, marks: Mapping[str, Mapping[str, Any]]) -> None:
    for (mark, result), colour in zip(marks.items(), cycle(_COLOURS[1:]), strict=False):
        reward = float(result["reward"])
        axis.axhline(reward, color=colour, linestyle="--", linewidth=1.2, label=f"{mark} {reward:.2f}")
    if marks:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(3, len(marks)))


def _points(records: Iterable[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(r["step"], r[name]) for r in records if name in r and math.isfinite(r[name])]


def _draw_panel(axis: Axes, panel: _Panel, records: Sequence[Mapping[str, Any]], segments: Sequence[_Segment]) -> None:
    """Lines break between segments: what one phase measures is not the continuation of another's."""
    from matplotlib.ticker import MaxNLocator

    for (name, label), colour in zip(panel.series.items(), _COLOURS, strict=False):
        dots = "o" if len(_points(records, name)) < 30 else None
        shown: str | None = label
        for segment in segments:
            points = _points((record for record in records if record["phase"] in segment.phases), name)
            if points:
                steps, values = zip(*points, strict=True)
                axis.plot(steps, values, color=colour, linewidth=1.6, marker=dots, markersize=3.5, label=shown)
                shown = None
    axis.set_title(panel.title, loc="left")
    axis.set_xlabel("step")
    axis.set_ylabel(panel.axis)
    axis.margins(y=0.1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(panel.series) > 1:
        axis.legend(loc="best")
    if len(segments) > 1:
        _shade(axis, segments)


def _segments(records: Iterable[Mapping[str, Any]]) -> list[_Segment]:
    """The stretches of steps in which a phase, or phases that take turns, ran; in order."""
    spans: dict[str, tuple[int, int]] = {}
    for record in records:
        first, last = spans.get(record["phase"], (record["step"], record["step"]))
        spans[record["phase"]] = (min(first, record["step"]), max(last, record["step"]))
    segments: list[_Segment] = []
    for phase, (first, last) in sorted(spans.items(), key=lambda span: span[1]):
        if segments and first < segments[-1].last:
            before = segments.pop()
            segments.append(_Segment((*before.phases, phase), before.first, max(before.last, last)))
        else:
            segments.append(_Segment((phase,), first, last))
    return segments


def _shade(axis: Axes, segments: Sequence[_Segment]) -> None:
    """Tint each segment, from where the one before it ends to where it ends."""
    starts = [segments[0].first, *(segment.last for segment in segments)]
    for segment, start, tint in zip(segments, starts, cycle(_TINTS), strict=False):
        axis.axvspan(start, segment.last, color=tint, linewidth=0, zorder=0)
    margin = 0.01 * (segments[-1].last - segments[0].first)
    axis.set_xlim(segments[0].first - margin, segments[-1].last + margin)


def _segment_legend(figure: Figure, segments: Sequence[_Segment]) -> None:
    from matplotlib.patches import Patch

    names = [" / ".join(phase.replace("_", " ") for phase in segment.phases) for segment in segments]
    patches = [
        Patch(facecolor=tint, edgecolor="#c8c8c8", label=name) for name, tint in zip(names, cycle(_TINTS), strict=False)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(5, len(patches)), frameon=False, fontsize=9)


def _error_bar(result: Mapping[str, Any]) -> tuple[float, float]:
    """Lengths of the bar below and above the reward."""
    interval = result.get("interval", 0.0)
    if isinstance(interval, Sequence):
        lower, upper = interval
        return float(result["reward"] - lower), float(upper - result["reward"])
    return float(interval), float(interval)

"""How does time grow with each size? The sampler over C, R and k, the rollout over N, T and H, and the eager peers of both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from bench import device, gumbel_topk, harness
from bench.models import Size, make
from bench.peers import gumbel_topk as sampler_peers
from bench.rollout import check_same, play_eager, play_native

NEVER_ENDING = 1e9  # mean length of sessions that the cap alone ends: the work of N and T is then known
EAGER = "eager PyTorch"


@dataclass(frozen=True)
class Draw:
    """k draws from each of R rows of C logits."""

    C: int = 10_000
    R: int = 64
    k: int = 10


@dataclass(frozen=True)
class Play:
    """R sessions of T steps, N completions of each prefix, GRU models of width H."""

    N: int = 5
    T: int = 10
    H: int = 64
    R: int = 20


# Varied size -> its values, around a point that the other sizes keep.
DRAWS: dict[str, tuple[Draw, list[int]]] = {
    "C": (Draw(R=4), [1_000, 10_000, 100_000, 1_000_000, 10_000_000]),
    "R": (Draw(), [1, 8, 64, 512, 4096]),
    "k": (Draw(C=100_000, R=8), [1, 3, 10, 30, 100, 300, 1000]),
}
PLAYS: dict[str, tuple[Play, list[int]]] = {
    "N": (Play(), [1, 2, 5, 10, 20, 50]),
    "T": (Play(), [2, 5, 10, 20, 40]),
    "H": (Play(), [16, 32, 64, 128, 256, 512]),
}
QUICK_DRAWS = {"C": (Draw(R=4), [100, 1000]), "R": (Draw(C=1000), [1, 8]), "k": (Draw(C=1000, R=4), [1, 10])}
QUICK_PLAYS = {"N": (Play(T=4, R=4), [1, 3]), "T": (Play(R=4), [2, 5]), "H": (Play(T=4, R=4), [16, 32])}


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: one per varied size, value, number of threads and candidate."""
    rows = []
    seconds = 0.02 if quick else 0.5
    for number in threads:
        with harness.thread_count(number):
            for name, (draw, values) in (QUICK_DRAWS if quick else DRAWS).items():
                print(f"scaling: sampler over {name}", file=sys.stderr, flush=True)
                for value in values:
                    at = replace(draw, **{name: value})
                    rows += _rows("sampler", name, at, number, _draw_calls(at), seconds)
            for name, (play, values) in (QUICK_PLAYS if quick else PLAYS).items():
                print(f"scaling: rollout over {name}", file=sys.stderr, flush=True)
                for value in values:
                    played = replace(play, **{name: value})
                    rows += _rows("rollout", name, played, number, _play_calls(played), seconds)
    return rows


def _draw_calls(at: Draw) -> dict[str, harness.Work]:
    logits = torch.randn(at.R, at.C, generator=device.generator(1))
    samplers = {"native": gumbel_topk.native, EAGER: sampler_peers.noise_topk}
    for name, sampler in samplers.items():  # the law is the gumbel_topk question's
        gumbel_topk.check_shape(name, sampler(logits, at.k), logits, at.k)
    return {name: partial(sampler, logits, at.k) for name, sampler in samplers.items()}


def _play_calls(at: Play) -> dict[str, harness.Work]:
    size = Size("gru", 32, at.H, 1)
    models = make(size, "random", NEVER_ENDING, quick=False)
    calls: dict[str, Callable[[], Any]] = {
        "native": partial(play_native, models, at.R, cap=at.T, n=at.N),
        EAGER: partial(play_eager, models, at.R, cap=at.T, n=at.N),
    }
    check_same(EAGER, calls["native"](), calls[EAGER](), size.items)
    return calls


def _rows(
    what: str, varied: str, at: Draw | Play, threads: int, calls: dict[str, harness.Work], seconds: float
) -> list[dict[str, Any]]:
    measured = harness.compare(calls, seconds=seconds, rounds=3)
    sizes = vars(at)
    kept = " ".join(f"{name}={value:,}" for name, value in sizes.items() if name != varied)
    return [
        {
            "op": what,
            "varied": varied,
            "value": sizes[varied],
            "others": kept,
            "threads": threads,
            "what": name,
            "ms (quartiles)": m.ms,
            "time / native (quartiles)": m.ratio,
            "rounds": m.rounds,
        }
        for name, m in measured.items()
    ]


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw time against each varied size, both axes logarithmic: one panel per size, one line per candidate.

    Args:
        rows: what `run` returned. path: a PNG or what else matplotlib writes.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = [(name, list(group)) for name, group in groupby(rows, key=lambda row: (row["op"], row["varied"]))]
    panels = panels[: len(DRAWS) + len(PLAYS)]  # those of the first number of threads
    figure, axes = pyplot.subplots(2, 3, figsize=(10, 6), layout="constrained")
    for axis, ((op, varied), group) in zip(axes.flat, panels):
        for what, style in (("native", "o-"), (EAGER, "s--")):
            mine = [row for row in group if row["what"] == what]
            x, y = [row["value"] for row in mine], [row["ms (quartiles)"] for row in mine]
            axis.loglog(x, [ms.median for ms in y], style, label=what, markersize=4)
            axis.fill_between(x, [ms.low for ms in y], [ms.high for ms in y], alpha=0.2)
        values = list(dict.fromkeys(row["value"] for row in group))
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.minorticks_off()
        axis.set(xlabel=varied, ylabel="ms", title=f"{op}, {group[0]['others']}")
        axis.grid(alpha=0.3, which="both", linewidth=0.4)
    axes.flat[0].legend()
    figure.suptitle(f"Time per call, {rows[0]['threads']} thread(s): median and quartiles")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)

"""From which catalogue on do draws that look into few of its blocks pay, against a projection of all its items?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench import device, harness
from bench.gumbel_topk import DRAWS, check_law, check_shape
from bench.peers import gumbel_topk as peers
from irecgan_ext import ops
from irecgan_ext.catalogue import CatalogueIndex

WIDTH = 64  # H
ITEMS = [10_000, 100_000, 1_000_000]  # C
QUICK_ITEMS = [1_000]
ROWS = [1, 64]  # R
BRANCHES = 8
PREPARED, PLAIN = "prepared catalogue", "linear_gumbel_topk"
EVERY_BLOCK, EAGER = "prepared catalogue, all blocks", "F.linear, logits + Gumbel, topk"


def random_weights(items: int, generator: torch.Generator) -> Tensor:
    """[C, H] without structure: w ~ N(0, 1 / H), so that logits have a deviation of 1 under states N(0, 1)."""
    return torch.randn(items, WIDTH, generator=generator) / WIDTH**0.5


def tree_weights(items: int, generator: torch.Generator) -> Tensor:
    """[C, H] of items in a tree of categories, as in a shop: BRANCHES per node, each adds N(0, 1) at half its parent's scale.

    Scaled so that logits have a deviation of 2 under states N(0, 1).
    """
    depth = 1
    while BRANCHES**depth < items:
        depth += 1
    item = torch.randint(BRANCHES**depth, (items,), generator=generator)
    weight = torch.zeros(items, WIDTH)
    for level in range(1, depth + 1):
        nodes, inside = (item // BRANCHES ** (depth - level)).unique(return_inverse=True)
        weight += 0.5**level * torch.randn(len(nodes), WIDTH, generator=generator)[inside]
    return weight * (2 / (weight.square().sum(1).mean() ** 0.5))


KINDS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "tree of categories": tree_weights,
    "random": random_weights,
}


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per kind of weights, C, number of threads and R, the candidates."""
    rows = []
    for kind, make in KINDS.items():
        for items in QUICK_ITEMS if quick else ITEMS:
            print(f"catalogue_sample: {kind}, {items:,} items", file=sys.stderr, flush=True)
            generator = device.generator(1)
            weight = make(items, generator)
            bias = -torch.log1p(torch.rand(items, generator=generator) * 99)  # popularities 1 to 100 apart
            hidden = torch.randn(max(ROWS), WIDTH, generator=generator)
            rows += measure(kind, hidden, weight, bias, threads, quick)
    return rows


def measure(
    name: str, hidden: Tensor, weight: Tensor, bias: Tensor, threads: Sequence[int], quick: bool
) -> list[dict[str, Any]]:
    """Rows of results for one catalogue: weight [C, H], bias [C], and states hidden [R, H] of which the first ROWS are used."""
    begin = time.process_time()
    with harness.thread_count(1):
        index = CatalogueIndex(weight, bias)
        built = time.process_time() - begin
        begin = time.process_time()
        index.rebuild(regroup=False)
        rebuilt = time.process_time() - begin
    check(index, hidden, weight, bias)
    rows = []
    for number in threads:
        with harness.thread_count(number):
            for count in ROWS:
                measured = harness.compare(
                    _calls(index, hidden[:count], weight, bias), seconds=0.1 if quick else 3, rounds=3
                )
                opened = index.sample(hidden[:count], DRAWS).opened.double().mean() / index.blocks
                rows += [
                    {
                        "weights": name,
                        "C": len(weight),
                        "R": count,
                        "threads": number,
                        "what": what,
                        "ms (quartiles)": m.ms,
                        "time / prepared (quartiles)": m.ratio,
                        "blocks opened": f"{100 * float(opened):.3g}%" if what == PREPARED else None,
                        "CPU s to build, rebuild": f"{built:.2g}, {rebuilt:.2g}" if what == PREPARED else None,
                        "peak extra MB": None if m.extra_mb is None else round(m.extra_mb, 1),
                        "rounds": m.rounds,
                    }
                    for what, m in measured.items()
                ]
    return rows


def _calls(index: CatalogueIndex, hidden: Tensor, weight: Tensor, bias: Tensor) -> dict[str, harness.Work]:
    return {
        PREPARED: lambda: index.sample(hidden, DRAWS),
        EVERY_BLOCK: lambda: index.sample(hidden, DRAWS, logsumexp=True),
        PLAIN: lambda: ops.linear_gumbel_topk(hidden, weight, bias, DRAWS),
        EAGER: lambda: peers.noise_topk(functional.linear(hidden, weight, bias), DRAWS),
    }


def check(index: CatalogueIndex, hidden: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise AssertionError unless the index's draws follow the softmax of the first row's logits."""
    logits = functional.linear(hidden[:1], weight, bias)
    check_shape(PREPARED, index.sample(hidden[:1], DRAWS).indices, logits, DRAWS)

    def sample(copies: Tensor, k: int) -> Tensor:
        return index.sample(hidden[:1].expand(len(copies), -1), k).indices

    check_law(PREPARED, sample, logits[0], DRAWS, samples=200)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw time against C, both axes logarithmic: one panel per kind of weights and R, one line per candidate.

    Args:
        rows: what `run` returned. path: a PNG or what else matplotlib writes.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(ROWS), len(KINDS), figsize=(9, 6.5), sharex=True, layout="constrained")
    styles = {PREPARED: "o-", EVERY_BLOCK: "v:", PLAIN: "^--", EAGER: "s--"}
    threads = rows[0]["threads"]
    for line, count in zip(axes, ROWS):
        for axis, kind in zip(line, KINDS):
            for what, style in styles.items():
                wanted = {"weights": kind, "R": count, "what": what, "threads": threads}
                mine = [row for row in rows if wanted.items() <= row.items()]
                x, y = [row["C"] for row in mine], [row["ms (quartiles)"] for row in mine]
                axis.loglog(x, [ms.median for ms in y], style, label=what, markersize=4)
                axis.fill_between(x, [ms.low for ms in y], [ms.high for ms in y], alpha=0.2)
            axis.set(xlabel="C", ylabel="ms", title=f"{kind}, R = {count}")
            axis.grid(alpha=0.3, which="both", linewidth=0.4)
    axes[0, 0].legend(fontsize="small")
    figure.suptitle(f"{DRAWS} draws per row, H = {WIDTH}, {threads} thread(s): median and quartiles")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)

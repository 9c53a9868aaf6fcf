"""How fast are k draws without replacement, against PyTorch's two ways to make them?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import irecgan_ext
from bench import device, harness
from bench.peers import gumbel_topk as peers

SIZES = [(256, 40_000), (64, 1_000_000), (4096, 50), (1, 40_000)]  # R, C
CUDA_SIZES = [(8192, 40_000), (64, 1_000_000), (100_000, 50), (1, 40_000)]
QUICK_SIZES = [(512, 50), (4, 5_000), (1, 5_000)]
DRAWS = 10
BINS = 20
CHI_SQUARED_LIMIT = 50.8  # BINS - 1 degrees of freedom, p = 1e-4
LAW_LIMIT = 100_000  # items; the peers' law is not checked on more, they take minutes for it

Sampler = Callable[[Tensor, int], Tensor]


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per size and number of threads, the op and its peers."""
    rows = []
    for count, items in QUICK_SIZES if quick else CUDA_SIZES if device.is_cuda() else SIZES:
        logits = torch.randn(count, items, generator=device.generator(1))
        samplers: dict[str, Sampler] = {"native": native, "logits + Gumbel, topk": peers.noise_topk}
        if items <= peers.MULTINOMIAL_LIMIT:
            samplers["softmax, multinomial"] = peers.multinomial
        for name, sampler in samplers.items():
            check_shape(name, sampler(logits, DRAWS), logits, DRAWS)
            if name == "native" or items <= LAW_LIMIT:
                check_law(name, sampler, logits[0], DRAWS)
        for number in threads:
            with harness.thread_count(number):
                rows += _measure(samplers, logits, number, quick)
                if count == 1 and not device.is_cuda():
                    rows += _measure(samplers, logits, number, quick, repeated=False)
    return rows


def native(logits: Tensor, k: int) -> Tensor:
    return irecgan_ext.gumbel_topk(logits, k)[1]


def _measure(
    samplers: dict[str, Sampler], logits: Tensor, threads: int, quick: bool, repeated: bool = True
) -> list[dict[str, Any]]:
    fill = harness.FILL if repeated else 0
    calls = {name: partial(sampler, logits, DRAWS) for name, sampler in samplers.items()}
    ceiling = harness.read_bandwidth(logits, [*calls.values()][-1], 0.05 if quick else 0.5, fill)
    measured = harness.compare(calls, seconds=0.1 if quick else 3, fill=fill)
    rows = []
    for name, m in measured.items():
        rate = logits.nbytes / 1e6 / m.ms.median
        rows.append(
            {
                "R x C": f"{logits.shape[0]:,} x {logits.shape[1]:,}",
                "threads": threads,
                "what": name if repeated else f"{name}, one call in turn",
                "ms (quartiles)": m.ms,
                "time / native (quartiles)": m.ratio,
                "GB/s of logits": rate,
                "share of the read ceiling": harness.share(rate, ceiling, "GB/s"),
                "peak extra MB": None if m.extra_mb is None else round(m.extra_mb),
                "rounds": m.rounds,
            }
        )
    return rows


def check_shape(name: str, indices: Tensor, logits: Tensor, k: int) -> None:
    """Raise AssertionError unless `indices` [R, k] are int64, in range and distinct in each row."""
    count, items = logits.shape
    if indices.shape != (count, k) or indices.dtype != torch.int64:
        raise AssertionError(f"{name}: indices must be [{count}, {k}] int64, got {indices.dtype} {list(indices.shape)}")
    ordered = indices.sort(1).values
    if not bool(((ordered >= 0) & (ordered < items)).all() and (ordered[:, 1:] != ordered[:, :-1]).all()):
        raise AssertionError(f"{name}: indices must be distinct items in 0..{items - 1}")


def check_law(name: str, sampler: Sampler, row: Tensor, k: int, samples: int = 1000) -> None:
    """Raise AssertionError unless k successive draws from logits `row` [C] follow its softmax without replacement.

    Each draw is mapped to where it falls in the distribution of the items that are left, likely ones last, with a uniform
    offset inside the item's own share. All `samples` * k places are then independent and uniform; chi-squared on `BINS`
    bins. A temperature of 0.9, normal in place of Gumbel noise, and draws out of order (of 50 items) do not pass.
    """
    items = row.shape[0]
    batch = max(1, min(samples, 4_000_000 // items))
    copies = row.expand(batch, items).contiguous()
    indices = torch.cat([sampler(copies, k) for _ in range(-(-samples // batch))])
    order = row.argsort()
    indices = order.argsort()[indices]
    p = torch.softmax(row[order].double(), 0)
    below = p.cumsum(0) - p
    mine = p[indices]
    earlier = torch.ones(k, k, dtype=torch.bool).tril(-1)  # [draw, earlier draw]
    removed = (mine[:, None, :] * earlier).sum(-1)
    removed_below = (mine[:, None, :] * (earlier & (indices[:, None, :] < indices[:, :, None]))).sum(-1)
    place = (below[indices] - removed_below + mine * torch.rand(mine.shape, dtype=torch.float64)) / (1 - removed)
    counts = torch.histc(place, BINS, 0, 1)
    expected = place.numel() / BINS
    statistic = float(((counts - expected) ** 2 / expected).sum())
    if statistic > CHI_SQUARED_LIMIT:
        raise AssertionError(f"{name}: draws do not follow the softmax, chi-squared {statistic:.1f} at {BINS} bins")

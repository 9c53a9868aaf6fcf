"""What does it cost to sample from a linear layer's outputs, against making the outputs alone, and against sampling from them?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench import device, harness
from bench.gumbel_topk import DRAWS, check_law, check_shape
from bench.peers import gumbel_topk as peers
from irecgan_ext import ops

SIZES = [(256, 512, 40_000), (32, 512, 40_000), (1, 512, 40_000)]  # R, H, C
CUDA_SIZES = [(8192, 512, 40_000), (256, 512, 40_000), (1, 512, 40_000)]
QUICK_SIZES = [(12, 32, 1_000)]


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per size and number of threads, the op, the bare projection, and projection and sampling."""
    rows = []
    sizes = QUICK_SIZES if quick else CUDA_SIZES if device.is_cuda() else SIZES
    dtypes = [torch.float32, torch.bfloat16] if device.is_cuda() else [torch.float32]
    for (count, width, items), dtype in itertools.product(sizes, dtypes):
        generator = device.generator(1)
        hidden = torch.randn(count, width, generator=generator).to(dtype)
        weight = (torch.randn(items, width, generator=generator) / width**0.5).to(dtype)
        bias = torch.randn(items, generator=generator).to(dtype)
        check(hidden, weight, bias)
        for number in threads:
            with harness.thread_count(number):
                rows += _measure(hidden, weight, bias, number, quick)
    return rows


def check(hidden: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise AssertionError unless the op's draws follow the softmax of the first row's logits."""
    logits = functional.linear(hidden, weight, bias).float()
    check_shape("native", ops.linear_gumbel_topk(hidden, weight, bias, DRAWS).indices, logits, DRAWS)

    def sample(copies: Tensor, k: int) -> Tensor:
        return ops.linear_gumbel_topk(hidden[:1].expand(len(copies), -1), weight, bias, k).indices

    check_law("native", sample, logits[0], DRAWS, samples=200)


def _measure(hidden: Tensor, weight: Tensor, bias: Tensor, threads: int, quick: bool) -> list[dict[str, Any]]:
    def project() -> Tensor:
        return functional.linear(hidden, weight, bias)

    calls: dict[str, harness.Work] = {
        "native": lambda: ops.linear_gumbel_topk(hidden, weight, bias, DRAWS),
        "F.linear alone": project,
        "F.linear, native gumbel_topk": lambda: ops.gumbel_topk(project().float(), DRAWS),
        "F.linear, logits + Gumbel, topk": lambda: peers.noise_topk(project(), DRAWS),
    }
    ceiling = harness.gemm_rate(seconds=0.05 if quick else 0.5, dtype=hidden.dtype)
    measured = harness.compare(calls, seconds=0.1 if quick else 3)
    (count, width), items = hidden.shape, weight.shape[0]
    rows = []
    for name, m in measured.items():
        rate = 2 * count * width * items / 1e6 / m.ms.median
        rows.append(
            {
                "R x H -> C": f"{count:,} x {width:,} -> {items:,}",
                "dtype": str(hidden.dtype).removeprefix("torch."),
                "threads": threads,
                "what": name,
                "ms (quartiles)": m.ms,
                "time / native (quartiles)": m.ratio,
                "GFLOP/s": rate,
                "share of F.linear's best": harness.share(rate, ceiling, "GFLOP/s"),
                "peak extra MB": None if m.extra_mb is None else round(m.extra_mb, 1),
                "rounds": m.rounds,
            }
        )
    return rows

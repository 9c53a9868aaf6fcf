"""What does log pi of one item cost, gradients included, if the logits of the catalogue are never held?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import device, harness
from bench.peers import linear_log_prob as peers
from irecgan_ext import ops

SIZES = [(512, 512, 40_000), (512, 64, 40_000), (128, 64, 50)]  # R, H, C
CUDA_SIZES = [(8192, 512, 40_000), (8192, 64, 50)]
QUICK_SIZES = [(64, 16, 50), (40, 32, 2_000)]
TOLERANCE = 1e-5  # of the largest entry, on top of PyTorch's own error

LogProb = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Problem = tuple[Tensor, Tensor, Tensor, Tensor]


def run(threads: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Rows of results: per size and number of threads, the op and its peer."""
    rows = []
    candidates: dict[str, LogProb] = {"native": ops.linear_log_prob, "F.linear, cross_entropy": peers.cross_entropy}
    for size in QUICK_SIZES if quick else CUDA_SIZES if device.is_cuda() else SIZES:
        problem = make_problem(*size)
        check_gradients(problem)
        for number in threads:
            with harness.thread_count(number):
                rows += _measure(candidates, problem, number, quick)
    return rows


def make_problem(rows: int, width: int, items: int) -> Problem:
    """hidden, weight, bias with gradients and targets; logits of unit variance, so that no tile is left out."""
    generator = device.generator(1)
    hidden = torch.randn(rows, width, generator=generator).requires_grad_()
    weight = (torch.randn(items, width, generator=generator) / width**0.5).requires_grad_()
    bias = torch.zeros(items).requires_grad_()
    return hidden, weight, bias, torch.randint(items, (rows,), generator=generator)


def gradients(log_prob: LogProb, problem: Problem) -> tuple[Tensor, ...]:
    """One training step's share: log pi, then the gradients of its sum."""
    *leaves, targets = problem
    return torch.autograd.grad(log_prob(*leaves, targets).sum(), leaves)


def check_gradients(problem: Problem) -> None:
    """Raise AssertionError unless the op is as close to float64's results as PyTorch is, plus the tolerance."""
    *leaves, targets = problem
    exact_problem = (*(x.detach().double().requires_grad_() for x in leaves), targets)
    exact = [peers.cross_entropy(*exact_problem).detach(), *gradients(peers.cross_entropy, exact_problem)]
    errors = []
    for log_prob in (ops.linear_log_prob, peers.cross_entropy):
        got = [log_prob(*problem).detach(), *gradients(log_prob, problem)]
        errors.append([float((x - y).abs().max() / y.abs().max()) for x, y in zip(got, exact)])
    for name, mine, theirs in zip(("log_prob", "hidden.grad", "weight.grad", "bias.grad"), *errors):
        if not mine <= theirs + TOLERANCE:
            raise AssertionError(f"{name}: error {mine:.1e} of the largest entry, PyTorch's is {theirs:.1e}")


def _measure(candidates: dict[str, LogProb], problem: Problem, threads: int, quick: bool) -> list[dict[str, Any]]:
    hidden, weight = problem[:2]
    (count, width), items = hidden.shape, weight.shape[0]
    product = 2 * count * width * items / 1e6
    ceiling = harness.gemm_rate(count, width, items, 0.1 if quick else 2)
    calls = {name: partial(gradients, log_prob, problem) for name, log_prob in candidates.items()}
    measured = harness.compare(calls, seconds=0.1 if quick else 20)
    gradient_mb = sum(x.nbytes for x in problem[:3]) / 1e6
    rows = []
    for name, m in measured.items():
        products = 4 if name == "native" else 3  # the op computes the logits twice
        rows.append(
            {
                "R x H -> C": f"{count:,} x {width:,} -> {items:,}",
                "threads": threads,
                "what": name,
                "ms (quartiles)": m.ms,
                "time / native (quartiles)": m.ratio,
                "products": products,
                "share of F.linear": harness.share(products * product / m.ms.median, ceiling, "GFLOP/s"),
                "peak extra MB": None if m.extra_mb is None else round(m.extra_mb, 1),
                "of which gradients MB": round(gradient_mb, 1),
                "rounds": m.rounds,
            }
        )
    return rows

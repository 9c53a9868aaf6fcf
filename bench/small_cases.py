"""Every kernel once, on a small case: what `bench/gpu.sh` runs under compute-sanitizer. `python -m bench.small_cases`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product

import torch

from irecgan_ext import ops
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.rollout import rollout


def gumbel_topk(device: torch.device) -> None:
    for dtype, (items, k) in product((torch.float32, torch.float64), ((1, 1), (65, 10), (4099, 64))):
        ops.gumbel_topk(torch.randn(3, items, dtype=dtype, device=device), k, seed=1)


def linear_gumbel_topk(device: torch.device) -> None:
    dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    for dtype, (items, width) in product(dtypes, ((70, 5), (300, 33))):
        hidden, weight = torch.randn(5, width, device=device), torch.randn(items, width, device=device)
        mask = torch.rand(items, device=device) < 0.9
        ops.linear_gumbel_topk(hidden.to(dtype), weight.to(dtype), None, 3, seed=1, mask=mask, log_prob=True)


def linear_log_prob(device: torch.device) -> None:
    for items, width in ((70, 5), (300, 33)):
        hidden, weight = torch.randn(9, width, device=device), torch.randn(items, width, device=device)
        bias, targets = torch.randn(items, device=device), torch.randint(items, (9,), device=device)
        leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
        ops.linear_log_prob(*leaves, targets).sum().backward()


def rollouts(device: torch.device) -> None:
    for cell, reward, share, items in product(("gru", "lstm"), ("survival", "binary"), (True, False), (13, 1_100)):
        if cell == "lstm" and items > 13:
            continue
        torch.manual_seed(0)
        models = (
            UserModel(items, 5, 9, 2, cell, reward=reward),
            Agent(items, 6, 8, 2, cell),
            Discriminator(items, 4, 7, 2, cell, reward=reward),
        )
        moved = [model.to(device) for model in models]
        rollout(*moved, sessions=12, slate_size=3, max_steps=3, completions=2, seed=1, share=share)


CASES: dict[str, Callable[[torch.device], None]] = {
    "gumbel_topk": gumbel_topk,
    "linear_gumbel_topk": linear_gumbel_topk,
    "linear_log_prob": linear_log_prob,
    "rollout": rollouts,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.small_cases", description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"which, of {', '.join(CASES)} (default all)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options = parser.parse_args()
    unknown = set(options.ops) - set(CASES)
    if unknown:
        parser.error(f"OP must be one of {', '.join(CASES)}, got {', '.join(sorted(unknown))}")
    for name in options.ops or CASES:
        CASES[name](torch.device(options.device))
        if options.device == "cuda":
            torch.cuda.synchronize()
        print(f"{name}: ran")


if __name__ == "__main__":
    main()

"""Linear layers and their truth, for the tests of the linear ops on CUDA devices and in csrc/simt."""

import torch
from torch import Tensor
from torch.nn import functional

from irecgan_ext import ops
from irecgan_ext.types import PAD

EPSILON = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}


def on_gpu(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.cuda() for t in tensors]


def layer(rows: int, width: int, items: int, dtype=torch.float32, bias: bool = True, scale: float = 1.0):
    """hidden [rows, width], weight [items, width], bias [items] or None."""
    generator = torch.Generator().manual_seed(rows + 7 * width + 13 * items)
    hidden = torch.randn(rows, width, generator=generator).to(dtype)
    weight = (scale * torch.randn(items, width, generator=generator) / max(1, width) ** 0.5).to(dtype)
    return hidden, weight, torch.randn(items, generator=generator).to(dtype) if bias else None


def cpu_draws(hidden: Tensor, weight: Tensor, bias: Tensor | None, k: int, **options) -> ops.LinearDraws:
    """The CPU op on the same numbers in float32: products of bfloat16 are exact there."""
    return ops.linear_gumbel_topk(hidden.float(), weight.float(), None if bias is None else bias.float(), k, **options)


def log_prob_problem(rows: int, width: int, items: int, *args, **options):
    """hidden, weight, bias as from `layer`, targets, and the incoming gradient."""
    generator = torch.Generator().manual_seed(rows)
    targets, grad = torch.randint(items, (rows,), generator=generator), torch.randn(rows, generator=generator)
    return *layer(rows, width, items, *args, **options), targets, grad


def autograd(function, hidden, weight, bias, targets, grad, dtype) -> list[Tensor | None]:
    leaves = [None if x is None else x.detach().to(dtype, copy=True).requires_grad_() for x in (hidden, weight, bias)]
    out = function(*leaves, targets)
    out.backward(grad.to(dtype))
    return [out.detach(), *(None if x is None else x.grad for x in leaves)]


def cross_entropy(hidden, weight, bias, targets):
    return -functional.cross_entropy(
        functional.linear(hidden, weight, bias), targets, reduction="none", ignore_index=PAD
    )


def assert_as_exact_as_pytorch(mine, arguments) -> None:
    """Errors against float64 at most PyTorch's own in the same dtype, plus roundings of the largest entry."""
    dtype = arguments[0].dtype
    truth = autograd(cross_entropy, *arguments, torch.float64)
    theirs = autograd(cross_entropy, *arguments, dtype)
    for name, ours, other, exact in zip(("log_prob", "hidden", "weight", "bias"), mine, theirs, truth):
        if exact is None or ours is None:
            continue
        epsilon = 2.0**-23 if name == "log_prob" else EPSILON[dtype]
        tolerance = 16 * 2.0**-23 * exact.abs().max().clamp(min=1e-3) + epsilon * exact.abs().max() / 2
        assert (ours.double() - exact).abs().max() <= (other.double() - exact).abs().max() + tolerance, name

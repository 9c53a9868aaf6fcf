"""Output projection and sampling without replacement, with the logits in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from irecgan_ext.reference.gumbel_topk import gumbel_topk


def linear_gumbel_topk(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    seed: Tensor,
    rows: Tensor,
    step: int,
    exclude: Tensor | None,
    mask: Tensor | None,
    log_prob: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`gumbel_topk` of hidden [R, H] @ weight [C, H]^T + bias [C], without the excluded items.

    Args:
        exclude: [R, X] int64, items of each row that are not drawn, padded with PAD = -1.
        mask: [C] or [R, C] bool, False for items that are not drawn.
        log_prob: whether the slates' log-probabilities are wanted.

    Returns:
        values [R, k], indices [R, k] int64, logsumexp [R] of the logits that may be drawn, and the slates'
        Plackett-Luce log-probabilities [R], or [0] if they are not wanted.
    """
    if hidden.dtype == torch.bfloat16:  # the op sums in float32
        hidden, weight, bias = hidden.float(), weight.float(), None if bias is None else bias.float()
    logits = functional.linear(hidden, weight, bias)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    if exclude is not None:
        padded = functional.pad(logits, (0, 1))  # PAD = -1 falls into the last column
        logits = padded.scatter(1, exclude % padded.shape[1], -torch.inf)[:, :-1]
    values, indices = gumbel_topk(logits, k, seed, rows, step)
    slates = _slate_log_prob(logits, indices) if log_prob else logits.new_empty(0)
    return values, indices, logits.logsumexp(1), slates


def _slate_log_prob(logits: Tensor, indices: Tensor) -> Tensor:
    """[R]: draw after draw, the item's log-probability among those that are left."""
    total = logits.new_zeros(len(logits), dtype=torch.float64)
    left = logits.double()
    for item in indices.unbind(1):
        total += (left.gather(1, item[:, None]) - left.logsumexp(1, keepdim=True))[:, 0]
        left = left.scatter(1, item[:, None], -torch.inf)
    return total.to(logits.dtype)

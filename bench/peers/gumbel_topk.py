"""k draws without replacement from the softmax of each row, with PyTorch's own ops."""

from __future__ import annotations

import torch
from torch import Tensor

MULTINOMIAL_LIMIT = 2**24  # torch.multinomial takes no more categories


def noise_topk(logits: Tensor, k: int) -> Tensor:
    """[R, k] int64: topk of `logits` [R, C] plus exact Gumbel noise, one temporary of the size of the logits."""
    noise = torch.empty_like(logits).exponential_().log_()
    return torch.sub(logits, noise, out=noise).topk(k).indices


def multinomial(logits: Tensor, k: int) -> Tensor:
    """[R, k] int64: `torch.multinomial` on the softmax of `logits` [R, C]."""
    return torch.multinomial(torch.softmax(logits, 1), k)

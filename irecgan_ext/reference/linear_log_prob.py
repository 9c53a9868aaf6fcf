"""Log-probability of one item of a linear softmax, the logits held as a whole."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_log_prob(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """log_softmax(hidden @ weight^T + bias) at each row's target; differentiable.

    Args:
        hidden: [R, H] float. weight: [C, H] float. bias: [C] float or None.
        targets: [R] int64 in 0..C-1, or PAD (any negative): log-probability 0 and no gradient.

    Returns:
        [R], dtype of hidden; float32 for bfloat16.
    """
    if hidden.dtype == torch.bfloat16:  # the op sums in float32
        hidden, weight, bias = hidden.float(), weight.float(), None if bias is None else bias.float()
    kept = targets >= 0
    logits = torch.nn.functional.linear(hidden[kept], weight, bias)
    chosen = logits.log_softmax(1).gather(1, targets[kept, None])[:, 0]
    return hidden.new_zeros(targets.shape).masked_scatter(kept, chosen)

"""The k largest outputs of a linear layer without all of them in memory."""

from __future__ import annotations

import torch
from torch import Tensor

_TILE = 8192  # items projected at a time
_BLOCK = 64  # the k best items are in the k blocks with the largest maxima: only those are sorted


@torch.no_grad()
def linear_topk(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    k: int,
    *,
    exclude: Tensor | None = None,
    mask: Tensor | None = None,
    tile: int = _TILE,
) -> tuple[Tensor, Tensor, Tensor]:
    """Equivalent to `F.linear(hidden, weight, bias).topk(k)`, and to the `logsumexp` of the same logits, tile by tile.

    Args:
        hidden: [R, H] float32. weight: [C, H] float32. bias: [C] float32.
        k: 1..C.
        exclude: [R, X] int64, items of each row that do not count, padded with PAD (any negative).
        mask: [C] bool, False for items that do not count.
        tile: items at a time; the memory is R x (tile + k).

    Returns:
        values [R, k] float32 in descending order and items [R, k] int64, -inf and PAD beyond the items that count; logsumexp [R]
        float32 over the items that count, -inf where there is none.

    Raises:
        ValueError: k is not in 1..C.
    """
    rows, items = len(hidden), len(weight)
    if not 1 <= k <= items:
        raise ValueError(f"k must be in 1..C (C = {items}), got {k}")
    values = hidden.new_full((rows, k), -torch.inf)
    indices = torch.full((rows, k), -1, device=hidden.device)
    total = hidden.new_full((rows,), -torch.inf)
    for first in range(0, items, tile):
        logits = torch.addmm(bias[first : first + tile], hidden, weight[first : first + tile].T)
        if mask is not None:
            logits.masked_fill_(~mask[first : first + tile], -torch.inf)
        if exclude is not None:
            place = exclude - first
            row, column = ((place >= 0) & (place < logits.shape[1])).nonzero(as_tuple=True)
            logits[row, place[row, column]] = -torch.inf
        best, at = _topk(logits, min(k, logits.shape[1]))
        largest = best[:, :1].clamp(min=torch.finfo(logits.dtype).min)  # a row of -inf alone must not become NaN
        total = torch.logaddexp(total, logits.sub_(largest).exp_().sum(1).log_() + largest[:, 0])
        values, chosen = torch.cat([values, best], 1).topk(k)
        indices = torch.cat([indices, at + first], 1).gather(1, chosen)
    return values, indices.masked_fill(values == -torch.inf, -1), total


def _topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`logits.topk(k)` of [R, W]; torch's own reads a wide row several times."""
    rows, width = logits.shape
    blocks = width // _BLOCK
    if blocks <= k:
        return logits.topk(k)
    whole = logits[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))
    winners = whole.amax(2).topk(k).indices  # [R, k]
    inside = whole.gather(1, winners[:, :, None].expand(rows, k, _BLOCK)).flatten(1)
    items = (winners[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=logits.device)).flatten(1)
    rest = torch.arange(blocks * _BLOCK, width, device=logits.device).expand(rows, -1)
    values, chosen = torch.cat([inside, logits[:, blocks * _BLOCK :]], 1).topk(k)
    return values, torch.cat([items, rest], 1).gather(1, chosen)

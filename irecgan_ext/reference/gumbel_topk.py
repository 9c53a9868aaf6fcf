"""Sampling without replacement as a race of exponential arrivals between blocks of items, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from irecgan_ext.reference.philox import ARRIVAL, PICK, Stream, exponential, uniform

BLOCK = 64  # items per block of the race


def gumbel_topk(logits: Tensor, k: int, seed: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The k largest of `logits + Gumbel noise`, i.e. k successive softmax draws without replacement.

    Args:
        logits: [R, C] float. -inf excludes an item.
        k: number of draws, 1..C.
        seed: [] int64, key of the random numbers.
        rows: [R] int64, global row ids that key each row's noise.
        step: step that keys the noise, 0..65535.

    Returns:
        values [R, k] in the logits' dtype, descending, and indices [R, k] int64. Draws beyond the row's finite logits are
        (-inf, -1).
    """
    zeros = torch.zeros_like(rows)
    return gumbel_race(logits, k, Stream(seed, rows, zeros + step, zeros, zeros))


def gumbel_race(logits: Tensor, k: int, stream: Stream) -> tuple[Tensor, Tensor]:
    """`gumbel_topk` with the random numbers of `stream`, whose R rows are those of logits [R, C].

    The first arrival of a block is Exp(1) / (sum of its weights exp(logit)). When it wins, one of its items arrives with
    probability proportional to its weight, and the block's next arrival comes Exp(1) / (remaining weight) later.
    """
    remaining = _blocks(logits)
    values, indices = race_on(remaining, first_arrivals(remaining.logsumexp(2), stream), k, stream)
    return values.to(logits.dtype), indices


def race_on(remaining: Tensor, arrivals: Tensor, k: int, stream: Stream) -> tuple[Tensor, Tensor]:
    """The k earliest arrivals of blocks whose first ones are known.

    Args:
        remaining: [R, blocks, BLOCK] float64 logits; changed. arrivals: [R, blocks] float64, log times; changed.

    Returns:
        values [R, k] float64 and indices [R, k] int64 as in `gumbel_topk`, of the items in the order of the blocks.
    """
    drawn = torch.zeros_like(arrivals, dtype=torch.int64)
    row = torch.arange(len(remaining), device=remaining.device)
    values, indices = [], []
    for _ in range(k):
        arrival, block = arrivals.min(1)
        words = stream.words(PICK, block | (drawn[row, block] << 24))
        item = _pick(remaining[row, block], uniform(words[:, 0], words[:, 1]))
        live = arrival.isfinite()
        values.append(-arrival)
        indices.append(torch.where(live, block * BLOCK + item, -1))
        remaining[row, block, item] = -torch.inf
        gap = exponential(words[:, 2], words[:, 3]).log() - remaining[row, block].logsumexp(1)
        arrivals[row, block] = torch.logaddexp(arrival, gap)
        drawn[row, block] += 1
    return torch.stack(values, 1), torch.stack(indices, 1)


def _blocks(logits: Tensor) -> Tensor:
    """[R, C] -> [R, ceil(C / BLOCK), BLOCK] float64, filled up with -inf."""
    rows, items = logits.shape
    count = -(-items // BLOCK)
    padded = logits.new_full((rows, count * BLOCK), -torch.inf, dtype=torch.float64)
    padded[:, :items] = logits.detach()
    return padded.view(rows, count, BLOCK)


def first_arrivals(log_weights: Tensor, stream: Stream) -> Tensor:
    """[R, blocks] float64: log time of each block's first arrival, +inf for a block of log weight -inf; log_weights alike."""
    rows, count = log_weights.shape
    pairs = torch.arange(-(-count // 2), device=log_weights.device).expand(rows, -1)
    words = stream.words(ARRIVAL, pairs).reshape(rows, 2 * pairs.shape[1], 2)[:, :count]
    return exponential(words[..., 0], words[..., 1]).log() - log_weights


def _pick(logits: Tensor, u: Tensor) -> Tensor:
    """[R] int64: first item whose cumulative weight exceeds u [R] of the total of logits [R, BLOCK]; 0 if none is left."""
    peak = logits.amax(1, keepdim=True)
    weights = (logits - torch.where(peak.isfinite(), peak, 0.0)).exp().cumsum(1)
    return (weights > u[:, None] * weights[:, -1:]).int().argmax(1)

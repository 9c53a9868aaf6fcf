"""Philox4x32-10 (Salmon et al., SC 2011) in torch int64 arithmetic, and the counters that key every random number.

One number never depends on threads, batches or devices: only on the seed and on (row, step, completion, spawn, purpose, block).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ARRIVAL = 0  # first arrival of a block of the race
PICK = 1  # which item of a block arrives, and when the next one does
CLICK = 2  # the user's click and reward

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_BELOW_ONE = 1.0 - 2.0**-53


def _multiply(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """(high, low) 32-bit words of x * factor, by 16-bit halves so that int64 never overflows."""
    low = (x & 0xFFFF) * factor
    high = (x >> 16) * factor + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Ten rounds of Philox4x32.

    Args:
        counter: [..., 4] int64, words in 0..2^32-1.
        key: [2] int64, words in 0..2^32-1.

    Returns:
        [..., 4] int64: four random words in 0..2^32-1 for each counter.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return torch.stack([c0, c1, c2, c3], -1)


def uniform(low: Tensor, high: Tensor) -> Tensor:
    """Uniform on (0, 1) from two 32-bit words (int64, any shape): high 2^-32 + (low + 1/2) 2^-64, float64.

    Values close to 0 keep 64 bits of resolution and 0 itself is impossible; those that round to 1 become 1 - 2^-53.
    """
    return (high.double() * 2.0**-32 + (low.double() + 0.5) * 2.0**-64).clamp(max=_BELOW_ONE)


def exponential(low: Tensor, high: Tensor) -> Tensor:
    """Standard exponential -log(1 - u), float64, of `uniform(low, high)`; small arrivals are resolved to 2^-64."""
    return -torch.log1p(-uniform(low, high))


@dataclass(frozen=True)
class Stream:
    """The random numbers of R row-steps.

    Attributes:
        seed: [] int64. Its low and high 32 bits are the key.
        rows: [R] int64. Global row ids, below 2^40.
        steps: [R] int64. Absolute step, below 2^16.
        completions: [R] int64. Which of the N completions of a prefix, below 2^16; 0 for a root.
        spawns: [R] int64. 0 for a root, t + 1 for a completion that branched off after root step t.
    """

    seed: Tensor
    rows: Tensor
    steps: Tensor
    completions: Tensor
    spawns: Tensor

    def words(self, purpose: int, block: Tensor) -> Tensor:
        """[R, ..., 4] int64: four random words for each `block` ([R, ...] int64, below 2^32) of each row."""
        shape = (-1,) + (1,) * (block.dim() - 1)
        c1 = self.steps | (self.completions << 16)
        c2 = self.rows & _WORD
        c3 = (self.rows >> 32) | (self.spawns << 8) | (purpose << 24)
        counter = torch.broadcast_tensors(block, c1.view(shape), c2.view(shape), c3.view(shape))
        key = torch.stack([self.seed & _WORD, (self.seed >> 32) & _WORD])
        return philox4x32(torch.stack(counter, -1), key)

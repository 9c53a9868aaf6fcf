"""Groups of similar items: a tree of halvings along the direction in which the items of a part differ most."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # items of a group; the block of the native race
_ITERATIONS = 5  # of the power method
_SAMPLE = 128  # items of a part that choose its direction
_CHUNK = 1 << 17  # items gathered at a time


@torch.no_grad()
def group_items(features: Tensor) -> Tensor:
    """Order of the items in which every 64 that follow each other are similar.

    Args:
        features: [n, H] float32.

    Returns:
        [n] int64, a permutation; the last group may be smaller.
    """
    order = torch.arange(len(features))
    parts = {len(features): [0]}  # size -> the starts of the parts of that size
    while parts:
        halves: dict[int, list[int]] = {}
        for size, starts in parts.items():
            if size <= BLOCK:
                continue
            left = (-(-size // BLOCK) + 1) // 2 * BLOCK  # whole blocks
            step = max(1, _CHUNK // size)
            for first in range(0, len(starts), step):
                some = torch.tensor(starts[first : first + step])
                places = some[:, None] + torch.arange(size)
                order[places] = _sorted(features, order[places])
            halves.setdefault(left, []).extend(starts)
            halves.setdefault(size - left, []).extend(start + left for start in starts)
        parts = halves
    return order


def _sorted(features: Tensor, parts: Tensor) -> Tensor:
    """[p, size]: the items of each part in order along the part's main direction."""
    size = parts.shape[1]
    sample = features[parts[:, :: -(-size // _SAMPLE)]]  # [p, s, H]
    sample = sample - sample.mean(1, keepdim=True)
    direction = sample[:, :1] + 1e-3 * torch.linspace(1, 2, features.shape[1])  # [p, 1, H], never 0 and the same always
    for _ in range(_ITERATIONS):
        direction = (direction @ sample.transpose(1, 2)) @ sample
        direction = torch.nn.functional.normalize(direction, dim=2)
    along = (features[parts] @ direction.transpose(1, 2))[:, :, 0]
    return parts.gather(1, along.argsort(1))


def largest_variance(vectors: Tensor) -> Tensor:
    """[n]: an upper bound of the largest eigenvalue of v^T v for vectors [n, m, H], at most m^(1/16) times too large."""
    gram = vectors @ vectors.transpose(1, 2)  # the same eigenvalues, and m is small
    scale = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-300)
    power = gram / scale[:, None, None]
    for _ in range(3):
        power = power @ power
    # The sum of the eigenvalues' 16th powers, and its root.
    return scale * power.square().sum((1, 2)) ** (1 / 16)

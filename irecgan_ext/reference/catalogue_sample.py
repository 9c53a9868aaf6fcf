"""Sampling by thinning from a prepared catalogue, with every block looked into, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from irecgan_ext.reference.gumbel_topk import BLOCK, first_arrivals, race_on
from irecgan_ext.reference.philox import PICK, Stream, exponential, uniform

_MARGIN = 6e-5  # of the bounds, as in csrc/cpu/block_bounds.h


def catalogue_sample(
    hidden: Tensor,
    catalogue: Sequence[Tensor],
    k: int,
    seed: Tensor,
    rows: Tensor,
    step: int,
    exclude: Tensor | None,
    logsumexp: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """k draws without replacement from the softmax of hidden [R, H] over a catalogue of B blocks.

    Args:
        catalogue: what `ops.catalogue_sample` describes.
        exclude: [R, X] int64, items of each row that are not drawn, padded with PAD = -1.
        logsumexp: whether it is wanted.

    Returns:
        values [R, k], indices [R, k] int64, the number of blocks [R] int64, and logsumexp [R], or [0] if it is not wanted.
    """
    panels, bias, items, places = catalogue[:4]
    zeros = torch.zeros_like(rows)
    stream = Stream(seed, rows, zeros + step, zeros, zeros)
    logits = torch.einsum("rh,bhi->rbi", hidden, panels).double() + bias
    if exclude is not None:
        flat = torch.nn.functional.pad(logits.flatten(1), (0, 1))  # PAD, and places of -1, fall into the last column
        place = torch.where(exclude < 0, -1, places[exclude.clamp(min=0)])
        logits = flat.scatter(1, place % flat.shape[1], -torch.inf)[:, :-1].unflatten(1, logits.shape[1:])
    weights = logits.logsumexp(2)
    bounds = log_bounds(hidden.double(), catalogue)
    candidates = first_arrivals(bounds, stream)
    words = stream.words(PICK, (torch.arange(len(panels)) | (BLOCK << 24)).expand(len(hidden), -1))
    kept = uniform(words[..., 0], words[..., 1]) < (weights - bounds).exp()
    later = torch.logaddexp(candidates, exponential(words[..., 2], words[..., 3]).log() - weights)
    arrivals = torch.where(weights > -torch.inf, torch.where(kept, candidates, later), torch.inf)
    values, indices = race_on(logits.clone(), arrivals, k, stream)
    drawn = torch.where(indices >= 0, items.flatten()[indices.clamp(min=0)], -1)
    total = weights.logsumexp(1).float() if logsumexp else hidden.new_empty(0)
    return values.float(), drawn, torch.full_like(rows, len(panels)), total


def log_bounds(hidden: Tensor, catalogue: Sequence[Tensor]) -> Tensor:
    """[R, B] float64: logarithms of the upper bounds of the blocks' weights; hidden [R, H] float64."""
    centroids, log_weight, radius, spread, scales = (t.double() for t in catalogue[4:9])
    blocks = len(radius)
    centre, metric = (t.double() for t in catalogue[9:]) if len(catalogue) > 9 else (0.0, None)
    moved = hidden - centre
    reach = (moved if metric is None else moved @ metric).norm(dim=1, keepdim=True)
    middle = (torch.einsum("rh,phi->rpi", hidden, centroids) + log_weight).flatten(1)[:, :blocks]
    a = reach * radius
    top = (middle + a).amax(1, keepdim=True)
    low, high = ((x - top).clamp(min=-80.0).exp() for x in (middle, middle + a))
    slack = (hidden.shape[1] + 8) * 2.0**-22 * (scales[1] + hidden.norm(dim=1, keepdim=True) * scales[0])
    rates = (1 + _MARGIN) * (spread * high + low / (1 + spread * a)) / (1 + spread)
    return rates.log() + top + slack

"""Lists and sessions of different lengths without padding all of them to the longest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from irecgan_ext.types import PAD

SPREAD = 1.5  # longest list of a group over its shortest, at most


def width_groups(slates: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows in groups of similar width, each trimmed to its own longest list.

    Args:
        slates: [S, K] int64, lists filled with PAD.

    Yields:
        rows [s] int64 and their slates [s, K'], K' the last place that one of them fills, 1 at least. Every row is in one
        group; a group's lists differ in length by less than `SPREAD`, so there are about log K / log SPREAD groups.
    """
    size = slates.shape[1]
    places = torch.arange(1, size + 1, device=slates.device)
    widths = torch.where(slates != PAD, places, 0).amax(1).clamp(min=1) if size else slates.new_ones(len(slates))
    if not len(widths) or int(widths.min()) * SPREAD > size:
        yield torch.arange(len(slates), device=slates.device), slates
        return
    group = (widths.double().log() / math.log(SPREAD)).floor().long()
    order = group.argsort(stable=True)
    for rows in order.split(torch.unique_consecutive(group[order], return_counts=True)[1].tolist()):
        yield rows, slates[rows, : int(widths[rows].max())]


def time_major(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The order in which a recurrent network takes in the steps of sessions that stand one after the other.

    Args:
        lengths: [B] int64, 0 or more; S their sum.

    Returns:
        order [S] int64: the first step of each session that has one, longest session first, then their second steps, and so
        on; and batch_sizes [longest] int64 on the CPU, where PackedSequence wants them: how many sessions have a first, second,
        ... step. Both are what a `torch.nn.utils.rnn.PackedSequence` is made of.
    """
    here = lengths.cpu()  # one wait for the device
    begins = here.cumsum(0) - here
    longest_first = here.argsort(descending=True, stable=True)
    steps = torch.arange(int(here.max()) if len(here) else 0, device=here.device)[:, None]
    reached = steps < here[longest_first]
    return (begins[longest_first] + steps)[reached].to(lengths.device), reached.sum(1)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """[B, T, ...]: `values` [S, ...] where `mask` [B, T] bool is true, session by session; 0 elsewhere."""
    shape = (*mask.shape, *values.shape[1:])
    inside = mask.reshape(*mask.shape, *[1] * (values.dim() - 1))
    return values.new_zeros(shape).masked_scatter(inside, values)


def by_width(function: Callable[[Tensor, Tensor], Tensor], slates: Tensor) -> Tensor:
    """[S]: `function(rows, slates of rows)`, [s] for s rows, group by group (see `width_groups`)."""
    rows, values = zip(*((rows, function(rows, part)) for rows, part in width_groups(slates)))
    if len(rows) == 1:
        return values[0]
    return torch.cat(values)[torch.cat(rows).argsort()]

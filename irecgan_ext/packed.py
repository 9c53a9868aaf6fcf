"""Sessions without padding: lists of any length one after the other. What real logs are kept in, and batches are cut from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from irecgan_ext.types import PAD, Trajectories


@dataclass(frozen=True)
class PackedSessions:
    """Logged sessions, step after step and list after list. B sessions, S steps, I items of all lists together.

    `select` pads a few sessions to the longest of them. Everything else about a log that training asks is answered from here,
    so the padded [B, T, K] of the whole log never exists.

    Attributes:
        start: [B] int64, `BOS` or an item.
        lengths: [B] int64, steps of each session.
        censored: [B] bool, the session has no END step.
        clicks: [S] int64, an item of the list or `END`.
        rewards: [S] float32.
        widths: [S] int64, items of each step's list.
        items: [I] int32, the lists.
        slate_size: items of a recommendation, K, where sessions are generated beside these. Logged lists may differ.
    """

    start: Tensor
    lengths: Tensor
    censored: Tensor
    clicks: Tensor
    rewards: Tensor
    widths: Tensor
    items: Tensor
    slate_size: int

    def __len__(self) -> int:
        return self.start.shape[0]

    def click_mask(self) -> Tensor:
        """[S] bool: the steps on which an item was clicked."""
        return self.clicks >= 0

    def returns(self) -> Tensor:
        """[B] float32: undiscounted sum of rewards of each session."""
        owner = torch.repeat_interleave(self.lengths)
        return self.rewards.new_zeros(len(self)).index_add(0, owner, self.rewards)

    def longest_lists(self) -> Tensor:
        """[B] int64: the longest list of each session."""
        longest = torch.zeros_like(self.lengths)
        return longest.scatter_reduce(0, torch.repeat_interleave(self.lengths), self.widths, "amax")

    def select(self, index: Tensor) -> Trajectories:
        """Sessions `index` ([n] int64 or [B] bool), padded to the longest session and list of them."""
        index = _positions(index)
        lengths = self.lengths[index]
        horizon = int(lengths.max()) if lengths.numel() else 0
        steps = torch.arange(horizon, device=lengths.device)
        mask = steps < lengths[:, None]
        rows = ((self.lengths.cumsum(0) - self.lengths)[index][:, None] + steps)[mask]  # [s] steps of these sessions
        widths = self.widths[rows]
        longest = int(widths.max()) if widths.numel() else 0
        places = torch.arange(longest, device=lengths.device)
        inside = places < widths[:, None]
        begins = (self.widths.cumsum(0) - self.widths)[rows]
        lists = inside.new_full(inside.shape, PAD, dtype=torch.int64)
        lists[inside] = self.items[(begins[:, None] + places)[inside]].long()
        shape = (len(index), horizon)
        return Trajectories(
            start=self.start[index],
            slates=lists.new_full((*shape, longest), PAD).index_put((mask,), lists),
            clicks=lists.new_full(shape, PAD).index_put((mask,), self.clicks[rows]),
            rewards=self.rewards.new_zeros(shape).index_put((mask,), self.rewards[rows]),
            lengths=lengths,
            censored=self.censored[index],
        )

    def subset(self, index: Tensor) -> PackedSessions:
        """Sessions `index` ([n] int64 or [B] bool), still without padding."""
        index = _positions(index)
        rows = _ranges(self.lengths, index)
        return PackedSessions(
            start=self.start[index],
            lengths=self.lengths[index],
            censored=self.censored[index],
            clicks=self.clicks[rows],
            rewards=self.rewards[rows],
            widths=self.widths[rows],
            items=self.items[_ranges(self.widths, rows)],
            slate_size=self.slate_size,
        )

    def to(self, device: torch.device | str) -> PackedSessions:
        """The same sessions on `device`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in values.items()}
        return PackedSessions(**moved)


Sessions = Trajectories | PackedSessions


def _positions(index: Tensor) -> Tensor:
    """[n] int64 for a mask or for positions."""
    return index.nonzero()[:, 0] if index.dtype == torch.bool else index


def _ranges(lengths: Tensor, index: Tensor) -> Tensor:
    """[m] int64: the entries that the runs `index` [n] occupy, where run i has lengths[i] entries and runs follow each other."""
    begins, chosen = (lengths.cumsum(0) - lengths)[index], lengths[index]
    first = torch.repeat_interleave(begins - (chosen.cumsum(0) - chosen), chosen)
    return first + torch.arange(len(first), device=lengths.device)

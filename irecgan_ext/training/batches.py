"""Sessions of a log, split and served in mini-batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from irecgan_ext.types import Trajectories

POOL = 8  # mini-batches whose sessions are sorted by length together: little padding, still random batches


def split(log: Trajectories, share: float, generator: torch.Generator) -> tuple[Trajectories, Trajectories]:
    """Training and held-out sessions, `share` of them held out, at least one in each part.

    Raises:
        ValueError: fewer than two sessions.
    """
    if len(log) < 2:
        raise ValueError(f"the log must hold at least 2 sessions, got {len(log)}")
    held_out = min(max(1, round(share * len(log))), len(log) - 1)
    order = torch.randperm(len(log), generator=generator)
    return log.select(order[held_out:]), log.select(order[:held_out])


def sample(log: Trajectories, count: int, generator: torch.Generator) -> Trajectories:
    """`count` sessions drawn without replacement; with replacement once the log is smaller than that."""
    if count <= len(log):
        return log.select(torch.randperm(len(log), generator=generator)[:count])
    return log.select(torch.randint(len(log), (count,), generator=generator))


def minibatches(lengths: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices [<= batch] int64 that cover every session once, in random order.

    Args:
        lengths: [B] int64, steps of each session.
        batch: sessions per mini-batch.
        generator: on the CPU, as the indices are, so that a seed gives the same mini-batches on every device.
    """
    lengths = lengths.cpu()
    order = torch.randperm(len(lengths), generator=generator)
    chunks = []
    for pool in order.split(POOL * batch):
        chunks += pool[lengths[pool].argsort(stable=True)].split(batch)
    for index in torch.randperm(len(chunks), generator=generator).tolist():
        yield chunks[index]

"""Sessions of a log, split and served in mini-batches of similar length. Generators, and the indices drawn
from them, are on the CPU whatever the sessions' device, so that a seed means the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from irecgan_ext.packed import PackedSessions, Sessions
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
    order = torch.randperm(len(log), generator=generator, device=generator.device)
    return log.select(order[held_out:]), log.select(order[:held_out])


def sample(log: Sessions, count: int, generator: torch.Generator) -> Sessions:
    """`count` sessions drawn without replacement; with replacement once the log is smaller than that. A packed log gives a
    packed sample."""
    index = draw(len(log), count, generator)
    return log.subset(index) if isinstance(log, PackedSessions) else log.select(index)


def draw(sessions: int, count: int, generator: torch.Generator) -> Tensor:
    """[count] int64 of 0..sessions-1, drawn without replacement; with replacement once there are fewer than that."""
    if count <= sessions:
        return torch.randperm(sessions, generator=generator, device=generator.device)[:count]
    return torch.randint(sessions, (count,), generator=generator, device=generator.device)


def sizes(log: Sessions) -> Tensor:
    """[B] int64 by which `minibatches` puts similar sessions together: steps; where lists differ in length, the steps of a
    session padded to its longest list come second."""
    if not isinstance(log, PackedSessions):
        return log.lengths
    longest = log.longest_lists()
    return log.lengths * (longest.max() + 1) + longest


def minibatches(lengths: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices [<= batch] int64 that cover every session once, in random order.

    Args:
        lengths: [B] int64, steps of each session, or `sizes`.
        batch: sessions per mini-batch.
    """
    lengths = lengths.to(generator.device)
    order = torch.randperm(len(lengths), generator=generator, device=generator.device)
    chunks = []
    for pool in order.split(POOL * batch):
        chunks += pool[lengths[pool].argsort(stable=True)].split(batch)
    for index in torch.randperm(len(chunks), generator=generator, device=generator.device).tolist():
        yield chunks[index]

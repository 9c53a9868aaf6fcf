"""Splitting a log and serving it in mini-batches."""

from __future__ import annotations

import pytest
import torch
from runs import tiny_log

from irecgan_ext.training.batches import POOL, minibatches, sample, split
from irecgan_ext.types import Trajectories


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int) -> Trajectories:
    """`count` sessions of one step whose start tells them apart."""
    log = tiny_log(1).select(torch.zeros(count, dtype=torch.int64))
    log.start.copy_(torch.arange(count))
    return log


@pytest.mark.parametrize(
    ("count", "share", "held_out"), [(2, 0.1, 1), (2, 0.9, 1), (3, 0.001, 1), (17, 0.25, 4), (17, 0.999, 16)]
)
def test_split_parts_the_log(count: int, share: float, held_out: int) -> None:
    train, valid = split(numbered(count), share, generator())
    assert len(valid) == held_out
    assert sorted(train.start.tolist() + valid.start.tolist()) == list(range(count))


def test_split_depends_on_the_seed_alone() -> None:
    parts = [split(numbered(31), 0.3, generator(seed))[1].start.tolist() for seed in (5, 5, 6)]
    assert parts[0] == parts[1] != parts[2]


def test_split_refuses_a_single_session() -> None:
    with pytest.raises(ValueError, match="the log must hold at least 2 sessions, got 1"):
        split(numbered(1), 0.5, generator())


@pytest.mark.parametrize("count", [0, 1, 7])
def test_sample_draws_without_replacement(count: int) -> None:
    drawn = sample(numbered(7), count, generator()).start.tolist()
    assert len(set(drawn)) == len(drawn) == count


def test_sample_of_more_than_the_log() -> None:
    drawn = sample(numbered(3), 300, generator()).start
    assert (drawn.bincount(minlength=3) > 60).all()


@pytest.mark.parametrize("count", [0, 1, 2, 31, 127, 129])
@pytest.mark.parametrize("batch", [1, 5, 128])
def test_minibatches_cover_every_session_once(count: int, batch: int) -> None:
    lengths = torch.randint(1, 30, (count,), generator=generator(1))
    parts = [part for part in minibatches(lengths, batch, generator()) if len(part)]
    assert all(len(part) <= batch for part in parts)
    assert sorted(torch.cat([torch.empty(0, dtype=torch.int64), *parts]).tolist()) == list(range(count))


def test_minibatches_hold_sessions_of_similar_length_in_random_order() -> None:
    lengths = torch.arange(POOL * 16)
    parts = list(minibatches(lengths, 16, generator()))
    assert all(int(part.max() - part.min()) == 15 for part in parts)
    firsts = [int(part.min()) for part in parts]
    assert firsts != sorted(firsts)
    assert [part.tolist() for part in minibatches(lengths, 16, generator())] == [part.tolist() for part in parts]

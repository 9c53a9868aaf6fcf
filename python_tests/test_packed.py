"""Sessions without padding, and lists of different lengths in the models."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from ragged_logs import ITEMS, write_prepared_by_hand
from torch import Tensor

from irecgan_ext import losses, ops
from irecgan_ext.data.packed_log import PackedLog, read_packed
from irecgan_ext.data.sessions import read_sessions
from irecgan_ext.errors import LogError
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.models import agent as agent_module
from irecgan_ext.models.ragged import SPREAD, by_width, time_major, width_groups
from irecgan_ext.training.batches import minibatches, sample, sizes
from irecgan_ext.types import PAD, Trajectories


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "data"
    write_prepared_by_hand(folder)
    return folder / "train.parquet"


@pytest.fixture(scope="module")
def log(path: Path) -> PackedLog:
    return read_packed(path)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(one: Trajectories, other: Trajectories) -> None:
    for field in fields(Trajectories):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b), field.name


@pytest.mark.parametrize("index", [[0], [3, 1, 39, 3], list(range(40))])
def test_select_pads_to_the_longest_of_the_batch(path: Path, log: PackedLog, index: list[int]) -> None:
    padded = read_sessions(path).trajectories.select(torch.tensor(index))
    longest = int((padded.slates != PAD).sum(-1).max())
    assert longest < 25 or len(index) == 40
    got = log.sessions.select(torch.tensor(index))
    same(got, Trajectories(**{**vars(padded), "slates": padded.slates[..., :longest]}))
    got.validate(ITEMS)


def test_masks_and_empty_batches(log: PackedLog) -> None:
    mask = torch.zeros(40, dtype=torch.bool)
    mask[[5, 7]] = True
    same(log.sessions.select(mask), log.sessions.select(torch.tensor([5, 7])))
    assert len(log.sessions.select(torch.empty(0, dtype=torch.int64))) == 0


def test_subset_is_select_without_padding(log: PackedLog) -> None:
    index = torch.tensor([9, 2, 2, 30])
    part = log.sessions.subset(index)
    same(part.select(torch.arange(4)), log.sessions.select(index))
    assert len(part.items) == int(part.widths.sum())


def test_what_training_asks_of_a_log(path: Path, log: PackedLog) -> None:
    padded = read_sessions(path).trajectories
    assert torch.equal(log.sessions.returns(), padded.returns())
    assert torch.equal(log.sessions.longest_lists(), (padded.slates != PAD).sum(-1).amax(1))
    assert int(log.sessions.click_mask().sum()) == int(padded.click_mask().sum())
    drawn = sample(log.sessions, 7, generator(1))
    same(drawn.select(torch.arange(7)), log.sessions.select(torch.randperm(40, generator=generator(1))[:7]))


def test_batches_put_similar_lists_together(log: PackedLog) -> None:
    """Of sessions of one length, the cells of the padded batches are little more than the items."""
    chosen = log.sessions.lengths.mode().values
    repeated = log.sessions.subset((log.sessions.lengths == chosen).nonzero()[:, 0].repeat(12))

    def cells(keys: Tensor) -> int:
        parts = list(minibatches(keys, 8, generator()))
        assert sorted(torch.cat(parts).tolist()) == list(range(len(repeated)))
        return sum(repeated.select(part).slates.shape[2] * len(part) for part in parts)

    least = int(repeated.longest_lists().sum())
    assert cells(sizes(repeated)) < least + 0.5 * (cells(repeated.lengths) - least)


def test_a_damaged_file_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(LogError, match=r"log\.parquet: damaged or truncated Parquet file"):
        read_packed(tmp_path / "log.parquet")


def test_time_major_order() -> None:
    """Against a loop: first steps of all sessions that have one, longest session first, then second steps."""
    lengths = torch.tensor([2, 0, 4, 1, 2])
    rows = [[0, 1], [], [2, 3, 4, 5], [6], [7, 8]]
    by_length = sorted(rows, key=len, reverse=True)
    expected = [row[step] for step in range(4) for row in by_length if len(row) > step]
    order, sizes = time_major(lengths)
    assert order.tolist() == expected
    assert sizes.tolist() == [4, 3, 1, 1]
    order, sizes = time_major(lengths[:0])
    assert len(order) == len(sizes) == 0


@pytest.mark.parametrize("widths", [[1], [5, 5, 5], [1, 2, 500, 3, 40, 499, 41], list(range(1, 130))])
def test_width_groups_cover_every_row_once(widths: list[int]) -> None:
    slates = torch.full((len(widths), max(widths) + 3), PAD)
    for row, width in enumerate(widths):
        slates[row, :width] = torch.arange(width)
    seen = []
    for rows, part in width_groups(slates):
        inside = [widths[row] for row in rows.tolist()]
        assert part.shape[1] == max(inside) or len(inside) == len(widths)
        assert max(inside) <= SPREAD * min(inside)
        assert torch.equal(part, slates[rows, : part.shape[1]])
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(widths)))
    sums = by_width(lambda rows, part: part.clamp(min=0).sum(1) + 1000 * rows, slates)
    assert sums.tolist() == [w * (w - 1) // 2 + 1000 * row for row, w in enumerate(widths)]


@pytest.mark.parametrize("reward", ["binary", "survival"])
def test_models_do_not_see_the_padding(log: PackedLog, reward: str) -> None:
    """Click log-probabilities and D's logits of ragged lists are those of each list alone."""
    torch.manual_seed(0)
    user, judge = UserModel(ITEMS, 5, 6, 1, reward=reward), Discriminator(ITEMS, 5, 6, 1, reward=reward)
    batch = log.sessions.select(torch.arange(12))
    clicks, _ = user(batch)
    states = user.encoder(batch.inputs())
    for b, t in batch.step_mask().nonzero().tolist():
        items = batch.slates[b, t][batch.slates[b, t] != PAD]
        logits = user.click_logits(states[b, t], items)
        place = len(items) if batch.clicks[b, t] < 0 else int((items == batch.clicks[b, t]).nonzero())
        assert clicks[b, t].item() == pytest.approx((logits[place] - logits.logsumexp(0)).item(), abs=1e-5)
    assert torch.equal(clicks[~batch.step_mask()], torch.zeros(int((~batch.step_mask()).sum())))
    alone = torch.cat([judge(log.sessions.select(torch.tensor([b]))) for b in range(12)])
    assert torch.allclose(judge(batch), alone, atol=1e-6)


def test_a_large_catalogue_has_the_same_log_probabilities_and_gradients(
    log: PackedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    agent = Agent(ITEMS, 5, 6, 1)
    batch = log.sessions.select(torch.arange(6))
    counted = batch.step_mask()

    def run() -> tuple[Tensor, ...]:
        agent.zero_grad()
        states = agent.encoder(batch.inputs())[counted]
        slates = batch.slates[counted]
        clicked, ordered = agent(batch), agent.over_catalogue(losses.plackett_luce_log_prob, states, slates)
        (clicked.sum() + ordered.square().sum()).backward()
        return clicked, ordered, *(p.grad.clone() for p in agent.parameters())

    small = run()
    monkeypatch.setattr(agent_module, "LARGE_CATALOGUE", 1)
    monkeypatch.setattr(agent_module, "LOGITS_HELD", 7 * ITEMS)
    calls = []
    real = ops.linear_log_prob
    monkeypatch.setattr(ops, "linear_log_prob", lambda *args: calls.append(1) or real(*args))
    shapes = []
    logits = Agent.logits
    monkeypatch.setattr(Agent, "logits", lambda self, s: shapes.append(s.shape[0]) or logits(self, s))
    large = run()
    assert calls and max(shapes) <= 7
    for one, other in zip(small, large, strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)

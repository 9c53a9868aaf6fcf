"""The recommender: states kept between calls, greedy and sampled lists, exclusions."""

from __future__ import annotations

import pytest
import torch
from laws import chi_squared_p, plackett_luce

from irecgan_ext.models import Agent
from irecgan_ext.serving import Recommender, linear_topk
from irecgan_ext.serving import recommender as module
from irecgan_ext.types import BOS, END, PAD

ITEMS = 23


def agent_of(cell: str = "gru", layers: int = 2, items: int = ITEMS) -> Agent:
    torch.manual_seed(0)
    agent = Agent(items, 5, 7, layers, cell, dropout=0.5, history_dropout=0.5)  # type: ignore[arg-type]
    with torch.no_grad():
        for weights in agent.parameters():
            weights.mul_(3)
        agent.encoder.embedding.weight.normal_()
    return agent


def histories(lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    clicks = [torch.randint(ITEMS, (n,), generator=generator) for n in lengths]
    return [torch.cat([torch.tensor([BOS]), click]) for click in clicks]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_steps_equal_replay(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = Recommender(agent_of(cell))
    sessions = histories([0, 3, 1, 9, 4])
    expected = recommender.replay(sessions)
    for row, session in enumerate(sessions):
        state = recommender.start(1)
        for click in session[1:]:
            state = recommender.step(state, click[None])
        torch.testing.assert_close(state, expected[:, :, row : row + 1], rtol=1e-5, atol=1e-6)
        encoded = recommender.agent.encoder(session[None])[0, -1]
        torch.testing.assert_close(recommender.agent.encoder.output(state)[0], encoded, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(module, "_STEPS", 3)
    torch.testing.assert_close(recommender.replay(sessions), expected, rtol=1e-5, atol=1e-6)
    assert recommender.replay([]).shape[2] == 0


def test_a_state_can_be_stored_and_a_click_that_is_not_known_is_a_hidden_one() -> None:
    recommender = Recommender(agent_of())
    state = recommender.replay(histories([2, 5]))
    kept = state.clone()
    first = recommender.step(state, torch.tensor([3, END]))
    assert torch.equal(state, kept), "step must not change the state that it is given"
    assert torch.equal(recommender.step(torch.from_numpy(kept.numpy().copy()), torch.tensor([3, END])), first)
    start = recommender.start(2, torch.tensor([4, 6]))
    torch.testing.assert_close(start, recommender.replay([torch.tensor([4]), torch.tensor([6])]), rtol=1e-5, atol=1e-6)


def allowed_logits(recommender: Recommender, state: torch.Tensor, exclude: torch.Tensor | None) -> torch.Tensor:
    logits = recommender.agent.head(recommender.agent.encoder.output(state)).detach().clone()
    if recommender.candidates is not None:
        logits[:, ~recommender.candidates] = -torch.inf
    for row in range(len(logits) if exclude is not None else 0):
        assert exclude is not None
        logits[row, exclude[row][exclude[row] >= 0]] = -torch.inf
    return logits


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("excluding", [False, True])
def test_greedy_lists_are_the_best_items_that_may_be_shown(masked: bool, excluding: bool) -> None:
    candidates = torch.arange(ITEMS) % 3 != 1 if masked else None
    recommender = Recommender(agent_of(), candidates)
    state = recommender.replay(histories([2, 5, 1]))
    exclude = torch.tensor([[4, 4, 0], [PAD, 6, 21], [PAD, PAD, PAD]]) if excluding else None
    got = recommender.recommend(state, 5, exclude=exclude)
    logits = allowed_logits(recommender, state, exclude)
    assert torch.equal(got.items, logits.topk(5).indices)
    torch.testing.assert_close(got.log_probs, logits.log_softmax(1).topk(5).values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tile", [1, 4, 7, 23, 100])
def test_tiles_change_nothing(tile: int) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, weight, bias = (torch.randn(size, generator=generator) for size in ((6, 8), (ITEMS, 8), (ITEMS,)))
    exclude = torch.randint(-1, ITEMS, (6, 4), generator=generator)
    mask = torch.rand(ITEMS, generator=generator) < 0.7
    got = linear_topk(hidden, weight, bias, 9, exclude=exclude, mask=mask, tile=tile)
    logits = (hidden @ weight.T + bias).masked_fill(~mask, -torch.inf)
    for row in range(6):
        logits[row, exclude[row][exclude[row] >= 0]] = -torch.inf
    assert torch.equal(got[1], logits.topk(9).indices)
    torch.testing.assert_close(got[0], logits.topk(9).values)
    torch.testing.assert_close(got[2], logits.logsumexp(1))


def test_lists_end_where_the_items_do() -> None:
    candidates = torch.zeros(ITEMS, dtype=torch.bool)
    candidates[[2, 5, 8]] = True
    recommender = Recommender(agent_of(), candidates, prepare=True)
    state = recommender.replay(histories([1, 2, 3]))
    exclude = torch.tensor([[5, 5, 1], [2, 5, 8], [PAD, PAD, PAD]])
    for got in (
        recommender.recommend(state, 4, exclude=exclude),
        recommender.sample(state, 4, exclude=exclude, seed=1),
    ):
        assert [sorted(row[row >= 0].tolist()) for row in got.items] == [[2, 8], [], [2, 5, 8]]
        assert torch.equal(got.items == PAD, got.log_probs == -torch.inf)
        assert bool(((got.items == PAD).int().diff(dim=1) >= 0).all()), "fillers come last"
        torch.testing.assert_close(got.log_probs.exp().sum(1), torch.tensor([1.0, 0.0, 1.0]))
    few = recommender.sample(state, 4, exclude=exclude, seed=1, log_probs=False).items
    assert [sorted(row[row >= 0].tolist()) for row in few] == [[2, 8], [], [2, 5, 8]]


@pytest.mark.parametrize("prepare", [False, True])
def test_sampled_lists_follow_the_softmax(prepare: bool) -> None:
    recommender = Recommender(agent_of(items=6), torch.tensor([1, 1, 0, 1, 1, 1]).bool(), prepare=prepare)
    state = recommender.start(1).repeat(1, 1, 8000, 1)
    exclude = torch.full((8000, 1), 3)
    got = recommender.sample(state, 2, exclude=exclude, seed=3, log_probs=not prepare)
    logits = allowed_logits(recommender, state[:, :, :1], exclude[:1])[0]
    draws, law = plackett_luce(logits, 2)
    counts = torch.tensor([int((got.items == torch.tensor(draw)).all(1).sum()) for draw in draws])
    assert int(counts.sum()) == 8000
    assert chi_squared_p(counts, law) > 1e-3
    if prepare:
        assert got.log_probs.shape == (8000, 0)
    else:
        torch.testing.assert_close(got.log_probs[0], logits.log_softmax(0)[got.items[0]], rtol=1e-5, atol=1e-6)


def test_a_prepared_recommender_refuses_an_agent_that_has_changed() -> None:
    recommender = Recommender(agent_of(), prepare=True)
    state = recommender.start(2)
    recommender.sample(state, 3, log_probs=False)
    recommender.agent.head.bias.add_(1.0)
    with pytest.raises(ValueError, match="got changed ones"):
        recommender.sample(state, 3, log_probs=False)


def test_draws_are_keyed_by_row_and_seed() -> None:
    recommender = Recommender(agent_of())
    state = recommender.replay(histories([2, 5, 1]))
    whole = recommender.sample(state, 4, seed=5).items
    parts = [recommender.sample(state[:, :, [r]], 4, seed=5, rows=torch.tensor([r])).items for r in range(3)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, recommender.sample(state, 4, seed=6).items)
    assert not torch.equal(whole, recommender.sample(state, 4, seed=5, step=1).items)


def test_arguments_out_of_range_are_refused() -> None:
    agent = agent_of()
    recommender = Recommender(agent)
    state = recommender.start(1)
    for call in (recommender.recommend, recommender.sample):
        for k in (0, ITEMS + 1):
            with pytest.raises(ValueError, match=rf"k must be in 1..C \(C = {ITEMS}\), got {k}"):
                call(state, k)
    with pytest.raises(ValueError, match=rf"candidates must have shape \[C\] = \[{ITEMS}\], got \[3\]"):
        Recommender(agent, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="candidates must hold at least one item, got none"):
        Recommender(agent, torch.zeros(ITEMS, dtype=torch.bool))
    with pytest.raises(ValueError, match="histories must hold at least a start symbol, got an empty one at 1"):
        recommender.replay([torch.tensor([BOS]), torch.empty(0, dtype=torch.int64)])

"""Trajectories: every method, and every rule that validate enforces."""

from dataclasses import replace

import pytest
import torch

from irecgan_ext.types import BOS, END, PAD, Trajectories, symbol_index

ITEMS = 6


def batch() -> Trajectories:
    """Three sessions: two clicks and END; censored after one click; END at once. The second has a short slate."""
    return Trajectories(
        start=torch.tensor([BOS, 5, BOS]),
        slates=torch.tensor(
            [
                [[0, 1], [2, 3], [4, 5]],
                [[3, PAD], [PAD, PAD], [PAD, PAD]],
                [[1, 2], [PAD, PAD], [PAD, PAD]],
            ]
        ),
        clicks=torch.tensor([[1, 2, END], [3, PAD, PAD], [END, PAD, PAD]]),
        rewards=torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        lengths=torch.tensor([3, 1, 1]),
        censored=torch.tensor([False, True, False]),
        states=torch.tensor([[0, 4, 2], [0, PAD, PAD], [0, PAD, PAD]]),
    )


def equal(a: Trajectories, b: Trajectories) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in Trajectories.__dataclass_fields__)


def test_symbol_index():
    symbols = torch.tensor([[0, 5], [END, BOS], [PAD, 3]])
    assert symbol_index(symbols, ITEMS).tolist() == [[0, 5], [6, 7], [6, 3]]


def test_sizes():
    sessions = batch()
    assert (len(sessions), sessions.horizon, sessions.slate_size) == (3, 3, 2)


def test_masks():
    sessions = batch()
    assert sessions.step_mask().tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    assert sessions.click_mask().tolist() == [[True, True, False], [True, False, False], [False, False, False]]


def test_inputs_are_the_symbols_consumed_before_each_step():
    assert batch().inputs().tolist() == [[BOS, 1, 2], [5, 3, PAD], [BOS, END, PAD]]


def test_returns_ignore_what_lies_after_the_end():
    sessions = batch()
    sessions.rewards[1, 2] = 100.0
    assert sessions.returns().tolist() == [2.0, 1.0, 0.0]


def test_select_by_index_trims_to_the_longest():
    chosen = batch().select(torch.tensor([2, 1]))
    assert chosen.clicks.tolist() == [[END], [3]]
    assert chosen.slates.tolist() == [[[1, 2]], [[3, PAD]]]
    assert chosen.start.tolist() == [BOS, 5]
    assert chosen.censored.tolist() == [False, True]
    assert chosen.states is not None and chosen.states.tolist() == [[0], [0]]
    chosen.validate(ITEMS)


def test_select_by_mask_and_nothing():
    sessions = batch()
    assert equal(sessions.select(torch.tensor([True, False, False])), sessions.select(torch.tensor([0])))
    nothing = sessions.select(torch.tensor([False, False, False]))
    assert (len(nothing), nothing.horizon) == (0, 0)


def test_select_without_states():
    assert replace(batch(), states=None).select(torch.tensor([0])).states is None


def test_to_keeps_the_values():
    assert equal(batch().to("cpu"), batch())
    assert replace(batch(), states=None).to("cpu").states is None
    assert batch().to(torch.device("meta")).clicks.device.type == "meta"


def test_cat_pads_steps_and_slates():
    narrow = replace(batch().select(torch.tensor([1])), slates=torch.tensor([[[3]]]))
    joined = Trajectories.cat([narrow, batch()])
    assert (len(joined), joined.horizon, joined.slate_size) == (4, 3, 2)
    assert joined.slates[0].tolist() == [[3, PAD], [PAD, PAD], [PAD, PAD]]
    assert joined.clicks[0].tolist() == [3, PAD, PAD]
    assert joined.rewards[0].tolist() == [1.0, 0.0, 0.0]
    assert joined.states is not None and joined.states[0].tolist() == [0, PAD, PAD]
    assert equal(joined.select(torch.tensor([1, 2, 3])), batch())
    joined.validate(ITEMS)


def test_cat_drops_states_that_a_part_lacks():
    assert Trajectories.cat([batch(), replace(batch(), states=None)]).states is None


def test_cat_of_nothing():
    with pytest.raises(ValueError, match="parts must hold at least one batch, got 0"):
        Trajectories.cat([])


def test_validate_accepts_a_sound_batch():
    batch().validate(ITEMS)


@pytest.mark.parametrize("name", ["start", "rewards", "lengths", "censored"])
def test_validate_shapes(name):
    broken = replace(batch(), **{name: getattr(batch(), name)[:2]})
    with pytest.raises(ValueError, match=rf"^{name} must have shape \(3,.*got \(2,"):
        broken.validate(ITEMS)


def test_validate_slates_shape():
    with pytest.raises(ValueError, match=r"^slates must have shape \(3, 3, 2\), got \(3, 2, 2\)"):
        replace(batch(), slates=batch().slates[:, :2]).validate(ITEMS)


RULES = [
    ("lengths", (1,), 0, r"lengths must be in 1..T \(T = 3\): session 1, step 0"),
    ("lengths", (0,), 4, r"lengths must be in 1..T \(T = 3\): session 0, step 0"),
    ("start", (2,), ITEMS, "start must be BOS or an item: session 2"),
    ("start", (2,), END, "start must be BOS or an item: session 2"),
    ("slates", (0, 1, 1), ITEMS, r"slates must hold items 0..5 or PAD: session 0, step 1"),
    ("slates", (0, 1, 1), BOS, r"slates must hold items 0..5 or PAD: session 0, step 1"),
    ("slates", (1, 0, 0), PAD, "slates must hold at least one item: session 1, step 0"),
    ("clicks", (0, 1), 5, "clicks must be an item of the slate or END: session 0, step 1"),
    ("clicks", (1, 0), PAD, "clicks must be an item of the slate or END: session 1, step 0"),
    ("clicks", (0, 0), END, "clicks must be END only on the last step: session 0, step 0"),
    ("censored", (1,), False, "censored must be the sessions without an END step: session 1"),
    ("censored", (2,), True, "censored must be the sessions without an END step: session 2"),
    ("rewards", (0, 1), float("nan"), "rewards must be finite: session 0, step 1"),
]


@pytest.mark.parametrize(("name", "where", "value", "message"), RULES)
def test_validate_rules(name, where, value, message):
    sessions = batch()
    getattr(sessions, name)[where] = value
    with pytest.raises(ValueError, match=f"^{message}"):
        sessions.validate(ITEMS)


def test_validate_does_not_read_steps_after_the_end():
    sessions = batch()
    sessions.rewards[2, 1] = float("nan")
    sessions.clicks[2, 1] = 99
    sessions.slates[2, 1, 0] = 99
    sessions.validate(ITEMS)

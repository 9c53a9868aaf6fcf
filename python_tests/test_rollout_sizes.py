"""The native rollout on both sides of every size at which it changes its way: small catalogues, tables, packed heads."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from settings import Setting

from irecgan_ext import ops
from irecgan_ext.models import Agent, Discriminator, UserModel

SAMPLES = ("slates", "clicks", "rewards", "lengths", "censored")


def assert_same(a: ops.RolloutOutput, b: ops.RolloutOutput) -> None:
    """The same samples, and the same scores up to rounding."""
    for name in SAMPLES:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("scores", "q"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-6)


def wide(cell: str, reward: str, items: int, width: int, hidden: int, layers: int) -> Setting:
    """A setting whose three models have this embedding width and state width."""
    setting = Setting(cell, reward, items, layers)
    setting.user = UserModel(items, width, hidden, layers, cell, reward=reward)
    setting.agent = Agent(items, width, hidden, layers, cell)
    setting.discriminator = Discriminator(items, width, hidden, layers, cell, reward=reward)
    return setting


# The user model's embeddings are 5 wide and D's 4: logits of all candidates at once below 10 and below 8 items.
@pytest.mark.parametrize("items", [4, 7, 8, 9, 10])
@pytest.mark.parametrize(("cell", "reward"), list(itertools.product(("gru", "lstm"), ("survival", "binary"))))
def test_small_catalogues(cell, reward, items):
    setting = Setting(cell, reward, items, layers=2)
    rows = torch.arange(30)
    expected = setting.native(rows, 1, impl="reference")
    assert len(expected.lengths.unique()) > 1
    assert_same(setting.native(rows, 1), expected)


# Input projections by symbol up to 256 items; the head packed up to 1,024, projected block by block above.
@pytest.mark.parametrize("items", [256, 257, 1024, 1025])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_table_and_packed_head(cell, items):
    setting = Setting(cell, "binary", items, layers=2)
    rows = torch.arange(30)
    assert_same(setting.native(rows, 2), setting.native(rows, 2, impl="reference"))


# Gate widths that are no multiple of a panel of columns, one that is, and rows that fill no tile.
@pytest.mark.parametrize(("width", "hidden"), [(1, 1), (3, 16), (26, 64), (30, 43)])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_widths(cell, width, hidden):
    setting = wide(cell, "binary", 50, width, hidden, 2)
    for count in (1, 25):
        rows = torch.arange(count)
        assert_same(setting.native(rows, 1), setting.native(rows, 1, impl="reference"))


# Candidates fill a vector of 16 lanes with slates of 15; a table of 64 of them (63 items and END) fills four.
@pytest.mark.parametrize(("items", "slate"), [(16, 15), (17, 16), (62, 7), (63, 8), (63, 15), (64, 15), (65, 9)])
def test_slates_around_a_vector(items, slate):
    setting = wide("gru", "binary", items, 40, 16, 1)
    rows = torch.arange(40)
    out = setting.native(rows, slate=slate, cap=2)
    assert_same(out, setting.native(rows, slate=slate, cap=2, impl="reference"))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("scale", [5.0, 50.0, 1e4])
def test_gates_that_saturate(cell, scale):
    """Whatever the gates' arguments, states stay finite and as torch computes them."""
    setting = Setting(cell, layers=1)
    with torch.no_grad():
        for model in setting.models:
            for parameter in model.encoder.rnn_parameters():
                parameter.mul_(scale)
    rows = torch.arange(20)
    assert_same(setting.native(rows, 1), setting.native(rows, 1, impl="reference"))


def test_memory_of_earlier_calls_leaves_no_trace():
    small, large = Setting(layers=1), Setting("lstm", "binary", 300, layers=2)
    rows = torch.arange(60)
    first = small.native(rows, 2)
    expected = large.native(rows, 2)
    for _ in range(2):
        again = small.native(rows, 2)
        for name in (*SAMPLES, "scores", "q"):
            assert torch.equal(getattr(again, name), getattr(first, name)), name
        assert_same(large.native(rows, 2), expected)


def test_calls_at_the_same_time():
    setting = Setting("lstm", "binary", 300, layers=2)
    parts = [torch.arange(at, at + 200) for at in range(0, 1600, 200)]
    expected = [setting.native(part, 2) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for out, other in zip(pool.map(lambda part: setting.native(part, 2), parts), expected):
                assert_same(out, other)


@pytest.mark.parametrize("items", [7, 13, 300, 1100])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_not_a_bit_depends_on_the_batch(cell, items):
    """Every row of a product is summed in the same order whoever else is in the batch."""
    assert_same_in_any_batch(Setting(cell, "binary", items, layers=2), torch.arange(150))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_more_parents_than_are_stepped_together(cell):
    """States so wide that a step's parents are multiplied in several parts, by weights that no cache holds."""
    setting = wide(cell, "binary", 50, 8, 300, 2)
    rows = torch.arange(200)
    whole = assert_same_in_any_batch(setting, rows)
    assert int(whole.lengths.sum()) > 300  # steps of roots alone, beyond the first
    assert_same(whole, setting.native(rows, 2, impl="reference"))


def assert_same_in_any_batch(setting: Setting, rows: torch.Tensor) -> ops.RolloutOutput:
    """Bits that do not depend on threads, sharing or the rows beside a row. Returns the outputs of all rows at once."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = setting.native(rows, 2)
        torch.set_num_threads(2)
        others = [setting.native(rows, 2), setting.native(rows, 2, share=False)]
    finally:
        torch.set_num_threads(before)
    parts = [setting.native(part, 2) for part in rows.split((1, 6, 50, len(rows) - 57))]
    others.append(ops.RolloutOutput(*(torch.cat(x) for x in list(zip(*parts))[:-1]), whole.work))
    for other in others:
        for name in (*SAMPLES, "scores", "q"):
            assert torch.equal(getattr(other, name), getattr(whole, name)), name
    return whole


@pytest.mark.parametrize("items", [7, 13])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_models_that_are_not_finite(items, value):
    for model, message in (("user", "user logits must be finite"), ("discriminator", "discriminator scores must be")):
        for part in ("query.bias", "encoder.embedding.weight"):
            setting = Setting(items=items, layers=1)
            with torch.no_grad():
                dict(getattr(setting, model).named_parameters())[part][:].fill_(value)
            with pytest.raises(ValueError, match=f"^{message}"):
                setting.native(torch.arange(20))


def test_an_item_that_is_not_finite_spoils_only_its_own_slates():
    """On the slates without it, the user model clicks as if the item were sound."""
    setting = Setting(items=7, layers=1)
    with torch.no_grad():
        setting.agent.head.bias[6] = -float("inf")
    rows = torch.arange(40)
    sound = setting.native(rows)
    with torch.no_grad():
        for model in (setting.user, setting.discriminator):
            model.encoder.embedding.weight[6] = float("nan")
    assert not bool((sound.slates == 6).any())
    assert_same(setting.native(rows), sound)
    with torch.no_grad():
        setting.agent.head.bias[6] = 3.0
    with pytest.raises(ValueError, match="^user logits must be finite"):
        setting.native(rows)

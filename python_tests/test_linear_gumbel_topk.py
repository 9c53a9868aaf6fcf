"""Projection and sampling in one: against the sampler on logits in memory, sample for sample."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from irecgan_ext import ops


def layer(rows: int, hidden: int, items: int, bias: bool = True):
    generator = torch.Generator().manual_seed(rows + 7 * hidden + 13 * items)
    x = torch.randn(rows, hidden, generator=generator)
    weight = torch.randn(items, hidden, generator=generator) / hidden**0.5
    return x, weight, torch.randn(items, generator=generator) if bias else None


def same_draws(ours: ops.LinearDraws, theirs: ops.LinearDraws) -> None:
    """Equal up to near-ties: at most one row in 500 differs, and values agree wherever the items do."""
    same = (ours.indices == theirs.indices).all(1)
    assert float((~same).double().mean()) <= 0.002
    torch.testing.assert_close(ours.values[same], theirs.values[same], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours.logsumexp, theirs.logsumexp, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("items", [1, 63, 64, 65, 1000, 4099])
@pytest.mark.parametrize("hidden", [1, 17, 64, 130])
@pytest.mark.parametrize("rows", [1, 5, 6, 7, 241])
def test_equals_the_reference(rows, hidden, items):
    x, weight, bias = layer(rows, hidden, items, bias=rows != 5)
    k = min(10, items)
    ours = ops.linear_gumbel_topk(x, weight, bias, k, seed=4, step=3)
    same_draws(ours, ops.linear_gumbel_topk(x, weight, bias, k, seed=4, step=3, impl="reference"))


def test_equals_the_sampler_on_logits():
    x, weight, bias = layer(600, 40, 777)
    values, indices = ops.gumbel_topk(functional.linear(x, weight, bias), 12, seed=9)
    ours = ops.linear_gumbel_topk(x, weight, bias, 12, seed=9)
    logsumexp = functional.linear(x, weight, bias).logsumexp(1)
    same_draws(ours, ops.LinearDraws(values, indices, logsumexp, torch.empty(0)))


def test_every_item_in_turn():
    x, weight, bias = layer(20, 9, 130)
    ours = ops.linear_gumbel_topk(x, weight, bias, 130, seed=1)
    assert torch.equal(ours.indices.sort(1).values, torch.arange(130).expand(20, -1))
    assert bool((ours.values[:, 1:] <= ours.values[:, :-1]).all())


def test_exclude_and_mask():
    x, weight, bias = layer(300, 33, 200)
    generator = torch.Generator().manual_seed(2)
    exclude = torch.stack([torch.randperm(200, generator=generator)[:90] for _ in range(300)])
    exclude[:, ::7] = -1
    for mask in (None, torch.rand(200, generator=generator) < 0.5, torch.rand(300, 200, generator=generator) < 0.5):
        ours = ops.linear_gumbel_topk(x, weight, bias, 8, seed=3, exclude=exclude, mask=mask)
        same_draws(
            ours, ops.linear_gumbel_topk(x, weight, bias, 8, seed=3, exclude=exclude, mask=mask, impl="reference")
        )
        assert not bool((ours.indices[:, :, None] == exclude[:, None, :]).any())
        if mask is not None:
            assert bool(mask.expand(300, 200).gather(1, ours.indices).all())


@pytest.mark.parametrize(("items", "k"), [(1, 1), (64, 64), (130, 7), (1000, 12)])
@pytest.mark.parametrize("restrict", [False, True])
def test_log_prob_of_the_slates(items, k, restrict):
    x, weight, bias = layer(50, 24, items)
    exclude = torch.arange(50)[:, None] % items if restrict and items > k else None
    args = {"seed": 8, "exclude": exclude, "log_prob": True}
    ours = ops.linear_gumbel_topk(x, weight, bias, k, **args)
    theirs = ops.linear_gumbel_topk(x, weight, bias, k, **args, impl="reference")
    same = (ours.indices == theirs.indices).all(1)
    assert int(same.sum()) >= 48
    torch.testing.assert_close(ours.log_prob[same], theirs.log_prob[same], rtol=1e-5, atol=2e-5)
    assert ops.linear_gumbel_topk(x, weight, bias, k, seed=8).log_prob.shape == (0,)


def test_log_prob_where_one_item_dominates_or_little_is_left():
    """Against float64: subtracting the drawn weights from their sum would leave nothing but rounding here."""
    x, weight, _ = layer(1, 4, 200)
    bias = torch.zeros(200)
    bias[:3] = torch.tensor([300.0, 60.0, 20.0])
    bias[100:] = -90.0
    mask = torch.ones(200, dtype=torch.bool)
    mask[20:100] = False  # so that the draws go on among items of weight exp(-390) beside the first one
    ours = ops.linear_gumbel_topk(x, weight, bias, 25, seed=3, mask=mask, log_prob=True)
    logits = functional.linear(x, weight, bias).double().masked_fill(~mask, -torch.inf)[0]
    expected = 0.0
    for item in ours.indices[0].tolist():
        expected += float(logits[item] - logits.logsumexp(0))
        logits[item] = -torch.inf
    assert ours.log_prob[0].item() == pytest.approx(expected, rel=1e-5)


def test_draws_follow_the_law():
    """First draws of 40,000 equal rows against their softmax."""
    x, weight, bias = layer(1, 6, 70)
    n = 40_000
    drawn = ops.linear_gumbel_topk(x.expand(n, -1), weight, bias, 1, seed=12).indices[:, 0]
    expected = functional.linear(x, weight, bias).softmax(1)[0].double() * n
    common = expected >= 10
    counts = torch.bincount(drawn, minlength=70).double()
    chi2 = ((counts - expected)[common] ** 2 / expected[common]).sum()
    degrees = float(common.sum())
    assert chi2 < degrees + 4.5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("width", [17, 48, 50])
def test_same_draws_for_any_split_and_thread_count(width):
    x, weight, bias = layer(301, width, 500)
    whole = ops.linear_gumbel_topk(x, weight, bias, 5, seed=6)
    rows = torch.arange(301)
    parts = [
        ops.linear_gumbel_topk(x[a:b], weight, bias, 5, seed=6, rows=rows[a:b])
        for a, b in ((0, 1), (1, 3), (3, 6), (6, 10), (10, 100), (100, 301))
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    other = ops.linear_gumbel_topk(x, weight, bias, 5, seed=6)
    torch.set_num_threads(before)
    for at in range(3):
        assert torch.equal(whole[at], torch.cat([part[at] for part in parts]))
        assert torch.equal(whole[at], other[at])


def test_strided_inputs_and_no_rows():
    x, weight, bias = layer(40, 24, 90)
    ours = ops.linear_gumbel_topk(x.T.contiguous().T, weight.T.contiguous().T, bias, 3, seed=1)
    assert torch.equal(ours.indices, ops.linear_gumbel_topk(x, weight, bias, 3, seed=1).indices)
    assert ops.linear_gumbel_topk(x[:0], weight, bias, 3).indices.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, r"k must be in 1\.\.C \(C = 30\), got 0"),
        ({"k": 31}, r"k must be in 1\.\.C \(C = 30\), got 31"),
        ({"hidden": torch.zeros(4)}, r"hidden must have 2 dimensions \[R, H\], got \[4\]"),
        ({"weight": torch.zeros(30, 7)}, r"weight must have shape \[30, 8\], got \[30, 7\]"),
        ({"weight": torch.zeros(30, 8, dtype=torch.float64)}, "weight must have dtype float32, got float64"),
        ({"bias": torch.zeros(29)}, r"bias must have shape \[30\], got \[29\]"),
        ({"exclude": torch.tensor([[30]] * 4)}, r"exclude\[0\] must be in 0\.\.C - 1 \(C = 30\) or PAD, got 30"),
        ({"mask": torch.zeros(31, dtype=torch.bool)}, r"mask must have shape \[30\], got \[31\]"),
        ({"mask": torch.zeros(30, dtype=torch.bool)}, r"hidden\[\d\] must hold at least k = 3 finite logits, got 0"),
        ({"hidden": torch.full((4, 8), torch.nan)}, r"hidden\[\d\] must hold no NaN and no \+inf"),
    ],
)
def test_bad_arguments(change, message):
    x, weight, bias = layer(4, 8, 30)
    arguments = {"hidden": x, "weight": weight, "bias": bias, "k": 3, "seed": 1} | change
    with pytest.raises(ValueError, match=message):
        ops.linear_gumbel_topk(**arguments)


def test_opcheck():
    x, weight, bias = layer(3, 8, 70)
    args = (x, weight, bias, 4, torch.tensor(5), torch.arange(3), 0, torch.tensor([[1], [-1], [3]]), None)
    for log_prob in (False, True):
        torch.library.opcheck(torch.ops.irecgan_ext.linear_gumbel_topk.default, (*args, log_prob))

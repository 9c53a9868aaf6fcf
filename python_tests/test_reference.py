"""The reference of Gumbel top-k against exact laws."""

import math

import pytest
import torch
from laws import count_draws, kolmogorov_p, likely_p, plackett_luce
from torch import Tensor

from irecgan_ext.reference import gumbel_topk


def draw(logits: Tensor, k: int, seed: int = 0, rows: Tensor | None = None, step: int = 0):
    return gumbel_topk(logits, k, torch.tensor(seed), torch.arange(len(logits)) if rows is None else rows, step)


def spread(count: int, places: dict[int, float]) -> Tensor:
    logits = torch.full((count,), -torch.inf)
    for place, value in places.items():
        logits[place] = value
    return logits


LAWS = {
    "one block, k = 2": (torch.tensor([0.5, -1.0, 1.5, 0.0, 0.2]), 2),
    "one block, k = 3": (torch.tensor([0.5, -1.0, 1.5, 0.0, 0.2]), 3),
    "across blocks": (spread(200, {3: 0.1, 70: 1.0, 71: -0.5, 150: 0.6, 199: 0.0}), 3),
    "shared arrival counters": (spread(128, {63: 0.3, 64: -0.3, 127: 0.0}), 3),
    "behind a dominant item": (spread(130, {5: 60.0, 6: 0.0, 7: 1.0, 129: 0.5}), 3),
}


@pytest.mark.parametrize(("logits", "k"), LAWS.values(), ids=LAWS.keys())
def test_draws_follow_plackett_luce(logits, k):
    draws, probabilities = plackett_luce(logits, k)
    _, indices = draw(logits.expand(20_000, -1), k, seed=11)
    assert likely_p(count_draws(indices, draws), probabilities) > 1e-3


def test_values_are_the_arrivals_of_the_race():
    """Minus log of the values are arrival times: each gap, times the weight still in the race, is Exp(1)."""
    logits = torch.randn(150, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, indices = draw(logits.expand(4_000, -1), 5, seed=2)
    weights = logits.exp().expand(4_000, -1).clone()
    before = torch.zeros(4_000, dtype=torch.float64)
    for j in range(5):
        arrival = (-values[:, j]).exp()
        assert kolmogorov_p(-torch.expm1(-(arrival - before) * weights.sum(1))) > 1e-3
        weights.scatter_(1, indices[:, j : j + 1], 0.0)
        before = arrival


def test_the_maximum_is_gumbel_at_catalogue_scale():
    """max_i (l_i + G_i) - logsumexp(l) is standard Gumbel; noise clipped to 9.21 fails the same test."""
    rows, items = 3_000, 5_000
    values, _ = draw(torch.zeros(1, items).expand(rows, -1), 1, seed=3)
    centred = values[:, 0].double() - math.log(items)
    assert abs(centred.mean().item() - 0.5772157) < 4 * math.pi / math.sqrt(6 * rows)
    assert kolmogorov_p((-(-centred).exp()).exp()) > 1e-3
    u = torch.rand(rows, items, generator=torch.Generator().manual_seed(0)).clamp(1e-4, 1 - 1e-4)
    clipped = -(-u.amax(1).double().log()).log() - math.log(items)
    assert kolmogorov_p((-(-clipped).exp()).exp()) < 1e-3


def test_a_rare_item_is_not_starved():
    """An item of probability 1e-8 arrives after Exp(1) / w like any other: its own value is Gumbel around its logit."""
    logit = math.log(1e-8)
    values, indices = draw(torch.tensor([[0.0, logit]]).expand(4_000, -1), 2, seed=4)
    rare = values.gather(1, (indices == 1).int().argmax(1, keepdim=True))[:, 0].double()
    assert kolmogorov_p((-(logit - rare).exp()).exp()) > 1e-3


@pytest.mark.parametrize("items", [1, 2, 63, 64, 65, 127, 128, 129, 257])
def test_all_items_are_a_permutation_in_descending_value(items):
    logits = 3 * torch.randn(5, items, generator=torch.Generator().manual_seed(items))
    values, indices = draw(logits, items)
    assert torch.equal(indices.sort(1).values, torch.arange(items).expand(5, -1))
    assert bool((values.diff(dim=1) <= 0).all())
    assert indices.dtype == torch.int64


def test_excluded_items_are_never_drawn():
    logits = torch.zeros(500, 130)
    logits[:, ::2] = -torch.inf
    values, indices = draw(logits, 10)
    assert bool((indices % 2 == 1).all()) and bool(values.isfinite().all())


def test_draws_beyond_the_finite_logits():
    values, indices = draw(spread(100, {80: 1.0, 2: 0.0}).expand(3, -1), 4)
    assert indices[:, :2].sort(1).values.tolist() == [[2, 80]] * 3
    assert indices[:, 2:].tolist() == [[-1, -1]] * 3
    assert bool((values[:, 2:] == -torch.inf).all()) and bool(values[:, :2].isfinite().all())
    assert draw(spread(3, {}).expand(2, -1), 2)[1].tolist() == [[-1, -1]] * 2


def test_logits_far_apart_keep_their_order():
    values, indices = draw(torch.tensor([[-2000.0, 3000.0, 0.0]]), 3)
    assert indices.tolist() == [[1, 2, 0]]
    assert bool(values.isfinite().all())


def test_shifted_logits_shift_the_values():
    logits = torch.randn(6, 90, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values, indices = draw(logits, 7)
    shifted, same = draw(logits + 500, 7)
    assert torch.equal(indices, same)
    torch.testing.assert_close(shifted, values + 500)


def test_noise_is_keyed_by_seed_row_and_step():
    logits = torch.randn(8, 70, generator=torch.Generator().manual_seed(6))
    values, indices = draw(logits, 3)
    part = torch.tensor([6, 1])
    again = draw(logits[part], 3, rows=part)
    assert torch.equal(again[0], values[part]) and torch.equal(again[1], indices[part])
    for other in (draw(logits, 3, seed=1), draw(logits, 3, step=1), draw(logits, 3, rows=torch.arange(8) + 2**32)):
        assert not torch.equal(other[0], values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_have_the_dtype_of_the_logits(dtype):
    assert draw(torch.zeros(2, 5, dtype=dtype), 2)[0].dtype == dtype


def test_inputs_are_left_alone():
    wide = torch.randn(40, 6, generator=torch.Generator().manual_seed(7), requires_grad=True)
    before = wide.detach().clone()
    values, indices = draw(wide.T, 3)
    assert not values.requires_grad
    assert torch.equal(wide, before)
    plain = draw(before.T.contiguous(), 3)
    assert torch.equal(values, plain[0]) and torch.equal(indices, plain[1])


def test_no_rows():
    values, indices = draw(torch.zeros(0, 70), 2)
    assert values.shape == indices.shape == (0, 2)

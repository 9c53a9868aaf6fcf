"""csrc/cuda/linear_gumbel_topk.cu, run on the host by csrc/simt: the draws of the CPU op."""

import ctypes

import pytest
import simt
import torch
from linear_problems import cpu_draws, layer
from simt import ORDERS, pointer
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.types import PAD

pytestmark = simt.NEEDS_COMPILER
SOURCES = ("csrc/simt/linear_gumbel_topk.cpp", "csrc/cuda/linear_stats.cu")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


class Draws(ctypes.Structure):
    """LinearDraws of csrc/simt/linear_gumbel_topk.cpp."""

    _fields_ = [
        ("rows", ctypes.c_void_p), ("seed", ctypes.c_void_p), ("step", ctypes.c_int64), ("k", ctypes.c_int64),
        ("exclude", ctypes.c_void_p), ("exclude_width", ctypes.c_int64), ("mask", ctypes.c_void_p),
        ("mask_per_row", ctypes.c_int64), ("values", ctypes.c_void_p), ("indices", ctypes.c_void_p),
        ("logsumexp", ctypes.c_void_p), ("log_prob", ctypes.c_void_p),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def kernels():
    return simt.library(*SOURCES)


@pytest.fixture(scope="module")
def shuffled():
    """The same without tensor cores and asynchronous copies."""
    return simt.library(*SOURCES, flags=("-DIRECGAN_NO_TENSOR_CORES",))


def simt_draws(
    kernels, hidden: Tensor, weight: Tensor, bias: Tensor | None, k: int, *, seed: int,
    rows=None, step=0, exclude=None, mask=None, log_prob=False, reversed_lanes=False,
) -> ops.LinearDraws:  # fmt: skip
    """ops.linear_gumbel_topk's result from the CUDA kernels."""
    entry = kernels.linear_gumbel_topk_f32 if hidden.dtype == torch.float32 else kernels.linear_gumbel_topk_bf16
    (count, width), items = hidden.shape, weight.shape[0]
    rows = torch.arange(count) if rows is None else rows
    seed_tensor, sizes = torch.tensor(seed), torch.tensor([count, items, width])
    out = ops.LinearDraws(
        torch.full((count, k), 123.0), torch.full((count, k), 123), torch.full((count,), 123.0),
        torch.full((count if log_prob else 0,), 123.0),
    )  # fmt: skip
    draws = Draws(
        pointer(rows), pointer(seed_tensor), step, k, pointer(exclude), 0 if exclude is None else exclude.shape[1],
        pointer(mask), int(mask is not None and mask.dim() == 2), *map(pointer, out[:3]),
        pointer(out.log_prob if log_prob else None),
    )  # fmt: skip
    simt.run(entry, int(reversed_lanes), *map(pointer, (hidden, weight, bias, sizes)), ctypes.byref(draws))
    return out


def assert_same(drawn: ops.LinearDraws, expected: ops.LinearDraws, tolerance: float = 1e-5) -> None:
    simt.assert_same_draws(drawn, expected, tolerance)
    torch.testing.assert_close(drawn.logsumexp, expected.logsumexp, rtol=1e-6, atol=2e-6)
    same = (drawn.indices == expected.indices).all(1) if len(expected.log_prob) else slice(0, 0)
    torch.testing.assert_close(drawn.log_prob[same], expected.log_prob[same], rtol=1e-5, atol=1e-5)


@DTYPES
@ORDERS
@pytest.mark.parametrize(
    ("rows", "width", "items"),
    [(1, 1, 1), (3, 17, 63), (5, 16, 64), (127, 31, 65), (129, 32, 129), (2, 33, 1000), (13, 130, 257), (130, 8, 2053)],
)
def test_draws_of_the_cpu_op(kernels, rows, width, items, dtype, reversed_lanes):
    arguments = layer(rows, width, items, dtype, bias=rows != 5)
    for k in sorted({min(k, items) for k in (1, 10)}):
        options = {"seed": k, "step": 3, "log_prob": k > 1}
        drawn = simt_draws(kernels, *arguments, k, reversed_lanes=reversed_lanes, **options)
        assert_same(drawn, cpu_draws(*arguments, k, **options))


@DTYPES
def test_without_tensor_cores(shuffled, dtype):
    arguments = layer(40, 33, 150, dtype)
    assert_same(simt_draws(shuffled, *arguments, 10, seed=1), cpu_draws(*arguments, 10, seed=1))


@DTYPES
def test_lane_order_changes_no_bit(kernels, dtype):
    arguments = layer(66, 24, 500, dtype)
    forward, backward = (simt_draws(kernels, *arguments, 20, seed=2, reversed_lanes=order) for order in (False, True))
    assert all(torch.equal(x, y) for x, y in zip(forward, backward))


@DTYPES
def test_a_row_draws_the_same_in_any_batch(kernels, dtype):
    hidden, weight, bias = layer(140, 24, 200, dtype)
    whole = simt_draws(kernels, hidden, weight, bias, 5, seed=2)
    part = simt_draws(kernels, hidden[131:], weight, bias, 5, seed=2, rows=torch.arange(131, 140))
    assert all(torch.equal(x[131:], y) for x, y in zip(whole, part))


@DTYPES
def test_rows_that_are_not_aligned(kernels, dtype):
    """Memory that begins at an odd element is read element by element: the same logits."""
    hidden, weight, bias = layer(40, 32, 150, dtype)
    shifted = [torch.empty(x.numel() + 1, dtype=dtype)[1:].view_as(x).copy_(x) for x in (hidden, weight)]
    expected = simt_draws(kernels, hidden, weight, bias, 5, seed=2)
    drawn = simt_draws(kernels, *shifted, bias, 5, seed=2)
    assert torch.equal(drawn.logsumexp, expected.logsumexp)
    assert_same(drawn, expected)


@DTYPES
def test_every_item_is_drawn_once(kernels, dtype):
    arguments = layer(3, 9, 130, dtype)
    drawn = simt_draws(kernels, *arguments, 130, seed=9, log_prob=True)
    assert_same(drawn, cpu_draws(*arguments, 130, seed=9, log_prob=True))
    assert torch.equal(drawn.indices.sort(1).values, torch.arange(130).expand(3, -1))


@ORDERS
def test_exclude_and_mask(kernels, reversed_lanes):
    arguments = layer(40, 33, 200)
    generator = torch.Generator().manual_seed(2)
    exclude = torch.stack([torch.randperm(200, generator=generator)[:90] for _ in range(40)])
    exclude[:, ::7] = PAD
    masks = [torch.rand(200, generator=generator) < 0.5, torch.rand(40, 200, generator=generator) < 0.5]
    for options in (
        {"exclude": exclude},
        {"mask": masks[0]},
        {"mask": masks[1]},
        {"exclude": exclude, "mask": masks[1]},
        {"exclude": exclude[:, :0]},
    ):
        drawn = simt_draws(kernels, *arguments, 8, seed=3, log_prob=True, reversed_lanes=reversed_lanes, **options)
        assert_same(drawn, cpu_draws(*arguments, 8, seed=3, log_prob=True, **options))


def test_exclusions_outside_the_catalogue_name_nothing(kernels):
    arguments = layer(2, 8, 70)
    exclude = torch.tensor([[5, -7, 70], [10**12, 69, -(10**12)]])
    drawn = simt_draws(kernels, *arguments, 69, seed=3, exclude=exclude)
    assert_same(drawn, cpu_draws(*arguments, 69, seed=3, exclude=torch.tensor([[5], [69]])))


def test_noise_is_keyed_by_seed_row_and_step(kernels):
    arguments = layer(4, 8, 130)
    rows = torch.tensor([2**40 - 1, 7, 2**32 + 7, 0])
    for seed, step in ((-7, 0), (2**62 + 1, 65_535)):
        drawn = simt_draws(kernels, *arguments, 4, seed=seed, rows=rows, step=step)
        assert_same(drawn, cpu_draws(*arguments, 4, seed=seed, rows=rows, step=step))


@DTYPES
def test_rows_that_cannot_be_drawn(kernels, dtype):
    hidden, weight, bias = (
        torch.zeros(4, 3, dtype=dtype),
        torch.zeros(130, 3, dtype=dtype),
        torch.zeros(130, dtype=dtype),
    )
    hidden[0, 1] = torch.nan
    hidden[1, 2], weight[129, 2] = 1e30, 1e30  # a product beyond float32
    bias[3:] = -torch.inf
    bias[129] = 0.0
    mask = torch.ones(4, 130, dtype=torch.bool)
    mask[3] = False
    values, indices, logsumexp, log_prob = simt_draws(
        kernels, hidden, weight, bias, 5, seed=1, mask=mask, log_prob=True
    )
    assert bool(log_prob.isnan().all())
    assert bool(values[:2].isnan().all()) and bool((indices[:2] == -1).all()) and bool(logsumexp[:2].isnan().all())
    assert sorted(indices[2].tolist()) == [-1, 0, 1, 2, 129] and values[2, 4] == -torch.inf
    assert abs(logsumexp[2].item() - torch.tensor(4.0).log().item()) < 1e-6
    assert bool((values[3] == -torch.inf).all()) and logsumexp[3] == -torch.inf


def test_dominating_and_underflowing_items(kernels):
    hidden, weight = torch.ones(20, 1), torch.full((230, 1), -torch.inf)
    bias = torch.full((230,), -torch.inf)
    places = [0, 65, 2, 67]
    weight.zero_()
    bias[places] = torch.tensor([0.0, -200.0, -300.0, -1e30])
    drawn = simt_draws(kernels, hidden, weight, bias, 4, seed=8, log_prob=True)
    assert torch.equal(drawn.indices, torch.tensor(places).expand(20, -1))
    expected = cpu_draws(hidden, weight, bias, 4, seed=8, log_prob=True)
    torch.testing.assert_close(drawn.values, expected.values)
    torch.testing.assert_close(drawn.log_prob, expected.log_prob, rtol=1e-5, atol=1e-12)


def test_no_rows_and_no_columns(kernels):
    assert simt_draws(kernels, *layer(0, 4, 70), 2, seed=1).values.shape == (0, 2)
    arguments = layer(5, 0, 70)
    assert_same(simt_draws(kernels, *arguments, 4, seed=1), cpu_draws(*arguments, 4, seed=1))

"""The CUDA sources, run on the host by csrc/simt: the draws of the CPU op, and what the executor refuses."""

import ctypes
import re
import subprocess

import pytest
import simt
import torch
from simt import ORDERS, pointer
from torch import Tensor

from irecgan_ext import ops

pytestmark = simt.NEEDS_COMPILER


@pytest.fixture(scope="module")
def kernels():
    return simt.library("csrc/simt/gumbel_topk.cpp")


@pytest.fixture(scope="module")
def small():
    return simt.library("csrc/simt/self_test.cu")


def simt_topk(kernels, logits: Tensor, k: int, seed: int, *, rows=None, step=0, reversed_lanes=False, host_seed=False):
    """ops.gumbel_topk's result from the CUDA kernels."""
    entry = kernels.gumbel_topk_f32 if logits.dtype == torch.float32 else kernels.gumbel_topk_f64
    count, items = logits.shape
    rows = torch.arange(count) if rows is None else rows
    seed_tensor = torch.tensor(seed)
    values = torch.full((count, k), 123.0, dtype=logits.dtype)
    indices = torch.full((count, k), 123)
    sizes = [ctypes.c_int64(n) for n in (step, count, items, k)]
    simt.run(
        entry, int(reversed_lanes), pointer(logits), pointer(rows), pointer(seed_tensor), int(host_seed), *sizes,
        pointer(values), pointer(indices),
    )  # fmt: skip
    return values, indices


def random_logits(rows: int, items: int, dtype: torch.dtype) -> Tensor:
    return 2 * torch.randn(rows, items, generator=torch.Generator().manual_seed(items), dtype=dtype)


def assert_same_draws(drawn, expected):
    simt.assert_same_draws(drawn, expected, 5e-6 if drawn[0].dtype == torch.float32 else 1e-12)


@ORDERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("items", [1, 63, 64, 65, 1000, 4099])
def test_draws_of_the_cpu_op(kernels, items, dtype, reversed_lanes):
    logits = random_logits(5, items, dtype)
    for k in sorted({min(k, items) for k in (1, 10, 64)}):
        drawn = simt_topk(kernels, logits, k, seed=k, reversed_lanes=reversed_lanes)
        assert_same_draws(drawn, ops.gumbel_topk(logits, k, seed=k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lane_order_changes_no_bit(kernels, dtype):
    logits = random_logits(3, 2_500, dtype)
    forward, backward = (simt_topk(kernels, logits, 20, seed=2, reversed_lanes=order) for order in (False, True))
    assert torch.equal(forward[0], backward[0]) and torch.equal(forward[1], backward[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_item_is_drawn_once(kernels, dtype):
    logits = random_logits(2, 333, dtype)
    drawn = simt_topk(kernels, logits, 333, seed=9)
    assert_same_draws(drawn, ops.gumbel_topk(logits, 333, seed=9))
    assert torch.equal(drawn[1].sort(1).values, torch.arange(333).expand(2, -1))


def test_a_row_of_more_than_1024_blocks(kernels):
    """A lane keeps more blocks than a warp reads at once, and all the draws come from that lane."""
    items = 64 * 2_100 + 70
    logits = random_logits(1, items, torch.float32)
    logits[:, torch.arange(items) // 64 % 32 != 7] = -1_000.0
    assert_same_draws(simt_topk(kernels, logits, 40, seed=5), ops.gumbel_topk(logits, 40, seed=5))


@ORDERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_excluded_and_dominating_items(kernels, dtype, reversed_lanes):
    logits = random_logits(6, 300, dtype)
    logits[:, 64:128] = -torch.inf
    logits[1, 10:] = -torch.inf
    logits[2, :290] = -torch.inf
    logits[3, 5] = 90.0
    logits[4, 200] = 800.0
    logits[5] -= 1e4
    drawn = simt_topk(kernels, logits, 10, seed=3, reversed_lanes=reversed_lanes)
    expected = ops.gumbel_topk(logits, 10, seed=3)
    assert torch.equal(drawn[1], expected[1])
    torch.testing.assert_close(drawn[0], expected[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_that_underflow_keep_their_order(kernels, dtype):
    logits = torch.full((20, 230), -torch.inf, dtype=dtype)
    places = [0, 65, 2, 67]
    logits[:, places] = torch.tensor([0.0, -200.0, -300.0, -1e30], dtype=dtype)
    values, indices = simt_topk(kernels, logits, 4, seed=8)
    assert torch.equal(indices, torch.tensor(places).expand(20, -1))
    torch.testing.assert_close(values, ops.gumbel_topk(logits, 4, seed=8)[0])


def test_noise_is_keyed_by_seed_row_and_step(kernels):
    logits = random_logits(4, 130, torch.float32)
    rows = torch.tensor([2**40 - 1, 7, 2**32 + 7, 0])
    for host_seed in (False, True):
        for seed, step in ((-7, 0), (2**62 + 1, 65_535)):
            drawn = simt_topk(kernels, logits, 4, seed, rows=rows, step=step, host_seed=host_seed)
            assert_same_draws(drawn, ops.gumbel_topk(logits, 4, seed=seed, rows=rows, step=step))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_cannot_be_drawn(kernels, dtype):
    logits = torch.zeros(5, 130, dtype=dtype)
    logits[0, 129] = torch.nan
    logits[1, 3] = torch.inf
    logits[2] = -torch.inf
    logits[2, [5, 128]] = 0.0
    logits[3] = -torch.inf
    values, indices = simt_topk(kernels, logits, 4, seed=1)
    assert bool(values[:2].isnan().all()) and bool((indices[:2] == -1).all())
    assert bool(values[2, :2].isfinite().all()) and sorted(indices[2].tolist()) == [-1, -1, 5, 128]
    assert bool((values[2, 2:] == -torch.inf).all()) and bool((values[3] == -torch.inf).all())
    assert bool((indices[3] == -1).all())
    assert bool(values[4].isfinite().all())


def test_no_rows(kernels):
    values, _ = simt_topk(kernels, torch.zeros(0, 70), 2, seed=1)
    assert values.shape == (0, 2)


def run_small(small, name, numbers, size, *, blocks=1, threads=32, reversed_lanes=False):
    entry = getattr(small, name)
    entry.restype = ctypes.c_char_p
    numbers = torch.tensor(numbers, dtype=torch.int32)
    out = torch.zeros(size, dtype=torch.int32)
    error = entry(int(reversed_lanes), blocks, threads, pointer(numbers), pointer(out))
    return out.tolist(), None if error is None else error.decode()


@ORDERS
def test_barriers_and_dynamic_shared_memory(small, reversed_lanes):
    numbers = torch.arange(100).remainder(7)
    out, error = run_small(small, "run_scan", numbers.tolist(), 100, threads=100, reversed_lanes=reversed_lanes)
    assert error is None and out == numbers.cumsum(0).tolist()


@ORDERS
def test_warp_operations(small, reversed_lanes):
    x = [3 * i + 1 for i in range(32)]
    out, error = run_small(small, "run_warp_operations", x, 224, reversed_lanes=reversed_lanes)
    assert error is None
    lanes = range(32)
    ballot = sum(1 << i for i in lanes if i % 3 == 0)
    expected = [x[5]] * 32 + [x[i ^ 3] for i in lanes] + [x[i - 2] if i % 8 >= 2 else x[i] for i in lanes]
    expected += [x[i + 2] if i % 8 < 6 else x[i] for i in lanes]
    expected += [ballot - 2**32 if ballot >= 2**31 else ballot] * 32 + [1] * 32 + [x[1]] * 16 + [x[17]] * 16
    assert out == expected


def test_atomics_and_several_blocks(small):
    out, error = run_small(small, "run_histogram", [i * i for i in range(96)], 4, blocks=3)
    assert error is None and out == [48, 48, 0, 0]


def test_a_forgotten_barrier_shows_in_the_two_orders(small):
    numbers, results = list(range(1, 65)), {}
    for name in ("run_reverse", "run_reverse_without_barrier"):
        for order in (False, True):
            out, error = run_small(small, name, numbers, 64, threads=64, reversed_lanes=order)
            assert error is None
            results[name, order] = out
    assert results["run_reverse", False] == results["run_reverse", True] == numbers[::-1]
    assert results["run_reverse_without_barrier", False] != results["run_reverse_without_barrier", True]


REFUSED = {
    "run_barrier_in_a_branch": r"__syncthreads not reached by all: thread .* waits in __syncthreads at .*; .* has exited",
    "run_two_barriers": r"__syncthreads not reached by all: thread .* waits in __syncthreads at .*; thread .* waits in __sync",
    "run_barrier_against_shuffle": r"__syncthreads not reached by all: .*; thread .* waits in __shfl_\*_sync at ",
    "run_exited_lane": r"__shfl_\*_sync at .* names an exited lane: thread \(9, 0, 0\) of block \(0, 0, 0\) has exited",
    "run_outside_the_mask": r"__shfl_\*_sync at .* reads lane 20, which the mask does not name",
    "run_caller_not_in_mask": r"__shfl_\*_sync at .*: the mask does not name lane (16|31), which calls it",
    "run_different_operations": "lanes wait for each other in different warp operations",
}


@ORDERS
@pytest.mark.parametrize("name", REFUSED)
def test_misuse_is_refused(small, name, reversed_lanes):
    _, error = run_small(small, name, [0] * 32, 32, reversed_lanes=reversed_lanes)
    assert error is not None
    assert re.match(REFUSED[name], error), error
    out, error = run_small(small, "run_scan", [1] * 32, 32)  # the executor is usable afterwards
    assert error is None and out[-1] == 32


@pytest.mark.parametrize(("threads", "blocks"), [(0, 1), (1025, 1), (32, 0)])
def test_launches_of_impossible_size(small, threads, blocks):
    _, error = run_small(small, "run_scan", [0], 1, threads=threads, blocks=blocks)
    assert error is not None and error.startswith("launch: ")


@pytest.fixture(scope="module")
def address_check():
    return simt.with_address_check("csrc/simt/address_check.cpp")


def test_no_address_outside_the_buffers(address_check):
    done = subprocess.run([str(address_check)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "no errors\n", done.stdout + done.stderr


def test_a_read_past_shared_memory_is_caught(address_check):
    done = subprocess.run([str(address_check), "past_the_end"], capture_output=True, text=True)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr

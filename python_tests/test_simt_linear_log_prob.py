"""csrc/cuda/linear_log_prob.cu and its backward, run on the host by csrc/simt: the values of the CPU op and float64."""

import ctypes
import subprocess

import pytest
import simt
import torch
from linear_problems import assert_as_exact_as_pytorch, autograd, cross_entropy, log_prob_problem
from simt import ORDERS, pointer

from irecgan_ext import ops
from irecgan_ext.types import PAD

pytestmark = simt.NEEDS_COMPILER
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
SIZES = [(1, 1, 1), (7, 5, 13), (127, 31, 257), (129, 64, 128), (3, 17, 1025), (257, 9, 130), (64, 40, 64)]


class Gradients(ctypes.Structure):
    """Gradients of csrc/simt/linear_log_prob.cpp."""

    _fields_ = [
        ("targets", ctypes.c_void_p), ("grad", ctypes.c_void_p), ("log_sum_exp", ctypes.c_void_p),
        ("panel_rows", ctypes.c_int64), ("panel_items", ctypes.c_int64),
        ("hidden", ctypes.c_void_p), ("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def kernels():
    return simt.library("csrc/simt/linear_log_prob.cpp", "csrc/cuda/linear_stats.cu")


def run(kernels, hidden, weight, bias, targets, grad, *, panel=(0, 0), wanted=(True, True, True), reversed_lanes=False):
    """log_prob and the gradients of hidden, weight, bias (None where not wanted) from the CUDA kernels."""
    suffix = "f32" if hidden.dtype == torch.float32 else "bf16"
    layer = [int(reversed_lanes), *map(pointer, (hidden, weight, bias))]
    sizes = torch.tensor([hidden.shape[0], *weight.shape])
    log_prob = torch.full(targets.shape, 123.0)
    log_sum_exp = torch.full(targets.shape, 123.0, dtype=torch.float64)
    forward = getattr(kernels, f"linear_log_prob_{suffix}")
    simt.run(forward, *layer, *map(pointer, (sizes, targets, log_prob, log_sum_exp)))
    out = [
        torch.full_like(x, 123.0) if x is not None and needed else None
        for x, needed in zip((hidden, weight, bias), wanted)
    ]
    gradients = Gradients(*map(pointer, (targets, grad, log_sum_exp)), *panel, *map(pointer, out))
    backward = getattr(kernels, f"linear_log_prob_backward_{suffix}")
    simt.run(backward, *layer, pointer(sizes), ctypes.byref(gradients))
    return [log_prob, *out]


@DTYPES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "width", "items"), SIZES)
def test_values_and_gradients(kernels, rows, width, items, bias, dtype):
    arguments = log_prob_problem(rows, width, items, dtype, bias)
    assert_as_exact_as_pytorch(run(kernels, *arguments), arguments)


@pytest.mark.parametrize("scale", [1e-3, 10.0, 60.0])
def test_flat_and_peaked_softmax(kernels, scale):
    arguments = log_prob_problem(140, 33, 300, scale=scale)
    assert_as_exact_as_pytorch(run(kernels, *arguments), arguments)


@ORDERS
def test_values_of_the_cpu_op(kernels, reversed_lanes):
    arguments = log_prob_problem(130, 24, 700)
    mine = run(kernels, *arguments, reversed_lanes=reversed_lanes)
    for ours, other in zip(mine, autograd(ops.linear_log_prob, *arguments, torch.float32)):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=2e-6)


@DTYPES
@pytest.mark.parametrize("panel", [(128, 128), (128, 512), (512, 128)])
def test_several_panels(kernels, panel, dtype):
    arguments = log_prob_problem(300, 20, 400, dtype)
    mine = run(kernels, *arguments, panel=panel)
    assert_as_exact_as_pytorch(mine, arguments)


@DTYPES
def test_lane_order_changes_no_bit(kernels, dtype):
    arguments = log_prob_problem(150, 24, 300, dtype)
    forward, backward = (run(kernels, *arguments, panel=(128, 128), reversed_lanes=order) for order in (False, True))
    assert all(torch.equal(x, y) for x, y in zip(forward, backward))


@DTYPES
def test_padding_is_zero_and_reaches_nothing(kernels, dtype):
    hidden, weight, bias, targets, grad = log_prob_problem(200, 6, 70, dtype)
    padded, still = torch.arange(200) % 3 == 1, torch.arange(200) % 3 == 2
    expected = run(kernels, hidden, weight, bias, targets.masked_fill(padded, PAD), grad.masked_fill(still, 0.0))
    hidden = hidden.masked_fill(padded[:, None], torch.nan)
    mine = run(kernels, hidden, weight, bias, targets.masked_fill(padded, PAD), grad.masked_fill(still, 0.0))
    assert not mine[0][padded].any() and not mine[1][padded | still].any()
    assert all(torch.equal(x, y) for x, y in zip(mine, expected))
    kept = ~(padded | still)
    alone = (hidden[kept], weight, bias, targets[kept], grad[kept])
    assert_as_exact_as_pytorch([mine[0][kept], mine[1][kept], *mine[2:]], alone)


def test_nothing_takes_part(kernels):
    hidden, weight, bias, targets, grad = log_prob_problem(5, 6, 40)
    out = run(kernels, hidden, torch.full_like(weight, torch.nan), bias, targets.fill_(PAD), grad)
    assert not any(x.any() for x in out)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_the_gradients_that_are_wanted(kernels, wanted):
    arguments = log_prob_problem(30, 5, 200)
    everything, some = run(kernels, *arguments), run(kernels, *arguments, wanted=wanted)
    for needed, gradient, expected in zip(wanted, some[1:], everything[1:]):
        assert (gradient is not None) == needed
        assert gradient is None or torch.equal(gradient, expected)


@DTYPES
def test_rows_that_have_no_log_probability(kernels, dtype):
    """NaN, +inf and targets outside the catalogue poison their own rows, in values and gradients, and no other's."""
    hidden, weight, bias, targets, grad = log_prob_problem(6, 4, 100, dtype)
    clean = run(kernels, hidden, weight, bias, targets, grad)
    hidden[0, 1], targets[1], targets[2] = torch.nan, 100, 2**40
    hidden[3] = torch.inf
    out = run(kernels, hidden, weight, bias, targets, grad)
    assert bool(out[0][:4].isnan().all()) and torch.equal(out[0][4:], clean[0][4:])
    assert bool(out[1][:4].isnan().all()) and torch.equal(out[1][4:], clean[1][4:])
    assert bool(out[2].isnan().all()) and bool(out[3].isnan().all())


def test_excluded_items(kernels):
    hidden, weight, bias, targets, grad = log_prob_problem(9, 4, 300)
    bias[:200] = -torch.inf
    arguments = (hidden, weight, bias, 200 + targets % 100, grad)
    mine = run(kernels, *arguments)
    for ours, other in zip(mine, autograd(cross_entropy, *arguments, torch.float32)):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)
    assert bool(run(kernels, hidden, weight, torch.full_like(bias, -torch.inf), targets, grad)[0].isnan().all())


def test_no_address_outside_the_buffers():
    """Of either linear op, at ragged sizes, in both lane orders."""
    program = simt.with_address_check("csrc/simt/linear_address_check.cpp", "csrc/cuda/linear_stats.cu")
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "no errors\n", done.stdout + done.stderr

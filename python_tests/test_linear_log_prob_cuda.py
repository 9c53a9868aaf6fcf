"""ops.linear_log_prob on a CUDA device against float64 and the CPU op. Without a GPU test_simt_linear_log_prob.py runs it."""

import pytest
import torch
from linear_problems import assert_as_exact_as_pytorch, autograd, log_prob_problem, on_gpu

from irecgan_ext import ops
from irecgan_ext.types import PAD

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="no CUDA device; test_simt_linear_log_prob.py runs the kernels on the host",
    ),
]
OPERATORS = torch.ops.irecgan_ext
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def run(hidden, weight, bias, targets, grad):
    """log_prob and the gradients of hidden, weight and bias, on the device."""
    leaves = [None if x is None else x.cuda().requires_grad_() for x in (hidden, weight, bias)]
    out = ops.linear_log_prob(*leaves, targets.cuda())
    out.backward(grad.cuda())
    assert out.is_cuda and out.dtype == torch.float32
    return [out.detach(), *(None if x is None else x.grad for x in leaves)]


@DTYPES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "width", "items"),
    [(1, 1, 1), (7, 5, 13), (127, 31, 257), (129, 64, 128), (513, 17, 1025), (1031, 8, 2053), (640, 512, 4_000)],
)
def test_values_and_gradients(rows, width, items, bias, dtype):
    arguments = log_prob_problem(rows, width, items, dtype, bias)
    mine = [None if x is None else x.cpu() for x in run(*arguments)]
    assert_as_exact_as_pytorch(mine, arguments)


@DTYPES
def test_several_panels_of_rows_and_items(dtype):
    """More than 8,192 rows, and more items than 2^24 gradients leave room for."""
    hidden, weight, bias, targets, grad = log_prob_problem(8_300, 8, 2_400, dtype)
    mine = run(hidden, weight, bias, targets, grad)
    theirs = autograd(
        lambda *a: ops.linear_log_prob(*a, impl="reference"),
        *on_gpu(hidden.float(), weight.float(), bias.float(), targets, grad), torch.float32,
    )  # fmt: skip
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for ours, other in zip(mine, theirs):
        assert (ours.float() - other).norm() <= tolerance * other.norm()


def test_values_of_the_cpu_op():
    arguments = log_prob_problem(130, 24, 700)
    for ours, other in zip(run(*arguments), autograd(ops.linear_log_prob, *arguments, torch.float32)):
        torch.testing.assert_close(ours.cpu(), other, rtol=1e-5, atol=4e-6)


@DTYPES
def test_the_same_bits_every_time(dtype):
    arguments = log_prob_problem(300, 24, 3_000, dtype)
    assert all(torch.equal(x, y) for x, y in zip(run(*arguments), run(*arguments)))


@DTYPES
def test_padding_is_zero_and_reaches_nothing(dtype):
    hidden, weight, bias, targets, grad = log_prob_problem(200, 6, 70, dtype)
    padded = torch.arange(200) % 3 == 1
    targets = targets.masked_fill(padded, PAD)
    expected = run(hidden, weight, bias, targets, grad)
    mine = run(hidden.masked_fill(padded[:, None], torch.nan), weight, bias, targets, grad)
    assert not mine[0][padded].any() and not mine[1][padded].any()
    assert all(torch.equal(x, y) for x, y in zip(mine, expected))


def test_no_rows():
    out, *gradients = run(*log_prob_problem(0, 4, 6))
    assert out.shape == (0,) and [tuple(g.shape) for g in gradients] == [(0, 4), (6, 4), (6,)]
    assert not any(g.any() for g in gradients)


def test_rows_that_have_no_log_probability():
    hidden, weight, bias, targets, grad = log_prob_problem(6, 4, 100)
    clean = run(hidden, weight, bias, targets, grad)
    hidden[0, 1], targets[1], hidden[2] = torch.nan, 100, torch.inf
    out = run(hidden, weight, bias, targets, grad)
    for mine, other in zip(out[:2], clean[:2]):
        assert bool(mine[:3].isnan().all()) and torch.equal(mine[3:], other[3:])


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (0, 1)])
def test_only_the_gradients_that_are_needed(wanted):
    hidden, weight, bias, targets, grad = log_prob_problem(30, 5, 600)
    expected = run(hidden, weight, bias, targets, grad)[1:]
    leaves = [x.cuda().requires_grad_(i in wanted) for i, x in enumerate((hidden, weight, bias))]
    ops.linear_log_prob(*leaves, targets.cuda()).backward(grad.cuda())
    for i, (leaf, gradient) in enumerate(zip(leaves, expected)):
        assert (leaf.grad is None) == (i not in wanted)
        assert leaf.grad is None or torch.equal(leaf.grad, gradient)


def test_two_streams():
    """Each stream's call sees what was written on that stream before it, forward and backward."""
    problems = [log_prob_problem(64, 128, 5_000), log_prob_problem(65, 128, 5_000)]
    expected = [run(*arguments) for arguments in problems]
    torch.cuda.synchronize()
    streams, results = [torch.cuda.Stream(), torch.cuda.Stream()], []
    for stream, arguments in zip(streams, problems):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            results.append(run(*arguments))
    for stream, mine, theirs in zip(streams, results, expected):
        stream.synchronize()
        assert all(torch.equal(x, y) for x, y in zip(mine, theirs))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_the_second_device():
    hidden, weight, bias, targets, _ = log_prob_problem(30, 16, 500)
    out = ops.linear_log_prob(*(t.to("cuda:1") for t in (hidden, weight, bias, targets)))
    assert out.device == torch.device("cuda:1")
    torch.testing.assert_close(out.cpu(), ops.linear_log_prob(hidden, weight, bias, targets), rtol=1e-5, atol=4e-6)


def test_a_captured_graph_replays_on_new_numbers():
    hidden, weight, bias, targets, grad = on_gpu(*log_prob_problem(40, 16, 500))
    sums = OPERATORS.linear_log_prob(hidden, weight, bias, targets)[1]
    needs = (True, True, True)
    OPERATORS.linear_log_prob_backward(grad, hidden, weight, bias, targets, sums, *needs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, sums = OPERATORS.linear_log_prob(hidden, weight, bias, targets)
        gradients = OPERATORS.linear_log_prob_backward(grad, hidden, weight, bias, targets, sums, *needs)
    hidden.normal_()
    targets.random_(500)
    graph.replay()
    torch.cuda.synchronize()
    for mine, theirs in zip((out, *gradients), run(hidden, weight, bias, targets, grad)):
        assert torch.equal(mine, theirs)


def test_tensors_on_the_wrong_device_or_of_the_wrong_dtype():
    hidden, weight, bias, targets, _ = on_gpu(*log_prob_problem(4, 3, 9))
    with pytest.raises(ValueError, match="^targets must be on cuda:0, got cpu$"):
        ops.linear_log_prob(hidden, weight, bias, targets.cpu())
    with pytest.raises(ValueError, match="^hidden must have dtype float32 or bfloat16, got float16$"):
        ops.linear_log_prob(hidden.half(), weight, bias, targets)


@DTYPES
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_opcheck(rows, dtype):
    hidden, weight, bias, targets, grad = on_gpu(*log_prob_problem(rows, 4, 9, dtype))
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
    torch.library.opcheck(OPERATORS.linear_log_prob, (*leaves, targets))
    plain = [x.detach() for x in leaves]
    sums = torch.nn.functional.linear(*(x.double() for x in plain)).logsumexp(1)
    torch.library.opcheck(OPERATORS.linear_log_prob_backward, (grad, *plain, targets, sums, True, True, False))

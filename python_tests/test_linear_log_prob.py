"""The tiled log-probability of a linear softmax: values, gradients, padding, invariances, memory and errors."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from irecgan_ext import ops
from irecgan_ext.types import PAD

OPERATORS = torch.ops.irecgan_ext
EPSILON = torch.finfo(torch.float32).eps


def problem(rows: int, width: int, items: int, bias: bool = True, scale: float = 1.0):
    """hidden, weight, bias with gradients, targets, and the incoming gradient."""
    generator = torch.Generator().manual_seed(rows * items + width)
    hidden = torch.randn(rows, width, generator=generator).requires_grad_()
    weight = (scale * torch.randn(items, width, generator=generator) / width**0.5).requires_grad_()
    shift = torch.randn(items, generator=generator).requires_grad_() if bias else None
    targets = torch.randint(items, (rows,), generator=generator)
    return hidden, weight, shift, targets, torch.randn(rows, generator=generator)


def run(function, hidden, weight, bias, targets, grad, dtype=torch.float32) -> list[Tensor]:
    """The log-probabilities and the gradients, in float64."""
    leaves = [None if x is None else x.detach().to(dtype).requires_grad_() for x in (hidden, weight, bias)]
    out = function(*leaves, targets)
    out.backward(grad.to(dtype))
    return [x.detach().double() for x in (out, *(leaf.grad for leaf in leaves if leaf is not None))]


def pytorch(hidden, weight, bias, targets):
    return -functional.cross_entropy(
        functional.linear(hidden, weight, bias), targets, reduction="none", ignore_index=PAD
    )


def assert_as_exact_as_pytorch(arguments) -> None:
    truth = run(pytorch, *arguments, dtype=torch.float64)
    theirs = run(pytorch, *arguments)
    for impl in ("native", "reference"):
        mine = run(partial(ops.linear_log_prob, impl=impl), *arguments)
        for name, ours, other, exact in zip(("log_prob", "hidden", "weight", "bias"), mine, theirs, truth):
            if exact.numel() == 0:
                continue
            tolerance = 16 * EPSILON * exact.abs().max().clamp(min=1e-3)
            assert (ours - exact).abs().max() <= (other - exact).abs().max() + tolerance, (impl, name)


SIZES = [
    (1, 1, 1),
    (1, 3, 2),
    (7, 5, 13),
    (127, 31, 257),
    (129, 64, 256),
    (128, 16, 1023),
    (513, 17, 1025),
    (257, 9, 513),
    (1031, 8, 2053),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "width", "items"), SIZES)
def test_values_and_gradients(rows, width, items, bias):
    assert_as_exact_as_pytorch(problem(rows, width, items, bias))


@pytest.mark.parametrize("scale", [1e-3, 10.0, 60.0])
def test_flat_and_peaked_softmax(scale):
    assert_as_exact_as_pytorch(problem(140, 33, 1500, scale=scale))


def test_items_that_no_row_gives_weight_are_left_out():
    """Blocks of items far below 2^-24 / C get a weight gradient of exactly 0; the others' stay as exact as ever."""
    hidden, weight, bias, targets, grad = problem(20, 8, 2000)
    bias = bias.detach().index_fill(0, torch.arange(256, 2000), -60.0)
    targets = targets % 256
    assert_as_exact_as_pytorch((hidden, weight, bias, targets, grad))
    weight_grad, bias_grad = run(ops.linear_log_prob, hidden, weight, bias, targets, grad)[2:]
    assert not weight_grad[512:].any() and weight_grad[:256].any()
    assert bias_grad[256:].any()


@pytest.mark.parametrize("faint", [slice(0, 129), slice(129, 300), slice(0, 60)])
def test_faint_rows_do_not_take_others_with_them(faint):
    """Rows whose entries are all below the bound may be left out, never their neighbours in a block."""
    hidden, weight, bias, targets, grad = problem(300, 8, 100)
    grad = grad.index_fill(0, torch.arange(300)[faint], 1e-20)
    hidden_grad = run(ops.linear_log_prob, hidden, weight, bias, targets, grad)[1]
    assert hidden_grad.any(1).sum() >= (grad.abs() > 1e-10).sum()
    assert_as_exact_as_pytorch((hidden, weight, bias, targets, grad))


def test_a_row_has_the_same_bits_alone_and_in_a_batch():
    hidden, weight, bias, targets, _ = problem(40, 17, 500)
    whole = ops.linear_log_prob(hidden, weight, bias, targets)
    for first, last in ((0, 1), (3, 5), (7, 10), (12, 16), (20, 40)):
        assert torch.equal(
            ops.linear_log_prob(hidden[first:last], weight, bias, targets[first:last]), whole[first:last]
        )


def test_excluded_items():
    hidden, weight, bias, targets, grad = problem(9, 4, 700)
    bias = bias.detach().index_fill(0, torch.arange(0, 520), -torch.inf)
    targets = 520 + targets % 180
    mine, theirs = (run(f, hidden, weight, bias, targets, grad) for f in (ops.linear_log_prob, pytorch))
    for ours, other in zip(mine, theirs):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)


def test_no_rows():
    hidden, weight, bias, targets, grad = problem(0, 4, 6)
    out, *gradients = run(ops.linear_log_prob, hidden, weight, bias, targets, grad)
    assert out.shape == (0,)
    assert [tuple(g.shape) for g in gradients] == [(0, 4), (6, 4), (6,)]
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_padding_is_zero_and_reaches_nothing(impl):
    hidden, weight, bias, targets, grad = problem(300, 6, 40)
    padded = torch.arange(300) % 3 == 1
    poisoned = hidden.detach().masked_fill(padded[:, None], torch.nan)

    def op(*arguments):
        return ops.linear_log_prob(*arguments, impl=impl)

    out, *gradients = run(op, poisoned, weight, bias, targets.masked_fill(padded, PAD), grad)
    kept, *expected = run(op, hidden[~padded], weight, bias, targets[~padded], grad[~padded])
    assert not out[padded].any() and torch.equal(out[~padded], kept)
    assert not gradients[0][padded].any()
    assert torch.equal(gradients[0][~padded], expected[0])
    assert torch.equal(gradients[1], expected[1]) and torch.equal(gradients[2], expected[2])


def test_all_padding():
    hidden, weight, bias, targets, grad = problem(5, 6, 40)
    assert not any(x.any() for x in run(ops.linear_log_prob, hidden, weight, bias, targets.fill_(PAD), grad))


def test_rows_without_a_gradient_change_nothing():
    hidden, weight, bias, targets, grad = problem(200, 6, 400)
    grad[::2] = 0
    assert_as_exact_as_pytorch((hidden, weight, bias, targets, grad))


def test_an_infinite_gradient_hides_no_other_row():
    hidden, weight, bias, targets, grad = problem(300, 6, 40)
    expected = run(ops.linear_log_prob, hidden, weight, bias, targets, grad)[1]
    grad[0] = torch.inf
    assert torch.equal(run(ops.linear_log_prob, hidden, weight, bias, targets, grad)[1][1:], expected[1:])


def test_not_contiguous():
    hidden, weight, bias, targets, grad = problem(40, 11, 300)
    expected = run(ops.linear_log_prob, hidden, weight, bias, targets, grad)
    strided = (
        hidden.detach().T.contiguous().T,
        weight.detach().T.contiguous().T,
        torch.stack([bias.detach()] * 2, 1)[:, 0],
        torch.stack([targets] * 2, 1)[:, 0],
        torch.stack([grad] * 2, 1)[:, 0],
    )
    assert not any(x.is_contiguous() for x in strided)
    leaves = [x.requires_grad_() for x in strided[:3]]
    out = ops.linear_log_prob(*leaves, strided[3])
    out.backward(strided[4])
    for got, wanted in zip((out, *(x.grad for x in leaves)), expected):
        assert torch.equal(got.detach().double(), wanted)
    hidden.grad = None
    ops.linear_log_prob(hidden, weight, bias, targets).sum().backward()  # an expanded gradient
    assert hidden.grad is not None


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (0, 1)])
def test_only_the_gradients_that_are_needed(wanted):
    hidden, weight, bias, targets, grad = problem(30, 5, 600)
    expected = run(ops.linear_log_prob, hidden, weight, bias, targets, grad)[1:]
    leaves = [x.detach().requires_grad_(i in wanted) for i, x in enumerate((hidden, weight, bias))]
    ops.linear_log_prob(*leaves, targets).backward(grad)
    for i, (leaf, gradient) in enumerate(zip(leaves, expected)):
        assert (leaf.grad is None) == (i not in wanted)
        assert leaf.grad is None or torch.equal(leaf.grad.double(), gradient)


@pytest.mark.parametrize(("rows", "width", "items"), [(3, 4, 20), (32, 64, 5000), (700, 33, 2100)])
def test_same_bits_for_any_number_of_threads(rows, width, items):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(ops.linear_log_prob, *problem(rows, width, items)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other))


MEMORY = """
import pathlib, torch
from irecgan_ext import ops

def status(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

torch.set_num_threads(1)
rows, width, items = 512, 16, 40_000
hidden = torch.randn(rows, width, requires_grad=True)
weight = torch.randn(items, width, requires_grad=True)
targets = torch.randint(items, (rows,))
ops.linear_log_prob(hidden[:2], weight[:300], None, targets[:2] % 300).sum().backward()
hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
ops.linear_log_prob(hidden, weight, None, targets).sum().backward()
print((status("VmHWM") - before) * 1024 - weight.nbytes - hidden.nbytes, 4 * rows * items)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_needs_a_tenth_of_the_logits_memory():
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    extra, logits = map(int, result.stdout.split())
    assert extra <= logits / 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(4, 3, 1)}, "hidden must have 2 dimensions [R, H], got [4, 3, 1]"),
        ({"hidden": torch.zeros(4, 3).double()}, "hidden must have dtype float32, got float64"),
        ({"hidden": torch.zeros(4, 0)}, "hidden must have at least one column [R, H], got [4, 0]"),
        ({"weight": torch.zeros(5)}, "weight must have 2 dimensions [C, H], got [5]"),
        ({"weight": torch.zeros(0, 3)}, "weight must have at least one row [C, H], got [0, 3]"),
        ({"weight": torch.zeros(5, 2)}, "weight must have shape [5, 3], got [5, 2]"),
        ({"weight": torch.zeros(5, 3).bfloat16()}, "weight must have dtype float32, got bfloat16"),
        ({"bias": torch.zeros(4)}, "bias must have shape [5], got [4]"),
        ({"targets": torch.zeros(4)}, "targets must have dtype int64, got float32"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, "targets must have shape [4], got [3]"),
        ({"targets": torch.tensor([0, 1, 5, 0])}, "targets[2] must be in 0..C - 1 (C = 5) or PAD, got 5"),
        ({"targets": torch.tensor([0, -2, 1, 0])}, "targets[1] must be in 0..C - 1 (C = 5) or PAD, got -2"),
        ({"impl": "cuda"}, "impl must be 'native' or 'reference', got 'cuda'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {
        "hidden": torch.zeros(4, 3),
        "weight": torch.zeros(5, 3),
        "bias": torch.zeros(5),
        "targets": torch.zeros(4, dtype=torch.int64),
    }
    for impl in ("native", "reference"):
        with pytest.raises(ValueError) as error:
            ops.linear_log_prob(**{**arguments, "impl": impl, **change})
        assert str(error.value) == message


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["hidden", "weight"])
def test_logits_that_are_not_finite_are_reported(where, value):
    hidden, weight, bias, targets, _ = problem(300, 4, 600)
    hidden, weight = hidden.detach().abs(), weight.detach()
    if where == "hidden":
        hidden[257, 1] = value
    else:
        weight[510, 2] = value
    row = 257 if where == "hidden" else 0
    with pytest.raises(ValueError, match=rf"\Ahidden\[{row}\] and weight must give finite logits, got .*NaN"):
        ops.linear_log_prob(hidden, weight, bias, targets)


def test_all_items_excluded():
    hidden, weight, bias, targets, _ = problem(3, 4, 300)
    with pytest.raises(ValueError, match="must give finite logits"):
        ops.linear_log_prob(hidden, weight, torch.full_like(bias, -torch.inf), targets)


def test_no_second_derivative():
    hidden, weight, bias, targets, _ = problem(3, 4, 6)
    out = ops.linear_log_prob(hidden, weight, bias, targets).sum()
    (first,) = torch.autograd.grad(out, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="linear_log_prob must be differentiated once only"):
        first.sum().backward()


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(rows, bias):
    hidden, weight, shift, targets, grad = problem(rows, 4, 9, bias)
    torch.library.opcheck(OPERATORS.linear_log_prob, (hidden, weight, shift, targets))
    torch.library.opcheck(OPERATORS.check_linear_log_prob, (hidden, weight, shift, targets))
    plain = [None if x is None else x.detach() for x in (hidden, weight, shift)]
    sums = functional.linear(*plain).double().logsumexp(1)
    for needs in ((True, True, bias), (False, True, False), (True, False, False)):
        torch.library.opcheck(OPERATORS.linear_log_prob_backward, (grad, *plain, targets, sums, *needs))

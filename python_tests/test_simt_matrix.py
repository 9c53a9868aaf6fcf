"""csrc/cuda/mma.h on the host: the fragments of the PTX ISA (mma.m16n8k16, mma.m16n8k8, ldmatrix), products and copies."""

import re

import pytest
import simt
import torch
from simt import ORDERS, pointer
from torch import Tensor

pytestmark = simt.NEEDS_COMPILER
SOURCE = "csrc/simt/matrix_test.cu"


@pytest.fixture(scope="module", params=[(), ("-DIRECGAN_NO_TENSOR_CORES",)], ids=["emulated", "shuffled"])
def kernels(request):
    return simt.library(SOURCE, flags=request.param)


@pytest.fixture(scope="module")
def emulated():
    return simt.library(SOURCE)


class Places:
    """Where element i of a lane lies: the tables of the PTX ISA, section "Matrix Fragments"."""

    def __init__(self, count, row, column):
        self.count, self.row, self.column = count, row, column

    def __call__(self, lane, i):
        group, thread = lane >> 2, lane % 4
        return self.row(group, thread, i), self.column(group, thread, i)


def fragments(matrix: Tensor, places: Places) -> Tensor:
    """[32, elements of a lane] out of a matrix."""
    return torch.stack([torch.stack([matrix[places(lane, i)] for i in range(places.count)]) for lane in range(32)])


BF16_A = Places(
    8,
    lambda group, thread, i: group if 0 <= i < 2 or 4 <= i < 6 else group + 8,
    lambda group, thread, i: thread * 2 + (i & 1) + (8 if i >= 4 else 0),
)
BF16_B = Places(
    4,
    lambda group, thread, i: thread * 2 + (i & 1) + (8 if i >= 2 else 0),
    lambda group, thread, i: group,
)
TF32_A = Places(
    4,
    lambda group, thread, i: group if i in (0, 2) else group + 8,
    lambda group, thread, i: thread if i < 2 else thread + 4,
)
TF32_B = Places(2, lambda group, thread, i: thread + 4 * i, lambda group, thread, i: group)
SUMS = Places(
    4,
    lambda group, thread, i: group if i < 2 else group + 8,
    lambda group, thread, i: thread * 2 + (i & 1),
)


def multiply(kernels, dtype: torch.dtype, a: Tensor, b: Tensor, d: Tensor, reversed_lanes=False) -> Tensor:
    """a [16, 16 or 8] times b [16 or 8, 8] plus d [16, 8] by the instruction."""
    bf16 = dtype == torch.bfloat16
    left, right = fragments(a, BF16_A if bf16 else TF32_A), fragments(b, BF16_B if bf16 else TF32_B)
    if bf16:
        left, right = left.bfloat16(), right.bfloat16()
    sums = fragments(d, SUMS).contiguous()
    left, right = left.contiguous(), right.contiguous()
    simt.run(kernels.run_fragments, int(reversed_lanes), int(bf16), pointer(left), pointer(right), pointer(sums))
    out = torch.full((16, 8), torch.nan)
    for lane in range(32):
        for i in range(4):
            out[SUMS(lane, i)] = sums[lane, i]
    return out


@ORDERS
@pytest.mark.parametrize(("dtype", "depth"), [(torch.bfloat16, 16), (torch.float32, 8)])
def test_products(kernels, dtype, depth, reversed_lanes):
    generator = torch.Generator().manual_seed(1)
    # Few bits of mantissa: exact in either dtype, and so are the sums.
    a, b, d = (
        torch.randint(-99, 99, shape, generator=generator).float() for shape in ((16, depth), (depth, 8), (16, 8))
    )
    assert torch.equal(multiply(kernels, dtype, a, b, d, reversed_lanes), a @ b + d)


def test_tf32_ignores_the_lower_bits(emulated):
    a, b = torch.full((16, 8), 1 + 2.0**-10 + 2.0**-11), torch.eye(8)
    assert torch.equal(multiply(emulated, torch.float32, a, b, torch.zeros(16, 8)), torch.full((16, 8), 1 + 2.0**-10))


def words(numbers) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def call(kernels, name, given: Tensor, size: int, threads=32, reversed_lanes=False) -> tuple[list[int], str | None]:
    entry = getattr(kernels, name)
    entry.restype = simt.ctypes.c_char_p
    out = torch.full((size,), -1, dtype=torch.int32)
    error = entry(int(reversed_lanes), threads, pointer(given), pointer(out))
    return out.tolist(), None if error is None else error.decode()


@ORDERS
def test_rows_of_four_matrices(kernels, reversed_lanes):
    out, error = call(kernels, "run_matrices", words(range(128)), 128, reversed_lanes=reversed_lanes)
    # Row r of matrix m is words 4 (8 m + r) and on; register m of lane l is word l % 4 of row l / 4.
    assert error is None and out == [4 * (8 * m + lane // 4) + lane % 4 for lane in range(32) for m in range(4)]


def test_copies_arrive_when_waited_for(emulated):
    out, error = call(emulated, "run_copies", words(range(100, 108)), 20, threads=1)
    assert error is None
    first, second, before = [100, 101, 102, 103], [104, 105, 106, 107], [7] * 4
    assert out == before + first + before + second + [0] * 4


def test_rounding_to_tf32(kernels):
    x = torch.tensor([1.0, 1 + 2.0**-11, 1 + 2.0**-12, -(1 + 2.0**-11), 3e38, 0.0, -0.0, torch.inf, 1e-40])
    expected = torch.tensor([1.0, 1 + 2.0**-10, 1.0, -(1 + 2.0**-10), 3e38, 0.0, -0.0, torch.inf, 0.0])
    out, error = call(kernels, "run_round", x.view(torch.int32), 9, threads=9)
    rounded = torch.tensor(out, dtype=torch.int32).view(torch.float32)
    assert error is None
    torch.testing.assert_close(rounded, expected, rtol=2.0**-12, atol=1e-39)
    assert torch.equal(rounded[:4], expected[:4]) and not bool((rounded.view(torch.int32) & 0x1FFF).any())


MISUSED = {
    "run_divided": (
        32,
        "lanes wait for each other in different warp operations: .* an instruction of the whole warp at ",
    ),
    "run_half_a_warp": (16, "an instruction of the whole warp at .*: the mask names lane 16 of a warp of 16"),
    "run_misplaced_row": (32, "ldmatrix at .*: a row's address must be a multiple of 16"),
}


@pytest.mark.parametrize("name", MISUSED)
def test_misuse_is_refused(emulated, name):
    threads, message = MISUSED[name]
    _, error = call(emulated, name, words(range(4)), 32, threads=threads)
    assert error is not None and re.match(message, error), error

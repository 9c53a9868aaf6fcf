"""The CUDA rollout, run on the host by csrc/simt: the sessions of the CPU op on the same seed."""

import ctypes
import itertools

import pytest
import torch
from settings import CAP, ITEMS, Setting
from simt import ORDERS, compiled, needs_compiler, pointer
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.types import BOS, END, PAD

pytestmark = needs_compiler

SAMPLES = ("slates", "clicks", "rewards", "lengths", "censored")
SHARED_BYTES = 227 * 1024  # of an H200's thread block
PATHS = pytest.mark.parametrize("path", ["small", "steps"])


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    target = tmp_path_factory.mktemp("simt") / "rollout.so"
    return ctypes.CDLL(str(compiled("csrc/simt/rollout.cpp", target, "-fPIC", "-shared")))


def numbers(*values: int):
    return (ctypes.c_int64 * len(values))(*values)


def pointers(tensors: list[Tensor]):
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def simt_rollout(
    kernels, arguments, *, path="small", reversed_lanes=False, processors=2, scratch=2**31, shared=None
) -> ops.RolloutOutput:
    """ops.rollout's result from the CUDA kernels: the persistent kernel ("small") or the kernels of a step ("steps")."""
    a = arguments
    models = [a["user"], a["agent"], a["discriminator"]]
    states = [a["user_state"], a["agent_state"], a["discriminator_state"]]
    given = [m for m in range(3) if models[m]]
    sizes = [(models[m][0].shape[1], states[m].shape[3]) for m in given]
    items, rows, cap, slate = models[1][0].shape[0] - 2, len(a["rows"]), a["max_steps"], a["slate_size"]
    layers, count = states[0].shape[1:3]
    floats = [t.contiguous() for m in given for t in (*models[m], states[m])] + [a["score_sums"].contiguous()]
    integers = [a[name].contiguous() for name in ("state_index", "symbols", "steps", "rows", "seed")]
    out = ops.RolloutOutput(
        torch.full((rows, cap, slate), PAD),
        torch.full((rows, cap), PAD),
        torch.zeros(rows, cap),
        torch.zeros(rows, dtype=torch.int64),
        torch.zeros(rows, dtype=torch.bool),
        torch.zeros(rows),
        torch.full((rows, cap), 9.0),
        torch.zeros(4, dtype=torch.int64),
    )
    kernels.rollout.restype = ctypes.c_char_p
    shared = shared if shared is not None else SHARED_BYTES if path == "small" else 0
    error = kernels.rollout(
        int(reversed_lanes),
        numbers(
            len(given), a["reward"] == "binary", a["cell"] == "lstm", layers, items, count, rows, slate,
            a["completions"], cap, a["share"], *itertools.chain(*sizes),
        ),
        numbers(processors, shared, scratch),
        pointers(floats),
        pointers(integers),
        *(pointer(t) for t in out),
    )  # fmt: skip
    assert error is None, error
    return out


def assert_same(a: ops.RolloutOutput, b: ops.RolloutOutput) -> None:
    """The same samples, and the same scores up to rounding."""
    for name in SAMPLES:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("scores", "q"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-6)


def mixed_prefix(setting: Setting, rows: int):
    """Rows that start from four states and symbols, at steps 0..4, with score sums; the last argument is state_index."""
    generator = torch.Generator().manual_seed(3)
    states = [
        0.5 * torch.randn(model.encoder.initial_state(4).shape, generator=generator) for model in setting.models
    ]
    index = torch.randint(4, (rows,), generator=generator)
    steps = torch.randint(CAP - 1, (rows,), generator=generator)
    sums = torch.randn(rows, generator=generator) * steps
    return states, torch.tensor([BOS, 3, ITEMS - 1, 0])[index], steps, sums, index


CASES = list(itertools.product(("gru", "lstm"), ("survival", "binary"), (1, 2), (0, 3)))


@PATHS
@pytest.mark.parametrize(("cell", "reward", "layers", "completions"), CASES)
def test_sessions_of_the_cpu_op(kernels, cell, reward, layers, completions, path):
    setting = Setting(cell, reward, layers=layers)
    rows = torch.arange(40) + 2**35
    arguments = setting.arguments(rows, completions, prefix=mixed_prefix(setting, 40))
    expected = ops.rollout(**arguments)
    out = simt_rollout(kernels, arguments, path=path)
    assert_same(out, expected)
    assert out.work[[0, 3]].tolist() == expected.work[[0, 3]].tolist()
    assert int(out.work[2]) == 3 * int(out.work[1])

"""The CUDA rollout, run on the host by csrc/simt: the sessions of the CPU op on the same seed."""

import ctypes
import itertools
import subprocess

import pytest
import simt
import torch
from settings import CAP, ITEMS, Setting, mixed_prefix
from simt import pointer
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.types import PAD

pytestmark = simt.NEEDS_COMPILER

SAMPLES = ("slates", "clicks", "rewards", "lengths", "censored")
SHARED_BYTES = 227 * 1024  # of an H200's thread block
PATHS = pytest.mark.parametrize("path", ["small", "steps"])


@pytest.fixture(scope="module")
def kernels():
    return simt.library("csrc/simt/rollout.cpp")


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
    shared = shared if shared is not None else SHARED_BYTES if path == "small" else 0
    simt.run(
        kernels.rollout,
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
    return out


def assert_same(a: ops.RolloutOutput, b: ops.RolloutOutput) -> None:
    """The same samples, and the same scores up to rounding."""
    for name in SAMPLES:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("scores", "q"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-6)


CASES = [
    ("gru", "survival", 1, 0),
    ("gru", "survival", 1, 3),
    ("gru", "binary", 2, 3),
    ("lstm", "survival", 2, 2),
    ("lstm", "binary", 1, 0),
    ("lstm", "binary", 3, 1),
]


@PATHS
@pytest.mark.parametrize(("cell", "reward", "layers", "completions"), CASES)
def test_sessions_of_the_cpu_op(kernels, cell, reward, layers, completions, path):
    setting = Setting(cell, reward, layers=layers)
    arguments = setting.arguments(torch.arange(30) + 2**35, completions, prefix=mixed_prefix(setting, 30))
    expected = ops.rollout(**arguments)
    out = simt_rollout(kernels, arguments, path=path)
    assert_same(out, expected)
    assert out.work[[0, 3]].tolist() == expected.work[[0, 3]].tolist()
    assert int(out.work[2]) == 3 * int(out.work[1])
    if path == "steps":
        assert out.work[1] == expected.work[1]
    if path == "small" and completions > 0:
        assert int(out.work[1]) < int(out.work[0])


@PATHS
def test_neither_lane_order_nor_passes_nor_processors_change_a_bit(kernels, path):
    setting = Setting("gru", "binary", layers=2)
    arguments = setting.arguments(torch.arange(9), 3, prefix=mixed_prefix(setting, 9))
    expected = simt_rollout(kernels, arguments, path=path)
    for options in ({"reversed_lanes": True}, {"processors": 1, "scratch": 60_000}, {"processors": 5}):
        out = simt_rollout(kernels, arguments, path=path, **options)
        for name in ops.RolloutOutput._fields[:-1]:
            assert torch.equal(getattr(out, name), getattr(expected, name)), (name, options)
        assert out.work[0] == expected.work[0]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_states_that_are_not_shared(kernels, cell):
    setting = Setting(cell, layers=1)
    arguments = setting.arguments(torch.arange(12), 2, share=False)
    out = simt_rollout(kernels, arguments, path="steps")
    assert_same(out, ops.rollout(**arguments))
    assert out.work[0] == out.work[1]


def wider(items: int, hidden: int) -> Setting:
    """Models whose states and catalogue need several groups of lanes, tiles and blocks of the race."""
    setting = Setting(items=items, layers=1)
    setting.user = UserModel(items, 5, hidden + 1, 1)
    setting.agent = Agent(items, 3, hidden, 1)
    setting.discriminator = Discriminator(items, 70, 2 * hidden, 1)
    return setting


@pytest.mark.parametrize(
    ("path", "items", "hidden", "slate"), [("small", 150, 37, 40), ("steps", 150, 37, 40), ("steps", 1_100, 9, 3)]
)
def test_odd_sizes(kernels, path, items, hidden, slate):
    arguments = wider(items, hidden).arguments(torch.arange(5), 2, slate=slate, cap=3)
    assert_same(simt_rollout(kernels, arguments, path=path), ops.rollout(**arguments))


def test_weights_that_do_not_fit_the_shared_memory(kernels):
    arguments = wider(50, 64).arguments(torch.arange(4), 1, cap=2)
    expected, out = simt_rollout(kernels, arguments, shared=2**20), simt_rollout(kernels, arguments)
    assert torch.equal(out.q, expected.q) and torch.equal(out.work, expected.work)
    assert_same(out, ops.rollout(**arguments))


@PATHS
def test_without_a_discriminator(kernels, path):
    setting = Setting(layers=1)
    arguments = setting.arguments(torch.arange(20), scored=False)
    out = simt_rollout(kernels, arguments, path=path)
    assert_same(out, ops.rollout(**arguments))
    assert not bool(out.scores.any()) and not bool(out.q.any())
    assert int(out.work[2]) == 2 * int(out.work[1])


@PATHS
def test_more_completions_than_slots(kernels, path):
    setting = Setting(layers=1)
    arguments = setting.arguments(torch.arange(2), 70, cap=3)
    assert_same(simt_rollout(kernels, arguments, path=path), ops.rollout(**arguments))


@PATHS
def test_no_rows(kernels, path):
    out = simt_rollout(kernels, Setting(layers=1).arguments(torch.arange(0), 2), path=path)
    assert out.slates.shape == (0, CAP, 4) and not bool(out.work.any())


@PATHS
def test_rows_that_cannot_start_or_go_on(kernels, path):
    setting = Setting(layers=1)
    arguments = setting.arguments(torch.arange(6), 2)
    good = ops.rollout(**arguments)
    bad = {name: arguments[name].clone() for name in ("symbols", "steps", "state_index")}
    bad["symbols"][0], bad["steps"][1], bad["state_index"][2] = ITEMS, CAP, 1
    out = simt_rollout(kernels, arguments | bad, path=path)
    assert (
        bool(out.rewards[:3, 0].isnan().all()) and bool(out.scores[:3].isnan().all()) and bool(out.censored[:3].all())
    )
    assert out.lengths[:3].tolist() == [1, 1, 1] and bool((out.clicks[:3] == PAD).all())
    assert torch.equal(out.clicks[3:], good.clicks[3:]) and torch.equal(out.slates[3:], good.slates[3:])

    with torch.no_grad():
        setting.agent.head.bias[4] = torch.nan
    out = simt_rollout(kernels, setting.arguments(torch.arange(6), 2), path=path)
    assert bool(out.rewards[:, 0].isnan().all()) and bool((out.lengths == 1).all()) and bool(out.q[:, 0].isnan().all())


@PATHS
def test_a_completion_without_a_score_shows_in_q(kernels, path):
    """D fails on one item that is shown to some sessions only; the others' scores are not touched."""
    setting = Setting(layers=1)
    arguments = setting.arguments(torch.arange(40), 2, slate=2)
    expected = ops.rollout(**arguments)
    with torch.no_grad():
        setting.discriminator.encoder.embedding.weight[7] = torch.nan
    out = simt_rollout(kernels, setting.arguments(torch.arange(40), 2, slate=2), path=path)
    spoilt = out.q.isnan()
    assert bool(spoilt.any(1).any()) and not bool(spoilt.all(1).any())
    fine = ~out.scores.isnan() & ~spoilt.any(1)
    assert bool(fine.any())
    torch.testing.assert_close(out.q[fine], expected.q[fine], rtol=1e-5, atol=1e-6)
    shown = (expected.slates == 7).any(-1).any(1)
    assert bool(out.scores[shown].isnan().all()) and not bool(out.scores[~shown].isnan().any())


def test_no_address_outside_the_buffers():
    program = simt.with_address_check("csrc/simt/rollout_address_check.cpp")
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "no errors\n", done.stdout + done.stderr

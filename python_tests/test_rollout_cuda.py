"""The CUDA rollout against the CPU op. On a machine without a GPU the kernels run in test_simt_rollout.py instead."""

import itertools

import pytest
import torch
from laws import chi_squared_p
from settings import CAP, ITEMS, SLATE, Setting, mixed_prefix
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.rollout import rollout
from irecgan_ext.types import BOS, END, PAD

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA device; test_simt_rollout.py runs the kernels on the host"
    ),
]

SAMPLES = ("slates", "clicks", "rewards", "lengths", "censored")


def moved(arguments: dict, device: str = "cuda", dtype: torch.dtype = torch.float32) -> dict:
    """The arguments on a device but for the seed; models in `dtype`."""

    def move(name: str, value):
        if isinstance(value, list):
            return [x.to(device, dtype) for x in value]
        return value.to(device) if isinstance(value, Tensor) and name != "seed" else value

    return {name: move(name, value) for name, value in arguments.items()}


def assert_same(out: ops.RolloutOutput, expected: ops.RolloutOutput) -> None:
    """The same samples but for a near-tie here or there, and there the same scores up to rounding."""
    out = ops.RolloutOutput(*(x.cpu() for x in out))
    same = torch.ones(len(expected.lengths), dtype=torch.bool)
    for name in SAMPLES:
        same &= (getattr(out, name) == getattr(expected, name)).reshape(len(same), -1).all(1)
    assert same.double().mean() > 0.99
    torch.testing.assert_close(out.scores[same], expected.scores[same], rtol=1e-4, atol=1e-5)
    close = (out.q[same] - expected.q[same]).abs().amax(1) < 1e-4  # a completion may meet a near-tie too
    assert close.double().mean() > 0.98


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    ("cell", "reward", "layers", "completions"),
    list(itertools.product(("gru", "lstm"), ("survival", "binary"), (1, 2), (0, 3))),
)
def test_sessions_of_the_cpu_op(cell, reward, layers, completions, share):
    setting = Setting(cell, reward, layers=layers)
    rows = torch.arange(500) + 2**35
    arguments = setting.arguments(rows, completions, prefix=mixed_prefix(setting, 500), share=share)
    out = ops.rollout(**moved(arguments))
    assert all(x.is_cuda for x in out)
    assert_same(out, ops.rollout(**arguments))


@pytest.mark.parametrize("items", [70, 600, 2_000])
def test_larger_catalogues(items):
    arguments = Setting(items=items, layers=1).arguments(torch.arange(200), 2)
    assert_same(ops.rollout(**moved(arguments)), ops.rollout(**arguments))


@pytest.mark.parametrize("share", [True, False])
def test_bfloat16_parameters(share):
    arguments = Setting("lstm", "binary", layers=2).arguments(torch.arange(300), 2, share=share)
    rounded = moved(moved(arguments, "cpu", torch.bfloat16), "cpu")
    assert_same(ops.rollout(**moved(arguments, dtype=torch.bfloat16)), ops.rollout(**rounded))


def test_clicks_follow_their_probabilities():
    setting = Setting(items=4, layers=1)
    out = ops.rollout(**moved(setting.arguments(torch.arange(100_000), slate=4, cap=1, scored=False)))
    with torch.no_grad():
        state = setting.user.encoder(torch.tensor([[BOS]]))[0, 0]
        probabilities = setting.user.click_logits(state, torch.arange(4)).softmax(-1)
    clicks = out.clicks[:, 0].cpu()
    assert chi_squared_p(torch.bincount(torch.where(clicks == END, 4, clicks), minlength=5), probabilities) > 1e-3


@pytest.mark.parametrize("share", [True, False])
def test_a_captured_graph_replays_with_fresh_noise(share):
    setting = Setting(layers=1)
    arguments = moved(setting.arguments(torch.arange(64), 3, share=share))
    seed = torch.tensor(1, device="cuda")
    ops.rollout(**arguments | {"seed": seed})
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.rollout(**arguments | {"seed": seed})
    for value in (1, 77):
        seed.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert_same(out, setting.native(torch.arange(64), 3, seed=value, share=share))


def test_two_streams():
    setting = Setting(layers=1)
    expected = {seed: setting.native(torch.arange(200), 3, seed=seed) for seed in (1, 2)}
    arguments = moved(setting.arguments(torch.arange(200), 3))
    torch.cuda.synchronize()
    streams = {seed: torch.cuda.Stream() for seed in expected}
    played = {}
    for _ in range(5):
        for seed, stream in streams.items():
            with torch.cuda.stream(stream):
                played[seed] = ops.rollout(**arguments | {"seed": torch.tensor(seed)})
    torch.cuda.synchronize()
    for seed, out in played.items():
        assert_same(out, expected[seed])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device; this needs two")
def test_a_second_device():
    setting = Setting(layers=1)
    out = ops.rollout(**moved(setting.arguments(torch.arange(50), 2), "cuda:1"))
    assert out.q.device == torch.device("cuda:1")
    assert_same(out, setting.native(torch.arange(50), 2))


def test_opcheck():
    arguments = moved(Setting(layers=1).arguments(torch.arange(4), 2))
    torch.library.opcheck(torch.ops.irecgan_ext.rollout.default, tuple(arguments.values()))


@pytest.mark.parametrize("share", [True, False])
def test_empty_and_out_of_range_rows(share):
    setting = Setting(layers=1)
    empty = ops.rollout(**moved(setting.arguments(torch.arange(0), 2, share=share)))
    assert empty.slates.shape == (0, CAP, SLATE) and not bool(empty.work.any())
    arguments = moved(setting.arguments(torch.arange(6), 2, share=share))
    good = ops.rollout(**arguments)
    arguments["symbols"][0], arguments["steps"][1], arguments["state_index"][2] = ITEMS, CAP, 1
    out = ops.rollout(**arguments)
    assert out.lengths[:3].tolist() == [1, 1, 1] and bool((out.clicks[:3] == PAD).all())
    assert bool(out.rewards[:3, 0].isnan().all()) and torch.equal(out.slates[3:], good.slates[3:])


def test_outputs_that_cannot_be_used_are_raised_by_the_models_rollout():
    setting = Setting(layers=1)
    with torch.no_grad():
        setting.agent.head.bias[4] = torch.nan
    models = [model.cuda() for model in setting.models]
    with pytest.raises(ValueError, match="^models must have finite outputs, got NaN: session 0$"):
        rollout(*models, sessions=3, slate_size=SLATE, max_steps=CAP)


def test_tensors_on_the_wrong_device():
    arguments = moved(Setting(layers=1).arguments(torch.arange(4)))
    with pytest.raises(ValueError, match="^symbols must be on cuda:0, got cpu$"):
        ops.rollout(**arguments | {"symbols": arguments["symbols"].cpu()})
    with pytest.raises(ValueError, match=r"^agent\[1\] must be on cuda:0, got cpu$"):
        agent = [p.cpu() if i == 1 else p for i, p in enumerate(arguments["agent"])]
        ops.rollout(**arguments | {"agent": agent})

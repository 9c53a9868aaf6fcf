"""Training and evaluation on a device other than the CPU, as far as a machine without one can show it.

On a GPU a tensor that is made without a device lands on the CPU, and meets the others there in an error. So every tensor that
training makes must name its device; generators are on the CPU, and so are the indices drawn from them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from runs import make_run, tiny_config, tiny_log, tiny_users
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

import irecgan_ext
from irecgan_ext.evaluation.policies import AgentPolicy, UserModelPolicy
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.training.batches import minibatches, sample, split
from irecgan_ext.training.config import CriticConfig, MethodName, TrainConfig
from irecgan_ext.training.methods import METHODS
from irecgan_ext.training.outcome import Outcome
from irecgan_ext.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")

PACKAGE = Path(irecgan_ext.__file__).parent
# Simulated users, logs and files are there, whatever the device; and the order in which a packed batch is taken in.
ON_THE_CPU = ("simulators/", "data/", "training/checkpoint.py", "models/ragged.py")


MAKERS, LEAVERS = frozenset(_device_constructors()), {torch.Tensor.cpu, torch.Tensor.numpy}


class ExplicitDevice(TorchFunctionMode):
    """Refuse tensors that our code makes without naming a device, and tensors that it takes to the CPU."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = func in LEAVERS or (func is torch.Tensor.to and args[1:2] == ("cpu",))
        if (func in MAKERS and kwargs.get("device") is None) or leaves:
            frame = sys._getframe(1)
            name = frame.f_code.co_filename
            if name.startswith(str(PACKAGE)) and not name[len(str(PACKAGE)) + 1 :].startswith(ON_THE_CPU):
                raise AssertionError(f"{Path(name).name}:{frame.f_lineno}: {func.__name__} without a device")
        return func(*args, **kwargs)


def briefest(method: MethodName, **adversarial: Any) -> TrainConfig:
    """One update of everything: under the guard every call is slow."""
    config = tiny_config(**{"epochs": 1, "r_steps": 1, "generated": 8, "log_weight": 0.5, **adversarial})
    return replace(
        config,
        method=method,
        checkpoint_seconds=1e9,
        user=replace(config.user, epochs=1, batch=64),
        agent=replace(config.agent, epochs=1, batch=64),
        critic=CriticConfig(epochs=1),
        online=replace(config.online, iterations=1),
    )


CASES: list[tuple[MethodName, dict[str, Any]]] = [
    ("irecgan", {}),
    ("irecgan", {"action": "click", "value_baseline": True, "entropy": 0.1}),
    ("irecgan", {"discriminator": "constant", "action": "click"}),
    ("irecgan", {"discriminator": "random"}),
    ("pgis", {}),
    ("acu", {"action": "click"}),
    ("acu", {}),
    ("pg-online-offline", {}),
    ("lstm-offline", {}),
    ("irecgan-online", {"action": "click"}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_training_names_the_device_of_what_it_makes(tmp_path: Path, name: MethodName, options: dict[str, Any]) -> None:
    with closing(make_run(tmp_path, briefest(name, **options), binary=bool(options))) as run:
        with ExplicitDevice():
            METHODS[name].train(run)
            outcome = Outcome.of(run)
        devices = [next(model.parameters()).device for model in outcome.learnt.values()]
        assert devices == [run.device] * len(devices)


def test_the_guard_sees_a_tensor_without_a_device() -> None:
    source = "def careless(torch):\n    return torch.zeros(2)\n"
    space: dict[str, Any] = {}
    exec(compile(source, str(PACKAGE / "training/careless.py"), "exec"), space)
    with ExplicitDevice(), pytest.raises(AssertionError, match=r"careless\.py:2: zeros without a device"):
        space["careless"](torch)


@pytest.mark.parametrize("kind", [AgentPolicy, UserModelPolicy])
def test_a_policy_names_the_device_of_what_it_makes(kind: type) -> None:
    model = Agent(12, 4, 8, 1) if kind is AgentPolicy else UserModel(12, 4, 8, 1)
    for drawn in (False, True):
        policy, rows = kind(model, 3, drawn), torch.arange(5)
        with ExplicitDevice():
            policy.begin(5, seed=1)
            slates = policy.recommend(rows, rows)
            policy.observe(rows, slates, slates[:, 0])
        assert slates.device == rows.device


def test_a_policy_keeps_its_states_where_the_model_is() -> None:
    """On the device without data: what is moved there goes through, what comes back cannot."""
    policy, rows = AgentPolicy(Agent(12, 4, 8, 1).to("meta"), 3), torch.arange(5)
    policy.begin(5, seed=1)
    policy.observe(rows, rows[:, None], rows)
    assert policy.states.device.type == "meta"
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        policy.recommend(rows, rows)


def test_draws_are_made_where_the_generator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of a GPU refuses draws for another device, and draws for none are draws for the CPU."""
    seen = []
    for name in ("randperm", "randint"):
        plain = getattr(torch, name)

        def noted(*args: Any, plain: Any = plain, **kwargs: Any) -> Any:
            seen.append(kwargs["device"] == kwargs["generator"].device)
            return plain(*args, **kwargs)

        monkeypatch.setattr(torch, name, noted)
    log, generator = tiny_log(20), torch.Generator()
    split(log, 0.1, generator)
    sample(log, 5, generator)
    sample(log, 50, generator)
    assert len(list(minibatches(log.lengths, 8, generator))) == 3
    assert seen == [True] * 5


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", get_args(MethodName))
def test_training_on_cuda_is_training(tmp_path: Path, name: MethodName) -> None:
    """All of the method runs where it should, and learns numbers."""
    config = replace(tiny_config(), method=name)
    log = tiny_log()
    train, valid = log.select(torch.arange(40)), log.select(torch.arange(40, 60))
    run = Run(config, tmp_path, train, valid, 12, "survival", torch.device("cuda"), mdp=tiny_users())
    METHODS[name].train(run)
    run.close()
    for model in Outcome.of(run).learnt.values():
        assert all(parameter.is_cuda and bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert run.train.start.is_cuda

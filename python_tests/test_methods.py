"""Every method of the paper: it learns, it repeats itself, it resumes bit for bit, and its run leaves what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from runs import copied, easy_run, easy_users, make_run, tiny_config

from irecgan_ext.evaluation.coverage import evaluate_policy
from irecgan_ext.evaluation.policies import learnt_policy
from irecgan_ext.models import Agent
from irecgan_ext.simulators.policies import MaxPolicy, RandomPolicy
from irecgan_ext.training.config import MethodName
from irecgan_ext.training.methods import METHODS
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.outcome import Outcome
from irecgan_ext.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = get_args(MethodName)
SEEDS = (0, 1, 2)


def trained(run: Run) -> Run:
    METHODS[run.config.method].train(run)
    run.close()
    return run


def reward(model: Any, sample: bool = False) -> float:
    policy = learnt_policy(model, 2, sample)
    return evaluate_policy(easy_users(), policy, 400, slate_size=2, seed=7, max_steps=200).reward


def test_the_registry_names_every_method() -> None:
    assert tuple(METHODS) == NAMES
    for name, method in METHODS.items():
        assert name in method.policies
        assert method.title


@dataclass(frozen=True)
class Lesson:
    """What a method made of `easy_users` over the seeds."""

    outcomes: list[Outcome]
    records: list[list[dict[str, Any]]]

    def reward(self, row: str, sample: bool = False) -> float:
        return sum(reward(outcome.learnt[row], sample) for outcome in self.outcomes) / len(self.outcomes)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Callable[[MethodName], Lesson]:
    """Each method is taught once for all tests."""

    @cache
    def teach(name: MethodName) -> Lesson:
        folders = [tmp_path_factory.mktemp(name) for _ in SEEDS]
        outcomes = [Outcome.of(trained(easy_run(folder, name, seed))) for folder, seed in zip(folders, SEEDS)]
        return Lesson(outcomes, [read_metrics(folder) for folder in folders])

    return teach


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lstmd"])  # whose run is irecgan's
def test_every_method_learns_what_to_recommend(lesson: Callable[[MethodName], Lesson], name: MethodName) -> None:
    """Two good items of ten; means over the seeds, against chance and the best there is."""
    chance, best = (
        evaluate_policy(easy_users(), policy, 400, slate_size=2, seed=7).reward
        for policy in (RandomPolicy(10, 2), MaxPolicy(easy_users(), 2))
    )
    assert best > 5 * chance
    # pg-online uses each of its few sessions once: it is on its way, no more. lstm-offline never explores, and may hold on to
    # one good item.
    share = {"pg-online": 0.2, "lstm-offline": 0.6}.get(name, 0.9)
    for row in METHODS[name].policies:
        assert lesson(name).reward(row) > chance + share * (best - chance), row


LOSSES = {
    "lstm": {"ll_valid": 1},
    "pg": {"loss_valid": -1},
    "pgis": {"logging_ll_train": 1, "return_valid": 1},
    "ac": {"critic_loss": -1, "loss_valid": -1},
    "pgu": {"agent_return": 1},
    "acu": {"agent_return": 1},
    "irecgan": {"agent_return": 1},
    "pg-online": {"greedy_reward": 1},
    "pg-online-offline": {"greedy_reward": 1},
    "lstm-offline": {"greedy_reward": 1},
    "irecgan-online": {"greedy_reward": 1},
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_method_measures_moves_the_right_way(lesson: Callable[[MethodName], Lesson], name: MethodName) -> None:
    for value, sign in LOSSES[name].items():
        gains = []
        for records in lesson(name).records:
            assert all(math.isfinite(v) for record in records for k, v in record.items() if k != "phase")
            series = [record[value] for record in records if value in record]
            gains.append(sign * (series[-1] - series[0]))
        assert sum(gains) / len(gains) > 0, (value, gains)


@pytest.mark.parametrize("name", ["pgu", "acu", "irecgan"])
def test_generated_sessions_sharpen_the_policy(lesson: Callable[[MethodName], Lesson], name: MethodName) -> None:
    """Sampled slates of the final agent earn more than those of the agent that knows the log alone."""
    before = "ac" if name == "acu" else "pg"
    assert lesson(name).reward(name, sample=True) > lesson(name).reward(before, sample=True) + 0.5


def test_the_user_model_of_pgu_stays_as_pretrained(tmp_path: Path) -> None:
    run = trained(make_run(tmp_path, replace(tiny_config(), method="pgu")))
    for key, value in run.models.user.state_dict().items():
        assert torch.equal(value, run.snapshots["user"][key])
    fresh = make_run(tmp_path / "fresh")
    for key, value in run.models.discriminator.state_dict().items():
        assert torch.equal(value, fresh.models.discriminator.state_dict()[key]), "there is no discriminator to train"
    fresh.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_run_leaves_what_its_method_says(tmp_path: Path, name: MethodName) -> None:
    run = make_run(tmp_path, replace(tiny_config(), method=name))
    fresh = copied(run.models)
    trained(run)
    run.save("final")
    outcome = Outcome.of(run)
    assert set(outcome.learnt) == set(METHODS[name].policies)
    loaded = Outcome.load(tmp_path, run.config, run.items, "survival")
    for key, model in outcome.learnt.items():
        part = "agent" if isinstance(model, Agent) else "user"
        again = loaded.learnt[key].state_dict()
        assert type(loaded.learnt[key]) is type(model)
        for entry, value in model.state_dict().items():
            assert torch.equal(value, again[entry])
            assert not torch.equal(value, fresh[f"{part}.{entry}"]), f"{key} did not learn {entry}"
    own = outcome.learnt[name]
    final = getattr(outcome.models, "agent" if isinstance(own, Agent) else "user").state_dict()
    assert all(torch.equal(value, final[entry]) for entry, value in own.state_dict().items())


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", NAMES)
def test_killed_and_resumed_it_ends_with_the_same_weights(
    tmp_path: Path, name: MethodName, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny_config(value_baseline=name == "irecgan", log_weight=0.5), method=name, checkpoint_seconds=0.0)
    whole = trained(make_run(tmp_path / "whole", config))
    for at in range(1, whole.step):
        parts = make_run(tmp_path / "parts", config, resume=at > 1)
        assert parts.step == at - 1
        save = parts.save

        def save_and_die(label: int | str | None = None, save: Any = save) -> None:
            save(label)
            raise Killed

        monkeypatch.setattr(parts, "save", save_and_die)
        with pytest.raises(Killed):
            METHODS[name].train(parts)
        parts.close()
    last = trained(make_run(tmp_path / "parts", config, resume=True))
    for kind in ("models", "average"):
        for key, value in getattr(whole, kind).state_dict().items():
            assert torch.equal(getattr(last, kind).state_dict()[key], value), (kind, key)
    assert last.modules.keys() <= whole.modules.keys()
    whole.save("final")
    last.save("final")
    expected, got = ((tmp_path / part / "checkpoints/final.safetensors").read_bytes() for part in ("whole", "parts"))
    assert stripped(expected) == stripped(got), "optimisers, critics, gathered sessions and counters must agree too"
    assert values(tmp_path / "whole") == values(tmp_path / "parts")


def stripped(checkpoint: bytes) -> bytes:
    """The tensors of a safetensors file, without the header, which holds seconds."""
    return checkpoint[8 + int.from_bytes(checkpoint[:8], "little") :]


def values(directory: Path) -> list[tuple[Any, ...]]:
    return [tuple(item for item in record.items() if item[0] != "wall") for record in read_metrics(directory)]

"""Learning in turns with the simulator: what is played, gathered, learnt from and measured."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SLATE, copied, make_run, tiny_config, tiny_users

from irecgan_ext.evaluation.coverage import coverage, evaluate_policy
from irecgan_ext.evaluation.policies import AgentPolicy
from irecgan_ext.training.agent_update import played_weights
from irecgan_ext.training.config import MethodName
from irecgan_ext.training.methods import METHODS, online
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.run import Run
from irecgan_ext.types import Trajectories

pytestmark = pytest.mark.usefixtures("one_thread")

ONLINE: tuple[MethodName, ...] = ("pg-online", "pg-online-offline", "lstm-offline", "irecgan-online")


def online_run(directory: Path, name: MethodName, **options: Any) -> Run:
    config = replace(tiny_config(), method=name)
    return make_run(directory, replace(config, online=replace(config.online, **options)))


def spy(monkeypatch: pytest.MonkeyPatch, name: str, seen: list[Any], take: Any) -> None:
    """Note `take(*args)` at each call of the function `name` of the page."""
    plain = getattr(online, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append(take(*args))
        return plain(*args, **kwargs)

    monkeypatch.setattr(online, name, noted)


@pytest.mark.parametrize("name", ONLINE)
def test_turns_gather_what_was_played_and_nothing_else(tmp_path: Path, name: MethodName) -> None:
    with closing(online_run(tmp_path, name, iterations=2, sessions=11, updates=3)) as run:
        log = run.train
        METHODS[name].train(run)
        assert len(run.train) == 22
        assert run.gathered is run.train
        assert run.train.states is None, "what learns must not see the users' states"
        assert run.train.slate_size == SLATE
        run.train.validate(run.items)
        assert not any(torch.equal(run.train.slates[:, 0], part) for part in log.slates[:22, 0].split(22))
    records = read_metrics(tmp_path)
    assert [(record["phase"], record["unit"], record["sessions"]) for record in records] == [
        ("online", 0, 11),
        ("online", 1, 22),
    ]


def test_pg_online_learns_from_each_session_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Trajectories] = []
    spy(monkeypatch, "on_policy_loss", seen, lambda agent, batch, *rest: batch)
    with closing(online_run(tmp_path, "pg-online", iterations=2, sessions=11, updates=3)) as run:
        METHODS["pg-online"].train(run)
        assert [len(batch) for batch in seen] == [4, 4, 3] * 2
        assert torch.equal(Trajectories.cat(seen).clicks, run.train.clicks)
        assert set(run.optimisers) == {"online_agent"}


def test_pg_online_and_offline_learns_from_all_that_was_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    spy(monkeypatch, "train_epoch", seen, lambda run, *rest: len(run.train))
    with closing(online_run(tmp_path, "pg-online-offline", iterations=3, epochs=2)) as run:
        METHODS["pg-online-offline"].train(run)
        assert seen == [10, 10, 20, 20, 30, 30]
        assert set(run.optimisers) == {"online_agent", "agent"}
        assert run.optimisers["agent"].param_groups[0]["lr"] == run.config.agent.learning_rate


def test_lstm_offline_plays_greedily_and_leaves_the_agent_alone(tmp_path: Path) -> None:
    with closing(online_run(tmp_path, "lstm-offline", iterations=1)) as run:
        fresh = copied(run.models.agent)
        METHODS["lstm-offline"].train(run)
        assert all(torch.equal(value, fresh[key]) for key, value in run.models.agent.state_dict().items())
        first = run.train.slates[:, 0]
        assert torch.equal(first, first[:1].expand_as(first)), "greedy: everyone starts with the same slate"


def test_irecgan_online_runs_algorithm_1_on_the_gathered_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r_steps: list[float] = []
    d_steps: list[int] = []
    spy(monkeypatch, "r_step", r_steps, lambda run, unit, rate: rate)
    spy(monkeypatch, "d_step", d_steps, lambda run, unit: len(run.train))
    with closing(online_run(tmp_path, "irecgan-online", iterations=2, rounds=2)) as run:
        config = run.config
        METHODS["irecgan-online"].train(run)
    assert len(r_steps) == 2 * 2 * config.adversarial.r_steps
    assert r_steps[0] == 1
    assert r_steps[-1] == pytest.approx(config.adversarial.final_rate)
    assert r_steps == sorted(r_steps, reverse=True)
    assert d_steps == [10] * (config.discriminator.pretrain_epochs + 2) + [20] * 2


def test_every_method_starts_with_the_same_policy_and_users(tmp_path: Path) -> None:
    """The agents' first shares: the same weights, seeds and users."""
    starts = []
    for name in ("pg-online", "pg-online-offline", "irecgan-online"):
        with closing(online_run(tmp_path / name, name, iterations=1)) as run:
            METHODS[name].train(run)
            starts.append(run.train)
    for other in starts[1:]:
        assert torch.equal(starts[0].clicks, other.clicks)


def test_what_a_turn_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Trajectories] = []
    spy(monkeypatch, "measure", played, lambda run, model, sessions: sessions)
    with closing(online_run(tmp_path, "pg-online", iterations=2)) as run:
        METHODS["pg-online"].train(run)
        record = online.turns(tmp_path)[1]
        mdp, mask = tiny_users(), played[1].step_mask()
        assert played[1].states is not None
        shares = coverage(mdp.rewards, played[1].states[mask], played[1].slates[mask]).mean(0)
        for depth in range(1, 11):
            assert record[f"coverage_{depth}"] == pytest.approx(shares[depth - 1].item())
        returns = played[1].returns().double()
        assert record["reward"] == pytest.approx(returns.mean().item())
        assert record["reward_ci95"] == pytest.approx(1.959964 * returns.std(correction=0).item() / math.sqrt(10))
        policy = AgentPolicy(run.models.agent, SLATE)
        options = {"slate_size": SLATE, "seed": run.config.evaluation.seed, "max_steps": 10_000}
        after = evaluate_policy(mdp, policy, run.config.online.evaluation_sessions, **options)
        assert record["greedy_reward"] == after.reward
        assert record["greedy_reward_ci95"] == after.ci95
        assert [record[f"greedy_coverage_{r}"] for r in range(1, 11)] == list(after.coverage)
    assert (record["turn"], record["sessions"]) == (2, 20)
    assert not {"phase", "unit", "step", "wall"} & set(record)


def test_weights_of_played_sessions_are_centred_returns(tmp_path: Path) -> None:
    """Whole slates as actions, nothing but what happened: R_t minus its mean, the first step apart, in one unit."""
    with closing(make_run(tmp_path)) as run:
        sessions, config = run.train, run.config.adversarial
        weights = played_weights(run, sessions)
        mask = sessions.step_mask()
        returns = torch.zeros(mask.shape, dtype=torch.float64)
        for b in range(len(sessions)):
            for t in reversed(range(int(sessions.lengths[b]))):
                after = returns[b, t + 1].item() if t + 1 < sessions.lengths[b] else 0.0
                returns[b, t] = 1 + config.lambda_r * sessions.rewards[b, t].item() + config.gamma * after
        for part in (slice(0, 1), slice(1, None)):
            counted = mask[:, part]
            returns[:, part] = torch.where(counted, returns[:, part] - returns[:, part][counted].mean(), 0.0)
        expected = returns / returns[mask].square().mean().sqrt()
        torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_run_without_users_is_refused(tmp_path: Path) -> None:
    with closing(online_run(tmp_path, "pg-online")) as run:
        run.mdp = None
        with pytest.raises(ValueError, match="mdp must be given to a run that learns online, got None"):
            METHODS["pg-online"].train(run)

"""Off-policy evaluation of agents on simulated logs: ratios, truth, warnings, the command and its plot."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from runs import FLAGS

from irecgan_ext import cli, off_policy, simulate, train
from irecgan_ext.errors import UsageError
from irecgan_ext.evaluation.assessment import Assessment, assess
from irecgan_ext.evaluation.calibration import calibrate, slate_reward, true_value
from irecgan_ext.evaluation.importance import log_ratios, slot_rewards, tempered
from irecgan_ext.evaluation.reward_model import later_values, model_values
from irecgan_ext.losses import plackett_luce_log_prob
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.plots import plot_calibration
from irecgan_ext.rollout import rollout
from irecgan_ext.simulators import MDP, MaxPolicy, MixPolicy, Policy, RandomPolicy, SoftmaxPolicy, simulate_logged
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.types import Propensities, Trajectories

ITEMS, SIZE = 8, 2
USERS = MDP.random(states=3, items=ITEMS, transition_temperature=0.3, seed=1)


def agent_of(items: int = ITEMS) -> Agent:
    torch.manual_seed(0)
    agent = Agent(items, 5, 6, 1)
    torch.nn.init.normal_(agent.encoder.embedding.weight)
    torch.nn.init.normal_(agent.head.weight, std=0.6)
    return agent.eval()


def user_of() -> UserModel:
    torch.manual_seed(1)
    return UserModel(ITEMS, 5, 6, 1).eval()


def log_of(policy: Policy, sessions: int = 4000, max_steps: int | None = 2) -> tuple[Trajectories, Propensities]:
    log, told = simulate_logged(USERS, policy, sessions, slate_size=SIZE, seed=3, max_steps=max_steps)
    assert told is not None
    return log, told


def test_ratios_of_the_agent_to_the_log() -> None:
    log, told = log_of(SoftmaxPolicy(USERS, SIZE, 0.5), 30)
    agent, steps = agent_of(), log.step_mask()
    got = log_ratios(agent, log, told, steps, marginals=True)
    with torch.no_grad():
        logits = agent.logits(agent.encoder(log.inputs()))[steps]
    expected = plackett_luce_log_prob(logits.double(), log.slates[steps]) - told.pscore[steps].log()
    torch.testing.assert_close(got.joint, expected, rtol=1e-6, atol=1e-6)
    assert got.cascade is not None
    assert got.item_position is not None
    torch.testing.assert_close(got.cascade[:, -1], got.joint)
    assert told.pscore_item_position is not None
    first = logits.double().softmax(1).gather(1, log.slates[steps][:, :1])[:, 0].log()
    torch.testing.assert_close(got.item_position[:, 0], first - told.pscore_item_position[steps][:, 0].log())
    assert log_ratios(agent, log, told, steps, marginals=False).item_position is None
    bare = log_ratios(agent, log, Propensities(told.pscore), steps, marginals=True)
    assert bare.cascade is None
    assert bare.item_position is None
    rewards = slot_rewards(log, steps)
    assert torch.equal(rewards.sum(1), log.rewards[steps].double())
    clicked = log.clicks[steps] >= 0
    assert torch.equal(
        log.slates[steps][clicked].gather(1, rewards[clicked].argmax(1)[:, None])[:, 0], log.clicks[steps][clicked]
    )


def test_a_temperature_divides_the_logits() -> None:
    agent, state = agent_of(), torch.randn(3, 6)
    before = agent.logits(state)
    torch.testing.assert_close(tempered(agent, 4.0).logits(state), before / 4)
    assert torch.equal(agent.logits(state), before)
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        tempered(agent, 0)


SOUND = {
    "session": ("trajectory_ipw", "trajectory_snipw", "per_decision_ipw", "per_decision_snipw", "per_decision_dr"),
    "first": ("ipw", "snipw", "dr", "sips"),
    "step": ("ipw", "snipw", "dr", "sips"),
}


@pytest.mark.parametrize("value", ["session", "first", "step"])
def test_estimates_meet_the_truth(value: Any) -> None:
    log, told = log_of(SoftmaxPolicy(USERS, SIZE, 0.6))
    agent = agent_of()
    got = assess(agent, user_of(), log, told, value=value, samples=300)
    truth = true_value(USERS, agent, log, value, max_steps=2, simulated=40_000)
    logged = got.estimates["logged"]
    expected = log.returns().double().mean() if value == "session" else log.rewards[:, 0].double().mean()
    if value == "step":
        expected = log.rewards[log.step_mask()].double().mean()
    assert logged.value == pytest.approx(float(expected), rel=1e-6)
    assert not logged.interval[0] < truth < logged.interval[1], (
        "the agent must differ from the log for this to mean anything"
    )
    for name in SOUND[value]:
        row = got.estimates[name]
        deviation = (row.interval[1] - row.interval[0]) / 3.92
        assert abs(row.value - truth) < 4 * deviation, (name, row, truth)
        assert row.effective is not None
        assert row.effective > 100
        assert deviation < 0.1 * truth
    assert got.warnings == []


def test_slot_estimators_are_sound_for_slates_of_one() -> None:
    log, told = simulate_logged(USERS, SoftmaxPolicy(USERS, 1, 0.6), 3000, slate_size=1, seed=3)
    assert told is not None
    got = assess(agent_of(), None, log, told, value="first", samples=20).estimates
    for name in ("sips", "iips", "rips"):
        assert got[name].value == pytest.approx(got["ipw"].value, rel=1e-6)
    assert "dm" not in got


def test_truth_of_a_first_step_is_an_exact_sum() -> None:
    log, _ = log_of(RandomPolicy(ITEMS, SIZE), 300)
    agent = agent_of()
    slates = torch.cartesian_prod(torch.arange(ITEMS), torch.arange(ITEMS))
    slates = slates[slates[:, 0] != slates[:, 1]]
    with torch.no_grad():
        logits = agent.logits(agent.encoder(log.start[:1, None])[:, 0]).expand(len(slates), ITEMS)
    law = plackett_luce_log_prob(logits.double(), slates).exp()
    exact = float(law @ slate_reward(USERS, torch.zeros(len(slates), dtype=torch.int64), slates))
    assert true_value(USERS, agent, log, "first", max_steps=4) == pytest.approx(exact, rel=0.02)


def test_what_a_log_cannot_tell_is_said() -> None:
    agent = agent_of()
    log, told = log_of(MaxPolicy(USERS, SIZE), 200)
    with pytest.raises(UsageError, match="every pscore of the log is 1: its policy is deterministic"):
        assess(agent, None, log, told)
    wide = MDP.random(states=3, items=20, seed=1)
    log, made = simulate_logged(wide, MixPolicy(wide, SIZE), 2000, slate_size=SIZE, seed=3, max_steps=4)
    assert made is not None
    found = assess(agent_of(20), None, log, made, value="first", samples=20).warnings
    assert any("missing from the log or too rare" in warning for warning in found)
    tiny = Propensities(torch.where(made.pscore < 1, made.pscore * 1e-308, 1.0))
    with pytest.raises(UsageError, match="^ipw is not finite: the agent and the policy that logged are too far apart"):
        assess(agent_of(20), None, log, tiny, value="first", samples=2)
    log, told = log_of(RandomPolicy(ITEMS, SIZE), 60)
    found = assess(tempered(agent, 0.2), None, log, Propensities(told.pscore), value="first", samples=20).warnings
    assert any("fewer than 100 effective sessions: ipw (" in warning for warning in found)
    assert [warning[:40] for warning in found[-2:]] == [
        "the log does not tell what iips needs (p",
        "the log does not tell what rips needs (p",
    ]


def test_calibration_points_and_their_plot(tmp_path: Path) -> None:
    log, told = log_of(SoftmaxPolicy(USERS, SIZE, 0.6), 1500)
    points = calibrate(
        USERS, agent_of(), user_of(), log, told, temperatures=(0.5, 4.0), value="first", max_steps=4, samples=50
    )
    assert [point.temperature for point in points] == [0.5, 4.0]
    assert points[0].truth == true_value(USERS, tempered(agent_of(), 0.5), log, "first", max_steps=4)
    assert isinstance(points[0].assessment, Assessment)
    plot_calibration([point.plain() for point in points], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="points must hold at least one target policy, got 0"):
        plot_calibration([], tmp_path / "none.png")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its users and logs of theirs."""
    path = tmp_path_factory.mktemp("off_policy")
    shape = ["--slate-size", "3", "--sessions", "150", "--mdp", str(path / "users")]
    for name, options in {
        "log": ["--policy", "softmax", "--policy-temperature", "1"],
        "max": ["--policy", "max"],
        "bare": ["--no-propensities"],
    }.items():
        args = ["--out", str(path / f"{name}.parquet"), *shape, *options]
        assert cli.run_command(simulate.main, simulate.SimulateOptions, prog="simulate", args=args) == 0
    args = [*FLAGS, "--data", str(path / "log.parquet"), "--out", str(path / "run")]
    assert cli.run_command(train.main, TrainConfig, prog="train", args=args) == 0
    small = ["--out", str(path / "small.parquet"), "--items", "9", "--slate-size", "3", "--sessions", "20"]
    assert cli.run_command(simulate.main, simulate.SimulateOptions, prog="simulate", args=small) == 0
    return path


def run_here(*args: str | int | float | Path) -> tuple[int, str, str]:
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        options = off_policy.OffPolicyOptions
        status = cli.run_command(off_policy.main, options, prog="off_policy", args=[str(arg) for arg in args])
    return status, out.getvalue(), error.getvalue()


def test_the_command(directory: Path, tmp_path: Path) -> None:
    common = (directory / "run", "--log", directory / "log.parquet", "--bootstrap", 20)
    status, out, error = run_here(*common)
    assert status == 0
    assert out.splitlines()[0].split() == ["estimator", "estimate", "95%", "interval", "effective", "sessions"]
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "logged",
        *SOUND["session"][:4],
        "dm",
        "per_decision_dr",
    ]
    assert error.startswith("warning: ") or error == ""
    without = json.loads(run_here(*common, "--value", "first", "--no-iips", "--json")[1])["estimates"]
    assert list(without) == ["logged", "ipw", "snipw", "dm", "dr", "sips", "rips"]
    status, out, _ = run_here(*common, "--value", "first", "--agent", "pg", "--json")
    shown = json.loads(out)
    assert status == 0
    assert shown["sessions"] == 150
    assert list(shown["estimates"]) == ["logged", "ipw", "snipw", "dm", "dr", "sips", "iips", "rips"]
    plot = tmp_path / "plot.png"
    status, out, _ = run_here(*common, "--value", "first", "--calibration", plot, "--temperatures", 1, 8)
    assert status == 0
    assert plot.exists()
    head, truth, *rows = out.splitlines()
    assert head.split() == ["T", "=", "1", "T", "=", "8"]
    assert truth.startswith("true value ")
    assert rows[-1] == "* the 95% interval does not hold the true value"


BAD = {
    "no log": (("--log", "absent.parquet"), "absent.parquet: No such file or directory"),
    "deterministic": (("--log", "max.parquet"), "every pscore of the log is 1"),
    "bare": (("--log", "bare.parquet"), "bare.parquet: has no column pscore"),
    "catalogue": (("--log", "small.parquet"), "small.parquet: has C = 9 items, the agent was trained on 50"),
    "temperature": (("--log", "log.parquet", "--temperature", -1), "--temperature must be positive and finite, got -1"),
    "bootstrap": (("--log", "log.parquet", "--bootstrap", 0), "--bootstrap must be at least 1, got 0"),
    "seed": (("--log", "log.parquet", "--seed", -1), "--seed must not be negative, got -1"),
    "agent": (
        ("--log", "log.parquet", "--agent", "lstm"),
        "--agent must be an agent of the run in run (pg, irecgan), got lstm",
    ),
    "plot": (("--log", "log.parquet", "--calibration", "absent/c.png"), "--calibration: absent is not a directory"),
    "users": (("--log", "real.parquet", "--calibration", "c.png"), "real.parquet does not name its simulated users"),
}


@pytest.mark.parametrize(("args", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_ends_in_one_line(
    directory: Path, monkeypatch: pytest.MonkeyPatch, args: tuple, message: str
) -> None:
    monkeypatch.chdir(directory)
    table = pq.read_table("log.parquet").replace_schema_metadata(None)
    pq.write_table(table, "real.parquet")
    status, out, error = run_here("run", *args)
    assert (status, out) == (2, "")
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not Path("c.png").exists()


def test_the_models_value_of_a_session_is_what_the_agent_earns_in_the_model() -> None:
    log, _ = log_of(RandomPolicy(ITEMS, SIZE), 50, 5)
    agent, user = agent_of(), user_of()
    with torch.no_grad():
        user.encoder.embedding.weight.mul_(8)
        user.query.bias.copy_(user.encoder.embedding.weight[:ITEMS].mean(0) * 4)  # users who stay for a while
    first = log.step_mask()
    first[:, 1:] = False
    later = later_values(user, agent, log.start, 5, SIZE, seed=1)
    model = model_values(user, agent, log, first, later=later, draws=200, seed=2)
    played = rollout(user, agent, slate_size=SIZE, max_steps=5, sessions=20_000, seed=3).trajectories
    returns = played.returns().double()
    # Both sides are means: of 20,000 sessions here, of 2,000 sessions and 10,000 slates there.
    error = 4 * float(returns.std()) * (1 / 20_000 + 1 / 2_000) ** 0.5
    assert float(model.values.mean()) == pytest.approx(float(returns.mean()), abs=error)
    assert error < 0.1 * float(returns.mean())
    assert later[5] == 0
    assert later[0] == pytest.approx(float(returns.mean()), abs=error)
    alone = model_values(user, agent, log, first, draws=200, seed=2)
    survival, _ = user.expectations_of(user.encoder(log.inputs())[first], log.slates[first])
    gained = model.expected - alone.expected
    torch.testing.assert_close(gained, survival.double() * later[1], rtol=1e-5, atol=1e-6)

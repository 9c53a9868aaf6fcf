"""What may stand for the discriminator's scores, rewards without them, and the learnt value baseline."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import copied, easy_run, easy_users, make_run, tiny_config
from torch import Tensor

from irecgan_ext import losses
from irecgan_ext.evaluation.coverage import evaluate_policy
from irecgan_ext.evaluation.policies import AgentPolicy
from irecgan_ext.models import Agent
from irecgan_ext.training.adversarial import generate, train_irecgan
from irecgan_ext.training.agent_update import generated_weights
from irecgan_ext.training.config import CriticConfig
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.training.value import critic_of, fit_critic, session_log_probs
from irecgan_ext.types import BOS, END, Trajectories

pytestmark = pytest.mark.usefixtures("one_thread")


def generated(directory: Path, **adversarial: Any) -> tuple[Run, Unit, Any]:
    run = make_run(directory, tiny_config(**adversarial))
    run.begin_average()
    for unit in run.units("phase", 1):
        played = generate(run, unit, completions=2)
    return run, unit, played


def test_a_constant_stands_for_the_scores(tmp_path: Path) -> None:
    run, _, played = generated(tmp_path, discriminator="constant")
    assert torch.equal(played.q, played.trajectories.step_mask().float())
    run.close()


def test_random_numbers_stand_for_the_scores(tmp_path: Path) -> None:
    run, _, played = generated(tmp_path / "a", discriminator="random", generated=3000)
    mask = played.trajectories.step_mask()
    q = played.q[mask].double()
    assert bool((played.q[~mask] == 0).all())
    assert 0 <= q.min() < 0.01 < 0.99 < q.max() < 1
    error = (1 / 12 / len(q)) ** 0.5
    assert abs(float(q.mean()) - 0.5) < 4 * error
    assert float(q.var()) == pytest.approx(1 / 12, rel=0.05)
    again = generated(tmp_path / "b", discriminator="random", generated=3000)
    assert torch.equal(again[2].q, played.q), "they belong to the unit's randomness"
    run.close()
    again[0].close()


@pytest.mark.parametrize("kind", ["constant", "random"])
def test_without_scores_no_discriminator_is_trained(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path, tiny_config(discriminator=kind))
    fresh = copied(run.models)
    train_irecgan(run)
    run.close()
    for key, value in run.models.state_dict().items():
        assert torch.equal(value, fresh[key]) == key.startswith("discriminator"), key
    records = read_metrics(tmp_path)
    phases = {"pretrain_user", "pretrain_agent", "logging_policy", "adversarial"}
    assert {record["phase"] for record in records} == phases
    assert all("d_loss" not in record for record in records)
    assert (records[-1]["q_mean"] == 1) == (kind == "constant")


def test_rewards_without_scores_click(tmp_path: Path) -> None:
    run, unit, played = generated(tmp_path, action="click", rescale_rewards=False)
    fake, config = played.trajectories, run.config.adversarial
    rewards = played.q + config.lambda_r * fake.rewards
    expected = losses.discounted_returns(rewards, fake.step_mask(), config.gamma)
    torch.testing.assert_close(generated_weights(run, unit, played), expected)
    run.close()


@pytest.mark.parametrize("rescale", [False, True])
def test_rewards_without_scores_slate(tmp_path: Path, rescale: bool) -> None:
    """Without rescaling the scores have no part in the agent's update: other ones give the same weights."""
    run, unit, played = generated(tmp_path, rescale_rewards=rescale)
    weights = [generated_weights(run, unit, replace(played, q=q)) for q in (played.q, played.q.square())]
    assert torch.allclose(*weights) != rescale
    run.close()


def test_weights_under_a_baseline_are_returns_minus_values(tmp_path: Path) -> None:
    run, unit, played = generated(tmp_path, action="click", value_baseline=True)
    fake, config, critic = played.trajectories, run.config.adversarial, critic_of(run)
    with torch.no_grad():
        values = critic(fake)
    returns = losses.agent_returns(played.q, fake.rewards, fake.step_mask(), config.gamma, config.lambda_r)
    got = generated_weights(run, unit, played, critic)
    torch.testing.assert_close(got, torch.where(fake.step_mask(), returns - values, 0.0))
    with torch.no_grad():
        assert not torch.equal(critic(fake), values), "the critic learns, after the sessions were weighed"
    run.close()


def one_step(slates: Tensor, clicks: Tensor) -> Trajectories:
    """Sessions of one step on `slates` [B, K] with `clicks` [B]."""
    count = len(slates)
    return Trajectories(
        start=torch.full((count,), BOS),
        slates=slates[:, None],
        clicks=clicks[:, None],
        rewards=(clicks >= 0).float()[:, None],
        lengths=torch.ones(count, dtype=torch.int64),
        censored=clicks >= 0,
    )


def test_log_probs_of_clicks_and_of_slates_that_ended() -> None:
    torch.manual_seed(0)
    agent = Agent(5, 3, 4, 1).eval()
    batch = one_step(torch.tensor([[2, 4], [2, 4]]), torch.tensor([4, END]))
    logits = agent.logits(agent.encoder(batch.inputs()))[:, 0].detach().double()
    p = logits[0].softmax(0)
    expected = [math.log(p[4]), math.log(p[2]) + math.log(p[4] / (1 - p[2]))]
    got = session_log_probs(agent, batch)[:, 0].detach().double()
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_the_critic_counts_the_users_who_leave(tmp_path: Path) -> None:
    """Half of the users click, for a reward of 4 in Eq (10), half leave, for 1: the state is worth 2.5, not 4."""
    run = make_run(tmp_path)
    run.config = replace(run.config, critic=CriticConfig(5e-2, epochs=60))
    batch = one_step(torch.tensor([[2, 4]]).expand(20, 2), torch.tensor([4, END]).repeat(10))
    critic = critic_of(run)
    for unit in run.units("critic", 1):
        fit_critic(run, unit, critic, batch, losses.step_rewards(torch.ones_like(batch.rewards), batch.rewards))
    run.close()
    assert unit.values["critic_loss"] == pytest.approx(1.5**2 / 2, rel=0.05)
    torch.testing.assert_close(critic(batch).detach(), torch.full((20, 1), 2.5), rtol=0, atol=0.1)


def test_a_baseline_leaves_survival_its_credit() -> None:
    """The exact gradient, by enumeration: users of one step who click with the probability of the item that draws their eye.

    Against the value of the state (every user counted, those who leave too) the better items must still rise; a value of
    clicked steps alone, without END steps, leaves nothing."""
    stay = torch.tensor([0.9, 0.6, 0.3, 0.1])
    agent = Agent(4, 3, 4, 1).eval()
    torch.nn.init.zeros_(agent.head.weight)
    torch.nn.init.zeros_(agent.head.bias)
    slates = torch.tensor(list(itertools.permutations(range(4), 2)))
    law, rows, clicks = [], [], []
    for slate in slates:
        for item in slate.tolist():
            law += [float(stay[item]) / 24, float(1 - stay[item]) / 24]  # 12 slates, each of whose items draws the eye
            rows += [slate, slate]
            clicks += [item, END]
    batch, weights = one_step(torch.stack(rows), torch.tensor(clicks)), torch.tensor(law)
    assert float(weights.sum()) == pytest.approx(1)
    clicked = batch.clicks[:, 0] >= 0
    returns = torch.where(clicked, 4.0, 1.0)
    value = (weights * returns).sum()

    def gradient(gains: Tensor) -> Tensor:
        agent.zero_grad()
        (weights * gains * session_log_probs(agent, batch)[:, 0]).sum().backward()
        assert agent.head.bias.grad is not None
        return agent.head.bias.grad.clone()

    both = gradient(returns - value)
    assert both.tolist() == sorted(both.tolist(), reverse=True)
    assert both[0] > 0.1
    assert both[3] < -0.1
    blind = gradient(torch.where(clicked, returns - 4.0, 0.0))
    assert bool((blind == 0).all())


@pytest.mark.parametrize("action", ["click", "slate"])
def test_with_a_value_baseline_survival_still_improves(tmp_path: Path, action: str) -> None:
    """The simulator's rewards are survival alone: sampled slates must earn more than before the adversarial phase."""
    gains, errors = [], []
    for seed in (0, 1, 2):
        options = {"value_baseline": True, "action": action, "log_anchor": 0.0, "discriminator": "constant"}
        run = easy_run(tmp_path / str(seed), "irecgan", seed, **options)
        run.config = replace(run.config, critic=CriticConfig(2e-2))
        train_irecgan(run)
        run.close()
        before = Agent(10, 8, 16, 1)
        before.load_state_dict(run.snapshots["agent"])
        first, last = (
            evaluate_policy(easy_users(), AgentPolicy(agent, 2, sample=True), 1000, slate_size=2, seed=7).returns
            for agent in (before, run.average.agent)
        )
        gains.append(float((last - first).mean()))
        errors.append(float((last - first).std()) / 1000**0.5)
        critic = critic_of(run).eval()
        values = critic(run.valid).detach()[run.valid.step_mask()]
        assert float(values.mean()) > 2, "the critic expects a return"
    assert min(gains) > 0, gains
    assert sum(gains) / 3 > max(0.5, 4 * max(errors)), gains


def test_the_baseline_is_off_by_default(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train_irecgan(run)
    run.close()
    assert "critic" not in run.modules
    assert "critic" not in run.optimisers

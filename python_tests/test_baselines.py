"""PGIS's weights and AC's advantages on logged sessions, against numbers worked out step by step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import ITEMS, make_run, tiny_config

from irecgan_ext.training.config import CriticConfig, ImportanceConfig, PretrainConfig
from irecgan_ext.training.logging_policy import estimate_logging_policy
from irecgan_ext.training.methods.actor_critic import actor_loss
from irecgan_ext.training.methods.importance import weighted_returns
from irecgan_ext.training.pretrain import agent_loss
from irecgan_ext.training.run import Run
from irecgan_ext.training.value import critic_of, session_log_probs
from irecgan_ext.types import Trajectories

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    config = replace(tiny_config(), critic=CriticConfig(trace=0.5), pgis=ImportanceConfig(cap=1.2))
    made = make_run(tmp_path, config)
    yield made
    made.close()


def rewards(log: Trajectories, b: int, t: int) -> float:
    """Eq (10)'s reward of a logged step, lambda_r = 3."""
    return 1 + 3 * log.rewards[b, t].item()


def test_the_logging_policy_is_each_items_share_of_the_places(run: Run) -> None:
    """Half of the slates show items 0, 1, 2, half 0, 3, 4, whatever the history: shares 1/3 and four times 1/6."""
    run.config = replace(run.config, agent=PretrainConfig(5e-2, 40, patience=40, batch=40, decay=0.95))
    shown = torch.tensor([[0, 1, 2], [4, 3, 0]])
    for part in (run.train, run.valid):
        kind = torch.arange(len(part)) % 2
        part.slates.copy_(torch.where(part.slates < 0, part.slates, shown[kind][:, None]))
    logging = estimate_logging_policy(run)
    probabilities = logging.logits(logging.encoder(run.valid.inputs())[:, 0]).softmax(-1).mean(0).detach()
    expected = torch.zeros(ITEMS)
    expected[:5] = torch.tensor([2, 1, 1, 1, 1]) / 6
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=0.04)
    assert not logging.training


def test_weighted_returns_of_pgis(run: Run) -> None:
    agent, log = run.models.agent.eval(), run.train.select(torch.arange(8))
    logging = copy.deepcopy(agent)
    for model in (agent, logging):
        torch.nn.init.normal_(model.head.weight, std=1.0)
    with torch.no_grad():
        own, other = (model.logits(model.encoder(log.inputs())).softmax(-1) for model in (agent, logging))
    got = weighted_returns(run, agent, logging, log)
    capped = 0
    for b in range(8):
        for t in range(log.horizon):
            if t >= log.lengths[b] or log.clicks[b, t] < 0:
                assert got[b, t] == 0
                continue
            value = sum(0.9 ** (s - t) * rewards(log, b, s) for s in range(t, int(log.lengths[b])))
            ratio = (own[b, t, log.clicks[b, t]] / other[b, t, log.clicks[b, t]]).item()
            capped += ratio > 1.2
            assert got[b, t].item() == pytest.approx(min(ratio, 1.2) * value, rel=1e-4)
    assert 0 < capped < int(log.click_mask().sum())


def test_the_actors_loss(run: Run) -> None:
    """Advantages of trace 0.5, the log-probability of the click, or of the slate where the user left."""
    agent, critic, log = run.models.agent.eval(), critic_of(run).eval(), run.train.select(torch.arange(8))
    torch.nn.init.normal_(critic.head.weight, std=2.0)
    with torch.no_grad():
        values, log_probs = critic(log), session_log_probs(agent, log)
    total = 0.0
    for b in range(8):
        last = int(log.lengths[b])
        errors = [
            rewards(log, b, t) + (0.9 * values[b, t + 1].item() if t + 1 < last else 0.0) - values[b, t].item()
            for t in range(last)
        ]
        for t in range(last):
            gain = sum((0.9 * 0.5) ** (s - t) * errors[s] for s in range(t, last))
            total -= gain * log_probs[b, t].item()
    assert actor_loss(run, critic, log).item() == pytest.approx(total / 8, rel=1e-4)


def test_without_values_and_end_steps_the_actor_is_pg(run: Run) -> None:
    run.config = replace(run.config, critic=CriticConfig(trace=1.0))
    agent, critic, log = run.models.agent.eval(), critic_of(run), run.train.select(torch.arange(8))
    for parameter in critic.head.parameters():
        torch.nn.init.zeros_(parameter)
    ended = log.step_mask() & ~log.click_mask()
    ends = (session_log_probs(agent, log)[ended] * 1.0).sum() / 8  # an END step's return is 1
    difference = agent_loss(agent, log, run.config.adversarial) - actor_loss(run, critic, log)
    torch.testing.assert_close(difference, ends)

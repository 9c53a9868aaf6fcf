"""What the log rarely shows is distrusted: the estimated logging policy in the agent's update."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import make_run, tiny_config

from irecgan_ext import losses
from irecgan_ext.evaluation.coverage import evaluate_policy
from irecgan_ext.evaluation.policies import AgentPolicy
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.policies import make_policy
from irecgan_ext.training.adversarial import generate, train_irecgan
from irecgan_ext.training.agent_update import generated_weights
from irecgan_ext.training.batches import split
from irecgan_ext.training.config import AdversarialConfig, ModelConfig, PretrainConfig, TrainConfig
from irecgan_ext.training.logging_policy import log_support, logging_policy
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.run import Run
from irecgan_ext.types import PAD

pytestmark = pytest.mark.usefixtures("one_thread")


def test_support_is_the_distance_to_the_likeliest_item(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    logging = logging_policy(run)
    torch.nn.init.normal_(logging.head.weight)
    log = run.train.select(torch.arange(5))
    log.slates[0, 0, 2] = PAD
    got = log_support(run, log)
    logits = logging.eval().logits(logging.encoder(log.inputs())).log_softmax(-1)
    for b in range(5):
        for t in range(log.slates.shape[1]):
            for j in range(log.slates.shape[2]):
                item = int(log.slates[b, t, j])
                expected = logits[b, t, item] - logits[b, t].max() if item >= 0 else torch.tensor(0.0)
                torch.testing.assert_close(got[b, t, j], expected.detach(), atol=1e-5, rtol=1e-5)
    assert got.min() < -0.1
    run.close()


def test_the_agents_weights_use_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_config(pessimism=0.7))
    torch.nn.init.normal_(logging_policy(run).head.weight)
    run.begin_average()
    for unit in run.units("phase", 1):
        played = generate(run, unit, completions=2)
    fake, config = played.trajectories, run.config.adversarial
    survival, expected = run.average.user.eval().expectations(fake, 0.7 * log_support(run, fake))
    mask = fake.step_mask()
    assert played.q is not None
    weights = losses.slate_advantages(
        played.q, fake.rewards, survival, expected, mask, fake.click_mask(), config.gamma, config.lambda_r, config.trace
    )
    got = generated_weights(run, unit, played)
    torch.testing.assert_close(got, weights / weights[mask].square().mean().sqrt())
    run.config = replace(run.config, adversarial=replace(config, pessimism=0.0))
    assert not torch.allclose(generated_weights(run, unit, played), got)
    run.close()


@pytest.mark.parametrize(
    ("options", "estimated"),
    [({}, True), ({"pessimism": 0.0}, False), ({"action": "click"}, False), ({"value_baseline": True}, False)],
)
def test_the_logging_policy_is_estimated_where_it_is_used(
    tmp_path: Path, options: dict[str, object], estimated: bool
) -> None:
    run = make_run(tmp_path, tiny_config(**options))
    train_irecgan(run)
    run.close()
    assert ("logging_policy" in {record["phase"] for record in read_metrics(tmp_path)}) == estimated


def confounded_users() -> MDP:
    """Eight states that follow each other at random. Items 1, 2, 3 are the best in one state each, and bad elsewhere; item 0
    is the best in all the others, and good everywhere."""
    rewards = torch.full((8, 12), 0.05, dtype=torch.float64)
    rewards[:, 0] = 0.8
    rewards[[5, 6, 7], [1, 2, 3]] = 0.9
    return MDP(rewards, torch.full((8, 12, 8), 1 / 8, dtype=torch.float64))


def test_what_is_shown_only_where_it_is_liked_is_not_taken_for_good(tmp_path: Path) -> None:
    """The log's policy sees the state and shows the best item: 1, 2 and 3 are shown rarely, and then clicked most often."""
    mdp = confounded_users()
    gains = []
    for seed in range(3):
        log = simulate(mdp, make_policy("max", mdp, 1), 400, slate_size=1, seed=seed)
        train, valid = split(log, 0.1, torch.Generator().manual_seed(seed))
        earned = []
        for pessimism in (0.0, 1.0):
            config = TrainConfig(
                seed=seed,
                quiet=True,
                model=ModelConfig(embedding=8, hidden=16),
                user=PretrainConfig(1e-2, 6, batch=32),
                agent=PretrainConfig(1e-2, 4, batch=32),
                adversarial=AdversarialConfig(
                    epochs=3,
                    r_steps=8,
                    generated=128,
                    agent_learning_rate=3e-2,
                    discriminator="constant",
                    pessimism=pessimism,
                ),
            )
            directory = tmp_path / f"{seed}-{pessimism}"
            run = Run(config, directory, train, valid, 12, "survival", torch.device("cpu"), mdp=mdp)
            train_irecgan(run)
            run.close()
            policy = AgentPolicy(run.average.agent, 1)
            earned.append(evaluate_policy(mdp, policy, 2000, slate_size=1, seed=7).reward)
        gains.append(earned[1] - earned[0])
    assert min(gains) > 0.3, gains

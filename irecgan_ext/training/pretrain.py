"""Lines 3 and 4 of Algorithm 1: user model and agent on the log alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from irecgan_ext import losses
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.training.batches import minibatches, sizes
from irecgan_ext.training.config import AdversarialConfig, PretrainConfig
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.types import Trajectories

EVALUATION_BATCH = 1024

Loss = Callable[[Trajectories], Tensor]  # [] of a batch of sessions


def pretrain_user(run: Run) -> None:
    """Maximise Eq (3) on the log; keep the epoch with the best held-out likelihood, as snapshot "user"."""
    user = run.models.user

    def loss(log: Trajectories) -> Tensor:
        return user_loss(user, log, run.config.adversarial)

    for unit, valid in epochs(run, "pretrain_user", "user", user, loss, run.config.user):
        unit.values |= {"ll_train": -unit.values.pop("loss"), "ll_valid": -valid}


def pretrain_agent(run: Run) -> None:
    """Policy gradient of Eq (10) on the log alone (q_D = 1); keep the best epoch on held-out sessions, snapshot "agent"."""
    agent = run.models.agent

    def loss(log: Trajectories) -> Tensor:
        return agent_loss(agent, log, run.config.adversarial)

    for unit, valid in epochs(run, "pretrain_agent", "agent", agent, loss, run.config.agent):
        unit.values["loss_valid"] = valid


def epochs(
    run: Run,
    phase: str,
    name: str,
    model: nn.Module,
    loss: Loss,
    config: PretrainConfig,
    *,
    valid_loss: Loss | None = None,
    before: Callable[[Trajectories], None] | None = None,
) -> Iterator[tuple[Unit, float]]:
    """The epochs of `phase`, each trained before it is yielded with its held-out loss; the best one stays.

    Args:
        name: of the model's optimiser and of the snapshot that holds the best epoch.
        loss: what to descend on a batch; reported as `loss`.
        valid_loss: what to stop on; default `loss`.
        before: called with each mini-batch before its update.
    """
    optimiser = run.optimiser(name, model, config.learning_rate, weight_decay=config.weight_decay)
    for unit in run.units(phase, config.epochs):
        train_epoch(run, unit, optimiser, model, loss, config, before)
        valid = held_out(run, model, valid_loss or loss)
        run.improve(phase, name, model, valid, config.patience)
        yield unit, valid
    if run.first_time(phase):
        model.load_state_dict(run.snapshots[name])


def user_loss(user: UserModel, log: Trajectories, config: AdversarialConfig) -> Tensor:
    """[] Eq (3) on a batch of sessions."""
    clicks, rewards = user(log)
    return losses.user_likelihood(clicks, rewards, log.step_mask(), log.click_mask(), config.lambda_p)


def agent_loss(agent: Agent, log: Trajectories, config: AdversarialConfig) -> Tensor:
    """[] Eq (10) on a batch of logged sessions, whose q_D is 1."""
    return losses.agent_policy_gradient(agent(log), agent_returns(log, config), log.click_mask())


def agent_returns(log: Trajectories, config: AdversarialConfig) -> Tensor:
    """[B, T] returns of Eq (10) of logged sessions."""
    return losses.discounted_returns(logged_rewards(log, config), log.step_mask(), config.gamma)


def logged_rewards(log: Trajectories, config: AdversarialConfig) -> Tensor:
    """[B, T] rewards of Eq (10) of logged sessions: q_D = 1."""
    return losses.step_rewards(torch.ones_like(log.rewards), log.rewards, config.lambda_r)


def train_epoch(
    run: Run,
    unit: Unit,
    optimiser: Optimizer,
    model: nn.Module,
    loss: Loss,
    config: PretrainConfig,
    before: Callable[[Trajectories], None] | None = None,
) -> None:
    """One pass over the training sessions; reports the mean loss per session as `loss`."""
    model.train()
    total = 0.0
    rate = config.learning_rate * config.decay**unit.index
    batch_size = max(1, min(config.batch, len(run.train) // config.min_updates))
    for index in minibatches(sizes(run.train), batch_size, unit.generator):
        batch = run.train.select(index)
        if before is not None:
            before(batch)
        total += run.descend(optimiser, loss(batch), f"{unit.phase} loss", rate) * len(index)
    unit.values["loss"] = total / len(run.train)


@torch.no_grad()
def held_out(run: Run, model: nn.Module, loss: Loss) -> float:
    """Mean loss per held-out session, in evaluation mode.

    Raises:
        Diverged: it is not finite.
    """
    model.eval()
    parts = [
        run.valid.select(index) for index in torch.arange(len(run.valid), device=run.device).split(EVALUATION_BATCH)
    ]
    mean = sum(loss(part).item() * len(part) for part in parts) / len(run.valid)
    if not math.isfinite(mean):
        raise run.diverged(f"the held-out loss of the {type(model).__name__} is {mean}")
    return mean

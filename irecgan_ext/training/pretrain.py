"""Lines 3 and 4 of Algorithm 1: user model and agent on the log alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from irecgan_ext import losses
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.training.batches import minibatches
from irecgan_ext.training.config import AdversarialConfig, PretrainConfig
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.types import Trajectories

EVALUATION_BATCH = 1024


def pretrain_user(run: Run) -> None:
    """Maximise Eq (3) on the log; keep the epoch with the best held-out likelihood, as snapshot "user"."""
    user = run.models.user
    for unit, valid in _epochs(
        run, "user", user, lambda log: user_loss(user, log, run.config.adversarial), run.config.user
    ):
        unit.values |= {"ll_train": -unit.values.pop("loss"), "ll_valid": -valid}


def pretrain_agent(run: Run) -> None:
    """Policy gradient of Eq (10) on the log alone (q_D = 1); keep the best epoch on held-out sessions, snapshot "agent"."""
    agent = run.models.agent
    for unit, valid in _epochs(
        run, "agent", agent, lambda log: agent_loss(agent, log, run.config.adversarial), run.config.agent
    ):
        unit.values["loss_valid"] = valid


def _epochs(
    run: Run, name: str, model: nn.Module, loss: Callable[[Trajectories], Tensor], config: PretrainConfig
) -> Iterator[tuple[Unit, float]]:
    """The epochs of phase "pretrain_`name`", each trained before it is yielded with its held-out loss; the best one stays."""
    phase = f"pretrain_{name}"
    optimiser = run.optimiser(name, model, config.learning_rate, weight_decay=config.weight_decay)
    for unit in run.units(phase, config.epochs):
        train_epoch(run, unit, optimiser, model, loss, config)
        valid = held_out(run, model, loss)
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
    q = torch.ones_like(log.rewards)
    returns = losses.agent_returns(q, log.rewards, log.step_mask(), config.gamma, config.lambda_r)
    return losses.agent_policy_gradient(agent(log), returns, log.click_mask())


def train_epoch(
    run: Run,
    unit: Unit,
    optimiser: Optimizer,
    model: nn.Module,
    loss: Callable[[Trajectories], Tensor],
    config: PretrainConfig,
) -> None:
    """One pass over the training sessions; reports the mean loss per session as `loss`."""
    model.train()
    total = 0.0
    rate = config.learning_rate * config.decay**unit.index
    for index in minibatches(run.train.lengths, config.batch, unit.generator):
        total += run.descend(optimiser, loss(run.train.select(index)), f"{unit.phase} loss", rate) * len(index)
    unit.values["loss"] = total / len(run.train)


@torch.no_grad()
def held_out(run: Run, model: nn.Module, loss: Callable[[Trajectories], Tensor]) -> float:
    """Mean loss per held-out session, in evaluation mode.

    Raises:
        Diverged: it is not finite.
    """
    model.eval()
    parts = [run.valid.select(index) for index in torch.arange(len(run.valid)).split(EVALUATION_BATCH)]
    mean = sum(loss(part).item() * len(part) for part in parts) / len(run.valid)
    if not math.isfinite(mean):
        raise run.diverged(f"the held-out loss of the {type(model).__name__} is {mean}")
    return mean

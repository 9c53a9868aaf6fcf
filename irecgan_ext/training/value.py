"""A learnt value for the agent's gradient: the critic of actor-critic, and the baseline of Eq (10)."""

from __future__ import annotations

import torch
from torch import Tensor

from irecgan_ext import estimators, losses
from irecgan_ext.models import Agent, Critic
from irecgan_ext.models.ragged import spread
from irecgan_ext.training.batches import minibatches
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.types import Trajectories


def critic_of(run: Run) -> Critic:
    """The run's critic, of the agent's size."""
    sizes = run.config.model
    return run.module("critic", lambda: Critic(run.items, sizes.embedding, sizes.hidden, sizes.layers, sizes.cell))


def update_critic(run: Run, critic: Critic, batch: Trajectories, rewards: Tensor) -> float:
    """One step towards the returns of a batch's `rewards` [B, T]; returns the loss per session."""
    optimiser = run.optimiser("critic", critic, run.config.critic.learning_rate, weight_decay=0.0)
    mask = batch.step_mask()
    returns = losses.discounted_returns(rewards, mask, run.config.adversarial.gamma)
    loss = estimators.value_loss(critic.train()(batch), returns, mask)
    return run.descend(optimiser, loss, "critic's loss")


def fit_critic(run: Run, unit: Unit, critic: Critic, sessions: Trajectories, rewards: Tensor) -> None:
    """A few passes over `sessions` with `rewards` [B, T]; reports the last one's mean loss per session."""
    for _ in range(run.config.critic.epochs):
        total = 0.0
        for index in minibatches(sessions.lengths, run.config.adversarial.agent_batch, unit.generator):
            batch = sessions.select(index)
            total += update_critic(run, critic, batch, rewards[index, : batch.horizon]) * len(index)
        unit.values["critic_loss"] = total / len(sessions)


@torch.no_grad()
def advantages(run: Run, critic: Critic, sessions: Trajectories, rewards: Tensor, trace: float) -> Tensor:
    """[B, T] generalised advantages of `rewards` [B, T] under the critic, 0 after the end."""
    mask = sessions.step_mask()
    return estimators.generalised_advantages(
        rewards, critic.eval()(sessions), mask, run.config.adversarial.gamma, trace
    )


def session_log_probs(agent: Agent, batch: Trajectories) -> Tensor:
    """[B, T] what a baseline weighs where Eq (10) acts by clicks: log pi(c_t | s_t) of a clicked item, and the slate's exact
    log-probability at END steps, where there is none; 0 after the end."""
    counted = batch.step_mask()
    states = agent.encoder.at_steps(batch)
    clicks = batch.clicks[counted]
    left = agent.over_catalogue(losses.plackett_luce_log_prob, states, batch.slates[counted])
    chosen = torch.where(clicks >= 0, agent.log_probs(states, clicks.clamp(min=0)), left)
    return spread(chosen, counted)

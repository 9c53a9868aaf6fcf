"""Line 13 of Algorithm 1: the agent's update on generated and logged sessions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from irecgan_ext import losses
from irecgan_ext.models import Agent, Critic
from irecgan_ext.models.ragged import spread
from irecgan_ext.packed import Sessions
from irecgan_ext.rollout import Rollout
from irecgan_ext.training.batches import draw
from irecgan_ext.training.config import AdversarialConfig
from irecgan_ext.training.logging_policy import log_support
from irecgan_ext.training.pretrain import agent_loss, agent_returns
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.training.value import advantages, fit_critic, session_log_probs
from irecgan_ext.types import Trajectories


def update_agent(
    run: Run,
    unit: Unit,
    logged: Sessions,
    played: Rollout,
    rate: float,
    critic: Critic | None = None,
    trace: float = 1.0,
    logged_loss: Callable[[Trajectories], Tensor] | None = None,
) -> None:
    """Eq (10) on B^s and, per mini-batch, as many sessions of B^r, whose q_D is 1.

    Args:
        rate: the step size.
        critic: a learnt value to subtract from the returns of B^s; END steps then count, with their slates. It learns from
            these sessions, after they were weighed.
        trace: of its advantages.
        logged_loss: on sessions of B^r, in place of Eq (10)'s.
    """
    config, agent = run.config.adversarial, run.models.agent
    optimiser = run.optimiser("adversarial_agent", agent, rate, weight_decay=0.0)
    fake = played.trajectories
    weights = generated_weights(run, unit, played, critic, trace)
    log_weight = logged_weight(run)
    order = torch.randperm(len(fake), generator=unit.generator, device=unit.generator.device)
    agent.train()
    for part in order.split(config.agent_batch):
        batch = fake.select(part)
        loss = on_policy_loss(agent, batch, weights[part, : batch.horizon], config, valued=critic is not None)
        if log_weight > 0:
            real = logged.select(draw(len(logged), len(part), unit.generator))
            on_log = agent_loss(agent, real, config) if logged_loss is None else logged_loss(real)
            loss = loss + log_weight * on_log
        unit.values["agent_loss"] = run.descend(optimiser, loss, "agent's loss", rate)
        run.update_average("agent", config.average)


def logged_weight(run: Run) -> float:
    """Weight of the logged sessions' mean in the agent's update. Sessions that the agent itself gathered are no anchor."""
    config = run.config.adversarial
    return config.log_weight + (config.log_anchor / len(run.train) if run.gathered is None else 0.0)


def on_policy_loss(
    agent: Agent, batch: Trajectories, weights: Tensor, config: AdversarialConfig, valued: bool = False
) -> Tensor:
    """[] Eq (10) and the entropy bonus on sessions that the agent played.

    Args:
        weights: [B, T] of each step's log-probability.
        config: says what acted, the click or the slate.
        valued: a learnt value was subtracted from the returns; END steps then act too.
    """
    if config.action == "slate":
        log_probs = slate_log_probs(agent, batch)
    else:
        log_probs = session_log_probs(agent, batch) if valued else agent(batch)
    # Where clicks alone act, an END step has log-probability 0 and no gradient.
    loss = losses.agent_policy_gradient(log_probs, weights, batch.step_mask())
    if config.entropy > 0:
        logits = agent.logits(agent.encoder.at_steps(batch))
        loss = loss - config.entropy * losses.policy_entropy(logits).sum() / len(batch)
    return loss


def played_weights(run: Run, sessions: Trajectories) -> Tensor:
    """[B, T] weights of sessions with the simulator, which need neither scores nor a user model's expectations."""
    config = run.config.adversarial
    if config.action == "click":
        return agent_returns(sessions, config)
    mask, clicked = sessions.step_mask(), sessions.click_mask()
    ones, rewards = torch.ones_like(sessions.rewards), sessions.rewards
    weights = losses.slate_advantages(
        ones, rewards, clicked.float(), rewards, mask, clicked, config.gamma, config.lambda_r, trace=1.0
    )
    return _scaled(run, "online_scale", weights, mask)


def slate_log_probs(agent: Agent, batch: Trajectories) -> Tensor:
    """[B, T]: exact Plackett-Luce log-probability of each counted step's slate, in order; 0 after the end."""
    counted = batch.step_mask()
    states = agent.encoder.at_steps(batch)
    chosen = agent.over_catalogue(losses.plackett_luce_log_prob, states, batch.slates[counted])
    return spread(chosen, counted)


def scores(played: Rollout) -> Tensor:
    """[m, T] q_D of each generated step; 1 where no discriminator scored it."""
    return torch.ones_like(played.trajectories.rewards) if played.q is None else played.q


def generated_weights(
    run: Run, unit: Unit, played: Rollout, critic: Critic | None = None, trace: float = 1.0
) -> Tensor:
    """[m, T] weight of each generated step's log-probability in the agent's gradient."""
    config, fake, q = run.config.adversarial, played.trajectories, scores(played)
    mask, gamma, lambda_r = fake.step_mask(), config.gamma, config.lambda_r
    if critic is not None:
        rewards = losses.step_rewards(q, fake.rewards, lambda_r, config.rescale_rewards)
        weights = advantages(run, critic, fake, rewards, trace)
        fit_critic(run, unit, critic, fake, rewards)
    elif config.action == "click":
        weights = losses.agent_returns(q, fake.rewards, mask, gamma, lambda_r, config.rescale_rewards)
    else:
        distrust = config.pessimism * log_support(run, fake) if pessimistic(run) else None
        survival, expected = run.average.user.eval().expectations(fake, distrust)
        trust = q if config.rescale_rewards else torch.ones_like(q)
        weights = losses.slate_advantages(
            trust, fake.rewards, survival, expected, mask, fake.click_mask(), gamma, lambda_r, config.trace
        )
    if config.action == "click":
        return weights
    return _scaled(run, "agent_scale", weights, mask)


def pessimistic(run: Run) -> bool:
    """Whether the agent's update distrusts what the log rarely shows: not on sessions that the agent itself gathered."""
    config = run.config.adversarial
    return config.pessimism > 0 and config.action == "slate" and not config.value_baseline and run.gathered is None


def _scaled(run: Run, name: str, weights: Tensor, mask: Tensor) -> Tensor:
    """[B, T] weights in units of the first ones' spread.

    One scale for the whole run: scaled anew, the vanishing advantages of a settled policy would turn into noise.
    """
    scale = run.scalars.setdefault(name, weights[mask].square().mean().sqrt().clamp(min=1e-8).item())
    return weights / scale

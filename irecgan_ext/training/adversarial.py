"""Algorithm 1 of the paper, line by line."""

from __future__ import annotations

import torch
from torch import Tensor

from irecgan_ext import losses
from irecgan_ext.models import Agent
from irecgan_ext.rollout import Rollout, rollout
from irecgan_ext.training.batches import minibatches, sample
from irecgan_ext.training.pretrain import agent_loss, pretrain_agent, pretrain_user
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.types import Trajectories

# Less momentum than Adam's default: what D fights against moves (Radford et al. 2016).
DISCRIMINATOR_BETAS = (0.5, 0.999)


def train_irecgan(run: Run) -> None:
    """Algorithm 1. Lines 1 and 2, the empty sets and random parameters, are the fresh `Run`."""
    config = run.config.adversarial
    pretrain_user(run)  # line 3
    pretrain_agent(run)  # line 4
    run.begin_average()
    run.models.agent.encoder.disable_dropout()
    for unit in run.units("pretrain_discriminator", run.config.discriminator.pretrain_epochs):
        generated = generate(run, unit).trajectories  # line 5
        logged = sample(run.train, config.generated, unit.generator)
        update_discriminator(run, unit, logged, generated)  # line 6

    for unit in run.units("adversarial", config.epochs):  # line 7
        for step in range(config.r_steps):  # line 8
            played = generate(run, unit, config.completions)  # lines 9 and 10
            logged = sample(run.train, round(config.logged_ratio * config.generated), unit.generator)  # line 11
            progress = (unit.index * config.r_steps + step) / max(1, config.epochs * config.r_steps - 1)
            rate = 1 + (config.final_rate - 1) * progress
            update_user(run, unit, logged, played, rate * config.user_learning_rate)  # line 12
            update_agent(run, unit, logged, played, rate * config.agent_learning_rate)  # line 13
        for _ in range(config.d_steps):  # line 15
            generated = generate(run, unit).trajectories  # line 16
            logged = sample(run.train, config.generated, unit.generator)  # line 17
            for _ in range(config.d_epochs):
                update_discriminator(run, unit, logged, generated)  # line 18


def generate(run: Run, unit: Unit, completions: int = 0) -> Rollout:
    """m sessions of user model and agent; with `completions`, scored by q_D (Eq 6)."""
    config = run.config.adversarial
    start = sample(run.train, config.generated, unit.generator).start
    try:
        played = rollout(
            run.average.user,
            run.models.agent,
            run.models.discriminator if completions else None,
            slate_size=run.train.slate_size,
            max_steps=run.max_steps,
            start=start,
            completions=completions,
            generator=unit.generator,
        )
    except ValueError as error:  # a model's output is not finite
        raise run.diverged(f"generating sessions failed: {error}") from error
    unit.values["agent_return"] = played.trajectories.returns().mean().item()
    if played.q is not None:
        unit.values["q_mean"] = (played.q.sum() / played.trajectories.lengths.sum()).item()
    return played


def update_user(run: Run, unit: Unit, logged: Trajectories, played: Rollout, rate: float) -> None:
    """Eq (7) on B = [B^s, B^r], q_D = 1 on B^r; `rate` is the step size."""
    config, user = run.config.adversarial, run.models.user
    optimiser = run.optimiser("adversarial_user", user, rate, weight_decay=0.0)
    fake, q = played.trajectories, _scores(played)
    if config.centre_q:
        q = torch.where(fake.step_mask(), q / q[fake.step_mask()].mean() - 1, 0.0)
    order = torch.randperm(len(q), generator=unit.generator)
    batches = list(minibatches(logged.lengths, config.user_batch, unit.generator))
    user.train()
    for index, part in zip(batches, order.tensor_split(len(batches))):
        batch = Trajectories.cat([logged.select(index), fake.select(part)])
        clicks, rewards = user(batch)
        weights = _stack(torch.ones(len(index), device=q.device), q[part], batch.horizon)
        mask, clicked = batch.step_mask(), batch.click_mask()
        loss = losses.user_policy_gradient(clicks, rewards, weights, mask, clicked, config.lambda_p)
        unit.values["user_loss"] = run.descend(optimiser, loss, "user model's loss", rate)
        run.update_average("user", config.average)


def update_agent(run: Run, unit: Unit, logged: Trajectories, played: Rollout, rate: float) -> None:
    """Eq (10) on B^s and, per mini-batch, as many sessions of B^r, whose q_D is 1; `rate` is the step size."""
    config, agent = run.config.adversarial, run.models.agent
    optimiser = run.optimiser("adversarial_agent", agent, rate, weight_decay=0.0)
    fake = played.trajectories
    weights = _agent_weights(run, played)
    order = torch.randperm(len(fake), generator=unit.generator)
    agent.train()
    for part in order.split(config.agent_batch):
        batch, weight = fake.select(part), weights[part]
        if config.action == "click":
            loss = losses.agent_policy_gradient(agent(batch), weight[:, : batch.horizon], batch.click_mask())
        else:
            log_probs = slate_log_probs(agent, batch)
            loss = losses.agent_policy_gradient(log_probs, weight[:, : batch.horizon], batch.step_mask())
        if config.log_weight > 0:
            real = sample(logged, len(part), unit.generator)
            loss = loss + config.log_weight * agent_loss(agent, real, config)
        if config.entropy > 0:
            logits = agent.logits(agent.encoder(batch.inputs()))
            loss = loss - config.entropy * losses.policy_entropy(logits, batch.step_mask())
        unit.values["agent_loss"] = run.descend(optimiser, loss, "agent's loss", rate)
        run.update_average("agent", config.average)


def update_discriminator(run: Run, unit: Unit, logged: Trajectories, generated: Trajectories) -> None:
    """One pass of Eq (5) over as many logged and generated sessions."""
    config, discriminator = run.config.discriminator, run.models.discriminator
    optimiser = run.optimiser(
        "discriminator", discriminator, config.learning_rate, weight_decay=0.0, betas=DISCRIMINATOR_BETAS
    )
    discriminator.train()
    real_order = torch.randperm(len(logged), generator=unit.generator).split(config.batch)
    fake_order = torch.randperm(len(generated), generator=unit.generator).split(config.batch)
    right = torch.zeros(2, device=run.device)
    for real, fake in zip(real_order, fake_order):
        real_logits = discriminator(logged.select(real))
        fake_logits = discriminator(generated.select(fake))
        loss = losses.discriminator_loss(real_logits, fake_logits)
        unit.values["d_loss"] = run.descend(optimiser, loss, "discriminator's loss")
        right += torch.stack([(real_logits > 0).sum(), (fake_logits <= 0).sum()])
    run.update_average("discriminator", 0.0)  # what a run keeps of D is its last weights
    unit.values["d_accuracy_real"] = right[0].item() / len(logged)
    unit.values["d_accuracy_generated"] = right[1].item() / len(generated)


def slate_log_probs(agent: Agent, batch: Trajectories) -> Tensor:
    """[B, T]: exact Plackett-Luce log-probability of each counted step's slate, in order; 0 after the end."""
    counted = batch.step_mask()
    states = agent.encoder(batch.inputs())
    chosen = losses.plackett_luce_log_prob(agent.logits(states[counted]), batch.slates[counted])
    return states.new_zeros(counted.shape).masked_scatter(counted, chosen)


def _agent_weights(run: Run, played: Rollout) -> Tensor:
    """[m, T] weight of each generated step's log-probability in the agent's gradient."""
    config, fake, q = run.config.adversarial, played.trajectories, _scores(played)
    mask, gamma, lambda_r = fake.step_mask(), config.gamma, config.lambda_r
    if config.action == "click":
        return losses.agent_returns(q, fake.rewards, mask, gamma, lambda_r)
    survival, expected = run.average.user.eval().expectations(fake)
    weights = losses.slate_advantages(
        q, fake.rewards, survival, expected, mask, fake.click_mask(), gamma, lambda_r, config.trace
    )
    # One scale for the whole run: scaled anew, the vanishing advantages of a settled policy would turn into noise.
    scale = run.scalars.setdefault("agent_scale", weights[mask].square().mean().sqrt().clamp(min=1e-8).item())
    return weights / scale


def _scores(played: Rollout) -> Tensor:
    """[m, T] q_D of each generated step."""
    assert played.q is not None
    return played.q


def _stack(first: Tensor, q: Tensor, horizon: int) -> Tensor:
    """[n + m, T] weights of a batch: `first` [n] on every step of its first n sessions, q [m, T'] on the others."""
    rest = torch.nn.functional.pad(q, (0, max(0, horizon - q.shape[1])))[:, :horizon]
    return torch.cat([first[:, None].expand(-1, horizon), rest])

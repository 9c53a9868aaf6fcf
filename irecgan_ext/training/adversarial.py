"""Algorithm 1 of the paper, line by line."""

from __future__ import annotations

import torch
from torch import Tensor

from irecgan_ext import losses
from irecgan_ext.rollout import Rollout, rollout
from irecgan_ext.training.batches import minibatches, sample
from irecgan_ext.training.pretrain import pretrain_agent, pretrain_user
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.types import Trajectories


def train_irecgan(run: Run) -> None:
    """Algorithm 1. Lines 1 and 2, the empty sets and random parameters, are the fresh `Run`."""
    config = run.config.adversarial
    pretrain_user(run)  # line 3
    pretrain_agent(run)  # line 4
    run.begin_average()
    for unit in run.units("pretrain_discriminator", run.config.discriminator.pretrain_epochs):
        generated = generate(run, unit).trajectories  # line 5
        logged = sample(run.train, config.generated, unit.generator)
        update_discriminator(run, unit, logged, generated)  # line 6

    for unit in run.units("adversarial", config.epochs):  # line 7
        for _ in range(config.r_steps):  # line 8
            played = generate(run, unit, config.completions)  # lines 9 and 10
            logged = sample(run.train, round(config.logged_ratio * config.generated), unit.generator)  # line 11
            update_user(run, unit, logged, played)  # line 12
            update_agent(run, unit, logged, played)  # line 13
        for _ in range(config.d_steps):  # line 15
            generated = generate(run, unit).trajectories  # line 16
            logged = sample(run.train, config.generated, unit.generator)  # line 17
            for _ in range(config.d_epochs):
                update_discriminator(run, unit, logged, generated)  # line 18


def generate(run: Run, unit: Unit, completions: int = 0) -> Rollout:
    """m sessions of user model and agent; with `completions`, scored by q_D (Eq 6)."""
    config = run.config.adversarial
    models = run.average
    played = rollout(
        models.user,
        run.models.agent,
        run.models.discriminator if completions else None,
        slate_size=run.train.slate_size,
        max_steps=run.max_steps,
        start=sample(run.train, config.generated, unit.generator).start,
        completions=completions,
        generator=unit.generator,
    )
    unit.values["agent_return"] = played.trajectories.returns().mean().item()
    return played


def update_user(run: Run, unit: Unit, logged: Trajectories, played: Rollout) -> None:
    """Eq (7) on B = [B^s, B^r], q_D = 1 on B^r."""
    config, user = run.config.adversarial, run.models.user
    optimiser = run.optimiser("adversarial_user", user, config.user_learning_rate, weight_decay=0.0)
    q = _trust(played, config.normalise_q)
    order = torch.randperm(len(q), generator=unit.generator)
    batches = list(minibatches(logged.lengths, config.user_batch, unit.generator))
    user.train()
    for index, part in zip(batches, order.tensor_split(len(batches))):
        batch = Trajectories.cat([logged.select(index), played.trajectories.select(part)])
        clicks, rewards = user(batch)
        weights = _stack(torch.ones(len(index)), q[part], batch)
        loss = losses.user_policy_gradient(
            clicks, rewards, weights, batch.step_mask(), batch.click_mask(), config.lambda_p
        )
        unit.values["user_loss"] = run.descend(optimiser, loss, "user model's loss")
        run.update_average("user", config.average)


def update_agent(run: Run, unit: Unit, logged: Trajectories, played: Rollout) -> None:
    """Eq (10) on B = [B^s, B^r], q_D = 1 on B^r."""
    config, agent = run.config.adversarial, run.models.agent
    optimiser = run.optimiser("adversarial_agent", agent, config.agent_learning_rate, weight_decay=0.0)
    q = _trust(played, config.normalise_q)
    batch = Trajectories.cat([logged.select(torch.arange(len(q))), played.trajectories])
    weights = _stack(torch.ones(len(q)), q, batch)
    returns = losses.agent_returns(weights, batch.rewards, batch.step_mask(), config.gamma, config.lambda_r)
    returns[: len(q)] *= config.log_weight
    agent.train()
    log_probs = agent(batch)
    if config.slate_correction:
        log_probs = losses.inclusion_log_prob(log_probs, batch.slate_size)
    loss = losses.agent_policy_gradient(log_probs, returns, batch.click_mask())
    unit.values |= {"agent_loss": run.descend(optimiser, loss, "agent's loss"), "q_mean": _mean_q(played).item()}
    run.update_average("agent", config.average)


def update_discriminator(run: Run, unit: Unit, logged: Trajectories, generated: Trajectories) -> None:
    """One pass of Eq (5) over as many logged and generated sessions."""
    config, discriminator = run.config.discriminator, run.models.discriminator
    optimiser = run.optimiser("discriminator", discriminator, config.learning_rate, weight_decay=0.0)
    discriminator.train()
    real_order = torch.randperm(len(logged), generator=unit.generator).split(config.batch)
    fake_order = torch.randperm(len(generated), generator=unit.generator).split(config.batch)
    right = torch.zeros(2)
    for real, fake in zip(real_order, fake_order):
        real_logits = discriminator(logged.select(real))
        fake_logits = discriminator(generated.select(fake))
        loss = losses.discriminator_loss(real_logits, fake_logits)
        unit.values["d_loss"] = run.descend(optimiser, loss, "discriminator's loss")
        right += torch.stack([(real_logits > 0).sum(), (fake_logits <= 0).sum()])
    unit.values["d_accuracy_real"] = right[0].item() / len(logged)
    unit.values["d_accuracy_generated"] = right[1].item() / len(generated)


def _mean_q(played: Rollout) -> Tensor:
    """[] mean of q_D over the counted steps."""
    assert played.q is not None
    return played.q.sum() / played.trajectories.lengths.sum()


def _trust(played: Rollout, normalise: bool) -> Tensor:
    """[m, T] q_D of each generated step, divided by its mean over steps if `normalise`."""
    assert played.q is not None
    return played.q / _mean_q(played) if normalise else played.q


def _stack(first: Tensor, q: Tensor, batch: Trajectories) -> Tensor:
    """[B, T] weights of a batch: `first` [n] on every step of its first n sessions, q [m, T'] on the others."""
    weights = first[:, None].expand(-1, batch.horizon)
    rest = torch.nn.functional.pad(q, (0, batch.horizon - q.shape[1]))[:, : batch.horizon]
    return torch.cat([weights, rest])

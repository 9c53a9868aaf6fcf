"""Algorithm 1 of the paper, line by line."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from irecgan_ext import losses
from irecgan_ext.packed import Sessions
from irecgan_ext.rollout import Rollout, rollout
from irecgan_ext.training.agent_update import pessimistic, scores, update_agent
from irecgan_ext.training.batches import minibatches, sample, sizes
from irecgan_ext.training.logging_policy import estimate_logging_policy
from irecgan_ext.training.pretrain import pretrain_agent, pretrain_user
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.training.value import critic_of
from irecgan_ext.types import Trajectories

# Less momentum than Adam's default: what D fights against moves (Radford et al. 2016).
DISCRIMINATOR_BETAS = (0.5, 0.999)


def train_irecgan(run: Run) -> None:
    """Algorithm 1. Lines 1 and 2, the empty sets and random parameters, are the fresh `Run`."""
    config = run.config.adversarial
    pretrain_user(run)  # line 3
    pretrain_agent(run)  # line 4
    if pessimistic(run):
        estimate_logging_policy(run)
    run.begin_average()
    run.models.agent.encoder.disable_dropout()
    for unit in run.units("pretrain_discriminator", run.config.discriminator.pretrain_epochs if judged(run) else 0):
        generated = generate(run, unit).trajectories  # line 5
        logged = sample(run.train, config.generated, unit.generator)
        update_discriminator(run, unit, logged, generated)  # line 6

    for unit in run.units("adversarial", config.epochs):  # line 7
        for step in range(config.r_steps):  # line 8
            r_step(run, unit, step_size(run, unit.index * config.r_steps + step, config.epochs * config.r_steps))
        for _ in range(config.d_steps if judged(run) else 0):  # line 15
            d_step(run, unit)


def r_step(run: Run, unit: Unit, rate: float) -> None:
    """Lines 9 to 13; `rate` scales the step sizes."""
    config = run.config.adversarial
    played = generate(run, unit, config.completions)  # lines 9 and 10
    logged = sample(run.train, round(config.logged_ratio * config.generated), unit.generator)  # line 11
    critic = critic_of(run) if config.value_baseline else None
    update_user(run, unit, logged, played, rate * config.user_learning_rate)  # line 12
    update_agent(run, unit, logged, played, rate * config.agent_learning_rate, critic)  # line 13


def d_step(run: Run, unit: Unit) -> None:
    """Lines 16 to 18."""
    config = run.config.adversarial
    generated = generate(run, unit).trajectories  # line 16
    logged = sample(run.train, config.generated, unit.generator)  # line 17
    for _ in range(config.d_epochs):
        update_discriminator(run, unit, logged, generated)  # line 18


def step_size(run: Run, step: int, steps: int) -> float:
    """Share of the first step sizes at r-step `step` of `steps`: linear from 1 to `final_rate`."""
    return 1 + (run.config.adversarial.final_rate - 1) * step / max(1, steps - 1)


def judged(run: Run) -> bool:
    """Whether a learnt discriminator scores the generated sessions."""
    return run.config.adversarial.discriminator == "learnt"


def generate(run: Run, unit: Unit, completions: int = 0) -> Rollout:
    """m sessions of user model and agent; with `completions`, scored by q_D (Eq 6) or by what stands for it."""
    config = run.config.adversarial
    start = sample(run.train, config.generated, unit.generator).start
    learnt = completions > 0 and judged(run)
    try:
        played = rollout(
            run.average.user,
            run.models.agent,
            run.models.discriminator if learnt else None,
            slate_size=run.train.slate_size,
            max_steps=run.max_steps,
            start=start,
            completions=completions if learnt else 0,
            generator=unit.generator,
        )
    except ValueError as error:  # a model's output is not finite
        raise run.diverged(f"generating sessions failed: {error}") from error
    if completions and not learnt:
        played = replace(played, q=_stand_in(config.discriminator, played.trajectories.step_mask(), unit.generator))
    unit.values["agent_return"] = played.trajectories.returns().mean().item()
    if played.q is not None:
        unit.values["q_mean"] = (played.q.sum() / played.trajectories.lengths.sum()).item()
    return played


def _stand_in(kind: str, mask: Tensor, generator: torch.Generator) -> Tensor:
    """[m, T] scores without a discriminator: 1, or uniform random numbers, on the counted steps of `mask`."""
    if kind == "constant":
        return mask.float()
    return torch.where(mask, torch.rand(mask.shape, generator=generator, device=generator.device).to(mask.device), 0.0)


def update_user(run: Run, unit: Unit, logged: Sessions, played: Rollout, rate: float) -> None:
    """Eq (7) on B = [B^s, B^r], q_D = 1 on B^r; `rate` is the step size."""
    config, user = run.config.adversarial, run.models.user
    optimiser = run.optimiser("adversarial_user", user, rate, weight_decay=0.0)
    fake, q = played.trajectories, scores(played)
    if config.centre_q:
        q = torch.where(fake.step_mask(), q / q[fake.step_mask()].mean() - 1, 0.0)
    order = torch.randperm(len(q), generator=unit.generator, device=unit.generator.device)
    batches = list(minibatches(sizes(logged), config.user_batch, unit.generator))
    user.train()
    for index, part in zip(batches, order.tensor_split(len(batches))):
        batch = Trajectories.cat([logged.select(index), fake.select(part)])
        clicks, rewards = user(batch)
        weights = _stack(torch.ones(len(index), device=q.device), q[part], batch.horizon)
        mask, clicked = batch.step_mask(), batch.click_mask()
        loss = losses.user_policy_gradient(clicks, rewards, weights, mask, clicked, config.lambda_p)
        unit.values["user_loss"] = run.descend(optimiser, loss, "user model's loss", rate)
        run.update_average("user", config.average)


def update_discriminator(run: Run, unit: Unit, logged: Sessions, generated: Trajectories) -> None:
    """One pass of Eq (5) over as many logged and generated sessions."""
    config, discriminator = run.config.discriminator, run.models.discriminator
    optimiser = run.optimiser(
        "discriminator", discriminator, config.learning_rate, weight_decay=0.0, betas=DISCRIMINATOR_BETAS
    )
    discriminator.train()
    real_order = torch.randperm(len(logged), generator=unit.generator, device=unit.generator.device).split(config.batch)
    fake_order = torch.randperm(len(generated), generator=unit.generator, device=unit.generator.device).split(
        config.batch
    )
    right = torch.zeros(2, device=run.device)
    for real, fake in zip(real_order, fake_order):
        both = discriminator(Trajectories.cat([logged.select(real), generated.select(fake)]))
        real_logits, fake_logits = both.split([len(real), len(fake)])
        loss = losses.discriminator_loss(real_logits, fake_logits)
        unit.values["d_loss"] = run.descend(optimiser, loss, "discriminator's loss")
        right += torch.stack([(real_logits > 0).sum(), (fake_logits <= 0).sum()])
    run.update_average("discriminator", 0.0)  # what a run keeps of D is its last weights
    unit.values["d_accuracy_real"] = right[0].item() / len(logged)
    unit.values["d_accuracy_generated"] = right[1].item() / len(generated)


def _stack(first: Tensor, q: Tensor, horizon: int) -> Tensor:
    """[n + m, T] weights of a batch: `first` [n] on every step of its first n sessions, q [m, T'] on the others."""
    rest = torch.nn.functional.pad(q, (0, max(0, horizon - q.shape[1])))[:, :horizon]
    return torch.cat([first[:, None].expand(-1, horizon), rest])

"""PGU and ACU: logged and generated sessions without a discriminator (section 7.2)."""

from __future__ import annotations

from irecgan_ext.models import Critic
from irecgan_ext.training.adversarial import generate, step_size
from irecgan_ext.training.agent_update import pessimistic, update_agent
from irecgan_ext.training.batches import sample
from irecgan_ext.training.logging_policy import estimate_logging_policy
from irecgan_ext.training.methods.actor_critic import actor_loss, pretrain_actor
from irecgan_ext.training.pretrain import pretrain_agent, pretrain_user
from irecgan_ext.training.run import Run


def train_pgu(run: Run) -> None:
    """PGU (section 7.2): Algorithm 1 without D. The user model stays as pre-trained, q_D is 1; the agent's r-steps remain."""
    pretrain_user(run)
    pretrain_agent(run)
    if pessimistic(run):
        estimate_logging_policy(run)
    _learn_from_generated(run)


def train_acu(run: Run) -> None:
    """ACU (section 7.2): the same with AC's agent and critic; advantages in place of returns on both kinds of sessions."""
    pretrain_user(run)
    _learn_from_generated(run, pretrain_actor(run))


def _learn_from_generated(run: Run, critic: Critic | None = None) -> None:
    """Lines 7 to 14 of Algorithm 1, but for the discriminator's and the user model's."""
    config = run.config.adversarial
    run.begin_average()
    run.models.agent.encoder.disable_dropout()
    for unit in run.units("generated", config.epochs):
        for step in range(config.r_steps):
            played = generate(run, unit)
            logged = sample(run.train, round(config.logged_ratio * config.generated), unit.generator)
            rate = step_size(run, unit.index * config.r_steps + step, config.epochs * config.r_steps)
            if critic is None:
                update_agent(run, unit, logged, played, rate * config.agent_learning_rate)
            else:
                update_agent(
                    run,
                    unit,
                    logged,
                    played,
                    rate * config.agent_learning_rate,
                    critic,
                    run.config.critic.trace,
                    lambda log: actor_loss(run, critic, log),
                )

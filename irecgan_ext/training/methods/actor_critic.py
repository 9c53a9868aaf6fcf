"""AC: the agent by actor-critic on the log (section 7.2)."""

from __future__ import annotations

from torch import Tensor

from irecgan_ext import losses
from irecgan_ext.models import Critic
from irecgan_ext.training.pretrain import agent_loss, epochs, logged_rewards
from irecgan_ext.training.run import Run
from irecgan_ext.training.value import advantages, critic_of, session_log_probs, update_critic
from irecgan_ext.types import Trajectories


def train_ac(run: Run) -> None:
    """AC (section 7.2): an agent of the same setting as PG's, trained by actor-critic to reduce variance."""
    pretrain_actor(run)
    run.begin_average()


def pretrain_actor(run: Run) -> Critic:
    """Agent and critic on the log; keep the agent's best epoch on held-out sessions, as snapshot "ac".

    What the actor's loss gains by pushing down the slates of users who left has no bound on a fixed log, so its epochs are
    judged as PG's are, by Eq (10) on held-out sessions.
    """
    agent, critic, config = run.models.agent, critic_of(run), run.config.adversarial
    total = 0.0

    def valid_loss(log: Trajectories) -> Tensor:
        return agent_loss(agent, log, config)

    def before(batch: Trajectories) -> None:
        nonlocal total
        total += update_critic(run, critic, batch, logged_rewards(batch, config)) * len(batch)

    units = epochs(
        run,
        "pretrain_ac",
        "ac",
        agent,
        lambda log: actor_loss(run, critic, log),
        run.config.agent,
        valid_loss=valid_loss,
        before=before,
    )
    for unit, valid in units:
        critic_loss, total = total / len(run.train), 0.0
        unit.values |= {"actor_loss": unit.values.pop("loss"), "loss_valid": valid, "critic_loss": critic_loss}
    return critic


def actor_loss(run: Run, critic: Critic, log: Trajectories) -> Tensor:
    """[] -1/B sum_t A_t log pi_t on logged sessions, A_t the advantage of Eq (10)'s rewards under the critic (q_D = 1).

    log pi_t is the clicked item's, and at END steps the slate's: without them the critic's values would take from the clicks
    the credit for survival. A log that does not record its END steps (all sessions censored) has no such credit to give.
    """
    agent, config = run.models.agent, run.config
    gains = advantages(run, critic, log, logged_rewards(log, config.adversarial), config.critic.trace)
    return losses.agent_policy_gradient(session_log_probs(agent, log), gains, log.step_mask())

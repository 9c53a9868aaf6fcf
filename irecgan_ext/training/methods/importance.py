"""PGIS: the policy gradient on the log, with importance weights (section 7.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from irecgan_ext import estimators, losses
from irecgan_ext.models import Agent
from irecgan_ext.training.logging_policy import estimate_logging_policy
from irecgan_ext.training.pretrain import agent_returns, epochs
from irecgan_ext.training.run import Run
from irecgan_ext.types import Trajectories


def train_pgis(run: Run) -> None:
    """PGIS (section 7.2): Eq (10) on the log, each clicked item weighted by how much more often the agent would show it.

    Off-policy REINFORCE with capped first-order weights, as in Chen et al. 2019, section 4. The logging policy is not known;
    an agent of the same architecture is fitted to the slates shown. Stopped on the return that the weights promise on
    held-out sessions: Eq (10) itself would stop where the policy has become the log's.
    """
    logging = estimate_logging_policy(run)
    agent = run.models.agent

    def loss(log: Trajectories) -> Tensor:
        log_probs, returns = agent(log), weighted_returns(run, agent, logging, log)
        return losses.agent_policy_gradient(log_probs, returns, log.click_mask())

    def valid_loss(log: Trajectories) -> Tensor:
        return -weighted_returns(run, agent, logging, log).sum() / len(log)

    for unit, valid in epochs(run, "pgis", "pgis", agent, loss, run.config.agent, valid_loss=valid_loss):
        unit.values["return_valid"] = -valid
    run.begin_average()


@torch.no_grad()
def weighted_returns(run: Run, agent: Agent, logging: Agent, log: Trajectories) -> Tensor:
    """[B, T] returns of Eq (10) on the log times the importance weight of each clicked item; 0 where nothing was clicked."""
    weights = estimators.importance_weights(agent(log), logging(log), run.config.pgis.cap)
    return torch.where(log.click_mask(), weights * agent_returns(log, run.config.adversarial), 0.0)

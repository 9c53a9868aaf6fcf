"""The policy behind the log, estimated from the slates it shows."""

from __future__ import annotations

import torch
from torch import Tensor

from irecgan_ext import estimators
from irecgan_ext.models import Agent
from irecgan_ext.models.ragged import spread
from irecgan_ext.training.pretrain import epochs
from irecgan_ext.training.run import Run
from irecgan_ext.types import Trajectories


def logging_policy(run: Run) -> Agent:
    """The run's estimate of its logging policy, as it stands: an agent of the run's size."""
    sizes = run.config.model
    return run.module(
        "logging_policy",
        lambda: Agent(run.items, sizes.embedding, sizes.hidden, sizes.layers, sizes.cell, sizes.agent_dropout),
    )


def estimate_logging_policy(run: Run) -> Agent:
    """Fit it by maximum likelihood of the items that logged slates show; the best epoch on held-out sessions."""
    logging = logging_policy(run)

    def loss(log: Trajectories) -> Tensor:
        counted = log.step_mask()
        states = logging.encoder.at_steps(log)
        shown = logging.over_catalogue(estimators.shown_log_probs, states, log.slates[counted])
        return -shown.sum() / len(log)

    for unit, valid in epochs(run, "logging_policy", "logging_policy", logging, loss, run.config.agent):
        unit.values |= {"logging_ll_train": -unit.values.pop("loss"), "logging_ll_valid": -valid}
    return logging.eval()


@torch.no_grad()
def log_support(run: Run, sessions: Trajectories) -> Tensor:
    """[B, T, K]: log beta(a | s) - max_b log beta(b | s) <= 0 of the slates' items, beta the estimated logging policy.

    How much rarer than the likeliest item the log would show each; 0 after a session's end and for PAD.
    """
    logging, counted = logging_policy(run).eval(), sessions.step_mask()
    states = logging.encoder.at_steps(sessions)
    slates = sessions.slates[counted]
    chosen = logging.over_catalogue(_below_likeliest, states, slates)
    return spread(chosen, counted)


def _below_likeliest(logits: Tensor, slates: Tensor) -> Tensor:
    """[S, K] logits of `slates` [S, K] below the row's largest of `logits` [S, C]; 0 for PAD."""
    below = logits.gather(-1, slates.clamp(min=0)) - logits.amax(-1, keepdim=True)
    return torch.where(slates >= 0, below, 0.0)

"""What the values of a configuration must keep to, beside their types."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from irecgan_ext.errors import UsageError

if TYPE_CHECKING:
    from irecgan_ext.training.config import TrainConfig


def check(config: TrainConfig) -> None:
    """Raise UsageError, naming the flag, for a value that its type allows but training cannot use."""
    _check_signs(config)
    _check_ranges(config)


def _check_signs(config: TrainConfig) -> None:
    positive: dict[str, float] = {
        "log-sessions": config.log_sessions,
        "slate-size": config.slate_size,
        "user.batch": config.user.batch,
        "agent.batch": config.agent.batch,
        "user.min-updates": config.user.min_updates,
        "agent.min-updates": config.agent.min_updates,
        "discriminator.batch": config.discriminator.batch,
        "adversarial.generated": config.adversarial.generated,
        "evaluation.max-steps": config.evaluation.max_steps,
        "adversarial.agent-batch": config.adversarial.agent_batch,
        "adversarial.logged-ratio": config.adversarial.logged_ratio,
        "adversarial.user-batch": config.adversarial.user_batch,
        "adversarial.completions": config.adversarial.completions,
        "user.epochs": config.user.epochs,
        "agent.epochs": config.agent.epochs,
        "user.decay": config.user.decay,
        "agent.decay": config.agent.decay,
        "adversarial.user-learning-rate": config.adversarial.user_learning_rate,
        "adversarial.agent-learning-rate": config.adversarial.agent_learning_rate,
        "threads": 1 if config.threads is None else config.threads,
        "user.learning-rate": config.user.learning_rate,
        "agent.learning-rate": config.agent.learning_rate,
        "discriminator.learning-rate": config.discriminator.learning_rate,
        "critic.learning-rate": config.critic.learning_rate,
        "critic.epochs": config.critic.epochs,
        "pgis.cap": config.pgis.cap,
        "online.iterations": config.online.iterations,
        "online.updates": config.online.updates,
        "online.epochs": config.online.epochs,
    }
    for flag, value in positive.items():
        if not 0 < value < math.inf:
            raise UsageError(f"--{flag} must be positive and finite, got {value}")
    not_negative: dict[str, float] = {
        "checkpoint-seconds": config.checkpoint_seconds,
        "user.weight-decay": config.user.weight_decay,
        "agent.weight-decay": config.agent.weight_decay,
        "discriminator.pretrain-epochs": config.discriminator.pretrain_epochs,
        "online.rounds": config.online.rounds,
        "adversarial.epochs": config.adversarial.epochs,
        "adversarial.r-steps": config.adversarial.r_steps,
        "adversarial.d-steps": config.adversarial.d_steps,
        "adversarial.d-epochs": config.adversarial.d_epochs,
        "adversarial.final-rate": config.adversarial.final_rate,
        "adversarial.lambda-r": config.adversarial.lambda_r,
        "adversarial.lambda-p": config.adversarial.lambda_p,
        "adversarial.log-weight": config.adversarial.log_weight,
        "adversarial.log-anchor": config.adversarial.log_anchor,
        "adversarial.pessimism": config.adversarial.pessimism,
        "adversarial.entropy": config.adversarial.entropy,
        "evaluation.seed": config.evaluation.seed,
    }
    for flag, value in not_negative.items():
        if not 0 <= value < math.inf:
            raise UsageError(f"--{flag} must be finite and not negative, got {value}")


def _check_ranges(config: TrainConfig) -> None:
    if not 0 <= config.seed < 2**64:
        raise UsageError(f"--seed must be in 0..2^64-1, got {config.seed}")
    if config.evaluation.sessions < 2:
        raise UsageError(f"--evaluation.sessions must be at least 2, got {config.evaluation.sessions}")
    if config.online.sessions < config.online.updates:
        raise UsageError(
            f"--online.sessions must be at least online.updates = {config.online.updates}, got {config.online.sessions}"
        )
    if config.online.evaluation_sessions < 2:
        raise UsageError(f"--online.evaluation-sessions must be at least 2, got {config.online.evaluation_sessions}")
    if round(config.adversarial.logged_ratio * config.adversarial.generated) < 1:
        raise UsageError(
            f"--adversarial.logged-ratio must give at least one logged session, got {config.adversarial.logged_ratio}"
        )
    if config.log_sessions < 10 and config.data == "simulator":
        raise UsageError(f"--log-sessions must be at least 10, got {config.log_sessions}")
    if not 0 < config.validation_share < 1:
        raise UsageError(f"--validation-share must be in (0, 1), got {config.validation_share}")
    shares = {
        "adversarial.gamma": config.adversarial.gamma,
        "adversarial.trace": config.adversarial.trace,
        "critic.trace": config.critic.trace,
    }
    for flag, share in shares.items():
        if not 0 <= share <= 1:
            raise UsageError(f"--{flag} must be in [0, 1], got {share}")
    if not 0 <= config.adversarial.average < 1:
        raise UsageError(f"--adversarial.average must be in [0, 1), got {config.adversarial.average}")
    if config.adversarial.completions > 65_535:
        raise UsageError(f"--adversarial.completions must be in 1..65535, got {config.adversarial.completions}")
    if config.adversarial.max_steps is not None and not 1 <= config.adversarial.max_steps < 65536:
        raise UsageError(f"--adversarial.max-steps must be in 1..65535, got {config.adversarial.max_steps}")

"""Training at a tiny size: logs, runs in this process and flags for the commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.policies import RandomPolicy
from irecgan_ext.training.batches import split
from irecgan_ext.training.config import (
    AdversarialConfig,
    DiscriminatorConfig,
    EvaluationConfig,
    MethodName,
    ModelConfig,
    OnlineConfig,
    PretrainConfig,
    TrainConfig,
)
from irecgan_ext.training.run import Run
from irecgan_ext.types import Trajectories

ITEMS, SLATE = 12, 3

_OPTIONS = (
    "--log-sessions 80 --slate-size 3 --threads 1 --device cpu --quiet --checkpoint-seconds 0 "
    "--model.embedding 4 --model.hidden 8 --user.epochs 3 --agent.epochs 3 --discriminator.pretrain-epochs 2 "
    "--adversarial.epochs 4 --adversarial.r-steps 1 --adversarial.generated 16 --adversarial.completions 2 "
    "--adversarial.max-steps 5 --evaluation.sessions 60"
)
FLAGS = _OPTIONS.split()


def tiny_users() -> MDP:
    """Three user states, 12 items."""
    return MDP.random(states=3, items=ITEMS, seed=1)


def tiny_log(sessions: int = 60, *, binary: bool = False, seed: int = 0) -> Trajectories:
    """Sessions of random slates of 3 from 12 items; with `binary`, every other click earns nothing."""
    log = simulate(tiny_users(), RandomPolicy(ITEMS, SLATE), sessions, slate_size=SLATE, seed=seed)
    return replace(log, rewards=log.rewards * (log.clicks % 2 == 0)) if binary else log


def tiny_config(**adversarial: Any) -> TrainConfig:
    """Two epochs of everything, hidden states of 8; `adversarial` sets options of that phase."""
    options = {
        "epochs": 2,
        "r_steps": 2,
        "generated": 16,
        "completions": 2,
        "max_steps": 5,
        "log_anchor": 0.0,
        **adversarial,
    }
    return TrainConfig(
        quiet=True,
        model=ModelConfig(embedding=4, hidden=8),
        user=PretrainConfig(1e-2, 2, batch=16, min_updates=1),
        agent=PretrainConfig(1e-2, 2, batch=16, min_updates=1),
        discriminator=DiscriminatorConfig(pretrain_epochs=1, batch=8),
        adversarial=AdversarialConfig(**options),
        online=OnlineConfig(iterations=3, sessions=10, updates=2, epochs=1, evaluation_sessions=10),
        evaluation=EvaluationConfig(sessions=60),
    )


def easy_users() -> MDP:
    """One user state, two items of ten that are clicked often."""
    rewards = torch.full((1, 10), 0.15, dtype=torch.float64)
    rewards[0, [3, 8]] = 0.8
    return MDP(rewards, torch.ones(1, 10, 1, dtype=torch.float64))


def easy_run(directory: Path, method: MethodName, seed: int = 0, **adversarial: Any) -> Run:
    """A run of `method` on 300 random sessions of `easy_users`, enough to learn from in about a second."""
    mdp = easy_users()
    log = simulate(mdp, RandomPolicy(10, 2), 300, slate_size=2, seed=seed)
    train, valid = split(log, 0.1, torch.Generator().manual_seed(seed))
    options = {"epochs": 3, "r_steps": 4, "generated": 128, "completions": 1, "max_steps": 8, **adversarial}
    options = {"agent_learning_rate": 1e-2, "final_rate": 1.0, "average": 0.5, **options}
    config = TrainConfig(
        method=method,
        seed=seed,
        quiet=True,
        model=ModelConfig(embedding=8, hidden=16),
        user=PretrainConfig(1e-2, 6, batch=32, min_updates=1),
        agent=PretrainConfig(1e-2, 3, batch=32, min_updates=1),
        discriminator=DiscriminatorConfig(pretrain_epochs=2),
        adversarial=AdversarialConfig(**options),
        online=OnlineConfig(iterations=5, sessions=60, updates=2, epochs=3, evaluation_sessions=100),
    )
    return Run(config, directory, train, valid, 10, "survival", torch.device("cpu"), mdp=mdp)


def make_run(directory: Path, config: TrainConfig | None = None, *, binary: bool = False, resume: bool = False) -> Run:
    """A run on a tiny log, 40 sessions to learn from and 20 held out, and its users."""
    log = tiny_log(binary=binary)
    train, valid = log.select(torch.arange(40)), log.select(torch.arange(40, 60))
    reward = "binary" if binary else "survival"
    config = config or tiny_config()
    return Run(config, directory, train, valid, ITEMS, reward, torch.device("cpu"), resume, tiny_users())


def copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The module's weights as they are now."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}

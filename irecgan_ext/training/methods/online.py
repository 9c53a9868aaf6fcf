"""Learning in turns with the simulator, from scratch (section 7.1, "Online Learning", Figure 3).

A turn has two stages: sessions with the simulated users, in which the policy may learn as it plays, and offline learning on
all sessions gathered so far. No log is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irecgan_ext.evaluation.coverage import NORMAL_95, coverage, evaluate_policy
from irecgan_ext.evaluation.policies import AgentPolicy, RecurrentPolicy, UserModelPolicy, learnt_policy
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.training.adversarial import d_step, judged, r_step, step_size
from irecgan_ext.training.agent_update import on_policy_loss, played_weights
from irecgan_ext.training.config import PretrainConfig
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.pretrain import Loss, agent_loss, train_epoch, user_loss
from irecgan_ext.training.run import Run, Unit
from irecgan_ext.types import Trajectories

PHASE = "online"
Stage = Callable[[Run, Unit], None]


def train_pg_online(run: Run) -> None:
    """PG-online: the policy gradient on the sessions as they are played; no session is used twice."""
    _turns(run, run.models.agent, _learn_as_played, lambda run, unit: None)


def train_pg_online_offline(run: Run) -> None:
    """PG-online&offline: the same, then the policy gradient of Eq (10) on all gathered sessions as a log."""
    _turns(run, run.models.agent, _learn_as_played, _agent_offline)


def train_lstm_offline(run: Run) -> None:
    """LSTM-offline: the user model recommends its most clickable items, and learns by Eq (3) between the turns only."""
    _turns(run, run.models.user, _only_play, _user_offline)


def train_irecgan_online(run: Run) -> None:
    """IRecGAN: the agent learns as it plays; offline, the user model by Eq (3), then rounds of Algorithm 1 (lines 8 to 19)."""
    _turns(run, run.models.agent, _learn_as_played, _algorithm_1_offline)


def _turns(run: Run, model: Agent | UserModel, play: Callable[[Run, Unit], Trajectories], learn: Stage) -> None:
    """`play`, then `learn` offline, then measure `model`, as often as configured."""
    run.models.agent.encoder.disable_dropout()
    for unit in run.units(PHASE, run.config.online.iterations, "turn"):
        played = play(run, unit)
        run.gather(replace(played, states=None))
        learn(run, unit)
        for name in ("user", "agent"):
            run.update_average(name, 0.0)
        unit.values |= {"sessions": len(run.train), **measure(run, model, played)}


def _learn_as_played(run: Run, unit: Unit) -> Trajectories:
    """The turn's sessions with sampled slates, in equal parts; after each part one update on it."""
    config, agent = run.config, run.models.agent
    rate = config.adversarial.agent_learning_rate
    optimiser = run.optimiser("online_agent", agent, rate, weight_decay=0.0)
    parts = []
    for count in _shares(config.online.sessions, config.online.updates):
        part = _play(run, unit, AgentPolicy(agent, run.train.slate_size, sample=True), count)
        on_device = part.to(run.device)
        agent.train()
        loss = on_policy_loss(agent, on_device, played_weights(run, on_device), config.adversarial)
        unit.values["online_loss"] = run.descend(optimiser, loss, "agent's online loss")
        parts.append(part)
    return Trajectories.cat(parts)


def _only_play(run: Run, unit: Unit) -> Trajectories:
    return _play(run, unit, UserModelPolicy(run.models.user, run.train.slate_size), run.config.online.sessions)


def _agent_offline(run: Run, unit: Unit) -> None:
    agent, config = run.models.agent, run.config
    _passes(run, unit, "agent", agent, lambda log: agent_loss(agent, log, config.adversarial), config.agent)


def _user_offline(run: Run, unit: Unit) -> None:
    user, config = run.models.user, run.config
    _passes(run, unit, "user", user, lambda log: user_loss(user, log, config.adversarial), config.user)


def _algorithm_1_offline(run: Run, unit: Unit) -> None:
    config = run.config.adversarial
    _user_offline(run, unit)
    run.update_average("user", 0.0)
    if unit.index == 0 and judged(run):
        for _ in range(run.config.discriminator.pretrain_epochs):
            d_step(run, unit)
    rounds, steps = run.config.online.rounds, run.config.online.iterations * run.config.online.rounds * config.r_steps
    for number in range(rounds):
        for step in range(config.r_steps):
            r_step(run, unit, step_size(run, (unit.index * rounds + number) * config.r_steps + step, steps))
        for _ in range(config.d_steps if judged(run) else 0):
            d_step(run, unit)


def _passes(run: Run, unit: Unit, name: str, model: nn.Module, loss: Loss, config: PretrainConfig) -> None:
    """A turn's passes over all gathered sessions, the step size constant."""
    config = replace(config, decay=1.0)
    optimiser = run.optimiser(name, model, config.learning_rate, weight_decay=config.weight_decay)
    for _ in range(run.config.online.epochs):
        train_epoch(run, unit, optimiser, model, loss, config)
    unit.values[f"{name}_offline_loss"] = unit.values.pop("loss")


def _play(run: Run, unit: Unit, policy: RecurrentPolicy, sessions: int) -> Trajectories:
    seed = int(torch.randint(2**62, (), generator=unit.generator, device=unit.generator.device))
    size, cap = run.train.slate_size, run.config.evaluation.max_steps
    return simulate(_users(run), policy, sessions, slate_size=size, seed=seed, max_steps=cap)


def _users(run: Run) -> MDP:
    if run.mdp is None:
        raise ValueError("mdp must be given to a run that learns online, got None")
    return run.mdp


def _shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` numbers that differ by at most 1."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def measure(run: Run, model: Agent | UserModel, played: Trajectories) -> dict[str, float]:
    """What a turn is worth.

    Args:
        model: the policy after the turn.
        played: the turn's online sessions, with states.

    Returns:
        reward (mean per session), reward_ci95 (half width) and coverage_1 ... of the sessions as they were played; the same
        with the prefix greedy_ of `model`'s greedy policy in sessions of its own, the same users in every turn.
    """
    mdp, mask, returns = _users(run), played.step_mask(), played.returns().double()
    config = run.config
    assert played.states is not None
    size = min(10, mdp.items)
    covered = coverage(mdp.rewards, played.states[mask], played.slates[mask], size).mean(0).tolist()
    after = evaluate_policy(
        mdp,
        learnt_policy(model, played.slate_size),
        config.online.evaluation_sessions,
        slate_size=played.slate_size,
        seed=config.evaluation.seed,
        max_steps=config.evaluation.max_steps,
    )
    return {
        "reward": float(returns.mean()),
        "reward_ci95": NORMAL_95 * float(returns.std(correction=0)) / len(returns) ** 0.5,
        **{f"coverage_{depth}": value for depth, value in enumerate(covered, 1)},
        "greedy_reward": after.reward,
        "greedy_reward_ci95": after.ci95,
        **{f"greedy_coverage_{depth}": value for depth, value in enumerate(after.coverage, 1)},
    }


def turns(directory: Path) -> list[dict[str, Any]]:
    """What the turns of the run in `directory` measured and reported, in order; `turn` counts from 1."""
    records = [record for record in read_metrics(directory) if record["phase"] == PHASE]
    dropped = ("phase", "unit", "step", "wall")
    return [{"turn": record["unit"] + 1, **{k: v for k, v in record.items() if k not in dropped}} for record in records]

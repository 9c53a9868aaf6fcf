"""The models that the benchmarks play: random, peaked, or trained for some seconds on simulated sessions."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from bench import device
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.models.encoder import Cell
from irecgan_ext.training.adversarial import train_irecgan
from irecgan_ext.training.batches import split
from irecgan_ext.training.config import TrainConfig, preset
from irecgan_ext.training.run import Run
from irecgan_ext.training.source import open_source

Models = tuple[UserModel, Agent, Discriminator]
Law = Literal["random", "peaked", "trained"]

SLATE = 10
PEAK = 3.0  # standard deviation of a peaked agent's logits


@dataclass(frozen=True)
class Size:
    """Cell, embedding width E, state width H, layers L and items C of the three models."""

    cell: Cell
    embedding: int
    hidden: int
    layers: int
    items: int = 50

    def __str__(self) -> str:
        return f"{self.cell.upper()} E={self.embedding} H={self.hidden} L={self.layers} C={self.items:,}"

    def state_flop(self) -> int:
        """Floating-point operations of the matrix products that every state of the three models needs.

        Inputs of the layers above the first, the agent's head, and the queries of user model and discriminator. The first
        layer's inputs are rows of a table: one product per symbol.
        """
        gates = 4 if self.cell == "lstm" else 3
        inputs = 3 * gates * self.hidden * self.hidden * (self.layers - 1)
        return 2 * (inputs + self.hidden * (self.items + 2 * min(self.embedding, self.items + 1)))

    def parent_flop(self) -> int:
        """Those of the recurrent products, which a state needs once however many states follow it."""
        gates = 4 if self.cell == "lstm" else 3
        return 2 * 3 * gates * self.hidden * self.hidden * self.layers


def make(size: Size, law: Law, mean_length: float, quick: bool) -> Models:
    """Models in evaluation mode, the same for the same arguments.

    Args:
        law: "random": torch's initial weights, a policy close to uniform. "peaked": those, and N(0, PEAK^2) added to each
            item's logit, as popular items would have. "trained": on the simulator, of the quick preset's size.
        mean_length: of sessions of users who end them with the same probability at every step (not of trained ones).
        quick: train for one second instead of several.
    """
    if law == "trained":
        config = short_training(log_sessions=100 if quick else 500, epochs=0 if quick else 10)
        # Logs and simulated users are the CPU's; the models go where the benchmark is.
        with torch.device("cpu"), tempfile.TemporaryDirectory() as directory:
            run = start(config, Path(directory))
            train_irecgan(run)
            run.close()
        models = (run.models.user, run.models.agent, run.models.discriminator)
    else:
        models = _untrained(size, mean_length)
        if law == "peaked":
            with torch.no_grad():
                models[1].head.bias.normal_(std=PEAK)
    for model in models:
        model.eval()
    return models


def short_training(log_sessions: int, epochs: int) -> TrainConfig:
    """The quick preset on so few simulated sessions and adversarial epochs."""
    quick = preset("quick")
    return replace(
        quick,
        log_sessions=log_sessions,
        quiet=True,
        checkpoint_seconds=1e9,
        device=device.current().type,
        user=replace(quick.user, epochs=8),
        agent=replace(quick.agent, epochs=6),
        discriminator=replace(quick.discriminator, pretrain_epochs=2),
        adversarial=replace(quick.adversarial, epochs=epochs, generated=min(log_sessions, 1024)),
    )


def start(config: TrainConfig, directory: Path) -> Run:
    """A run of `config` on a log of its simulator."""
    source = open_source(config)
    train, valid = split(source.log, config.validation_share, torch.Generator().manual_seed(config.seed))
    return Run(config, directory, train, valid, source.items, source.reward_mode(), device.current())


def _untrained(size: Size, mean_length: float) -> Models:
    """END's click logit is the constant that ends a session with probability 1 / mean_length among SLATE logits of 0."""
    torch.manual_seed(1)
    shape = (size.items, size.embedding, size.hidden, size.layers, size.cell)
    user, agent, discriminator = UserModel(*shape), Agent(*shape), Discriminator(*shape)
    with torch.no_grad():
        end = user.encoder.embedding.weight[size.items]
        end.zero_()
        end[0] = math.log(SLATE / (mean_length - 1))
        user.query.weight[0].zero_()
        user.query.bias[0] = 1.0
    return user, agent, discriminator

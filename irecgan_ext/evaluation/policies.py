"""What was learnt, as policies for the simulator: they see clicks only, never the user's true state.

The simulator is on the CPU, a model may be elsewhere: what passes between them is moved.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from irecgan_ext import ops
from irecgan_ext.models import Agent, Encoder, UserModel
from irecgan_ext.simulators.policies import Policy, check_slate_size
from irecgan_ext.types import BOS


class RecurrentPolicy(Policy):
    """Slates from a softmax over the catalogue that depends on the click history.

    Args:
        encoder: turns clicks into states; used in evaluation mode.
        slate_size: K, in 1..C.
        sample: False recommends the K most probable items (as deployed), True draws K without replacement (as in
            training).
    """

    def __init__(self, encoder: Encoder, slate_size: int, sample: bool = False) -> None:
        self.encoder = encoder.eval()
        self.slate_size = check_slate_size(slate_size, encoder.items)
        self.sample = sample

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """[A, C] item logits in states [A, H]."""

    @torch.no_grad()
    def begin(self, sessions: int, seed: int) -> None:
        super().begin(sessions, seed)
        self.device = self.encoder.embedding.weight.device
        first = self.encoder.step(self.encoder.initial_state(1), torch.tensor([BOS], device=self.device))
        self.states = first.repeat(1, 1, sessions, 1)

    @torch.no_grad()
    def recommend(self, rows: Tensor, states: Tensor) -> Tensor:
        index = rows.to(self.device)
        logits = self.logits(self.encoder.output(self.states[:, :, index]))
        if not self.sample:
            return logits.topk(self.slate_size).indices.to(rows.device)
        slates = ops.gumbel_topk(logits, self.slate_size, generator=self.generator, rows=index)[1]
        return slates.to(rows.device)

    @torch.no_grad()
    def observe(self, rows: Tensor, slates: Tensor, clicks: Tensor) -> None:
        index = rows.to(self.device)
        self.states[:, :, index] = self.encoder.step(self.states[:, :, index], clicks.to(self.device))


class AgentPolicy(RecurrentPolicy):
    """Eq (4) of a trained agent."""

    def __init__(self, agent: Agent, slate_size: int, sample: bool = False) -> None:
        super().__init__(agent.encoder, slate_size, sample)
        self.agent = agent.eval()

    def logits(self, hidden: Tensor) -> Tensor:
        return self.agent.logits(hidden)


class UserModelPolicy(RecurrentPolicy):
    """The items that a user model thinks most clickable: softmax over the catalogue with the logits of Eq (1)."""

    def __init__(self, user: UserModel, slate_size: int, sample: bool = False) -> None:
        super().__init__(user.encoder, slate_size, sample)
        self.user = user.eval()

    def logits(self, hidden: Tensor) -> Tensor:
        return self.user.query(hidden) @ self.user.encoder.embedding.weight[: self.user.encoder.items].T


def learnt_policy(model: Agent | UserModel, slate_size: int, sample: bool = False) -> RecurrentPolicy:
    """The policy that `model` stands for."""
    if isinstance(model, Agent):
        return AgentPolicy(model, slate_size, sample)
    return UserModelPolicy(model, slate_size, sample)

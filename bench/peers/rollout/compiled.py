"""The eager peer with its step through `torch.compile`: the same batch of running rows, whose number is a dynamic shape."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.peers.rollout import eager
from bench.peers.rollout.parts import Played, State
from irecgan_ext.models import Agent, Discriminator, UserModel


class Compiled:
    """A rollout whose step is compiled once, at the first call; torch's compiler needs a C++ compiler for that."""

    def __init__(self, user: UserModel, agent: Agent, discriminator: Discriminator, slate_size: int) -> None:
        self.models, self.slate_size = (user, agent, discriminator), slate_size
        self.eager = eager.make_step(user, agent, discriminator, slate_size)
        torch._dynamo.reset()  # or the compiler counts these models as one step's too many variants
        self.compiled = torch.compile(self.eager, dynamic=True)

    def step(self, states: list[State], symbol: Tensor, total: Tensor) -> tuple[list[State], Tensor, Tensor, Tensor]:
        # One row alone is another shape to the compiler, which would compile again for it.
        return (self.compiled if len(symbol) > 1 else self.eager)(states, symbol, total)

    def rollout(self, *, sessions: int, max_steps: int, completions: int) -> Played:
        states = [cell.initial(sessions) for cell in eager.make_cells(*self.models)]
        items = self.models[1].encoder.items
        return eager.play(self.step, states, items, sessions, self.slate_size, max_steps, completions)

"""Critic V: what the agent can still expect in a state."""

from __future__ import annotations

from torch import Tensor, nn

from irecgan_ext.models.encoder import Cell, Encoder
from irecgan_ext.models.ragged import spread
from irecgan_ext.types import Trajectories


class Critic(nn.Module):
    """Value of a click history: V(s_t) = w . s_t + b, with embeddings and recurrent state of its own.

    Args:
        items, embedding, hidden, layers, cell: see `Encoder`.

    Raises:
        ValueError: see `Encoder`.
    """

    def __init__(self, items: int, embedding: int, hidden: int, layers: int, cell: Cell = "gru") -> None:
        super().__init__()
        self.encoder = Encoder(items, embedding, hidden, layers, cell)
        self.head = nn.Linear(hidden, 1)

    def forward(self, trajectories: Trajectories) -> Tensor:
        """[B, T] value of the state before each step's slate; 0 after the end."""
        return spread(self.head(self.encoder.at_steps(trajectories))[:, 0], trajectories.step_mask())

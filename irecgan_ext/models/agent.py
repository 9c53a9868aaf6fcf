"""Agent A: the recommendation policy."""

from __future__ import annotations

from torch import Tensor, nn

from irecgan_ext.models.encoder import Cell, Encoder
from irecgan_ext.types import Trajectories


class Agent(nn.Module):
    """Eq (4): softmax over the C items; a slate is K draws without replacement from it.

    Args:
        items, embedding, hidden, layers, cell, dropout, history_dropout: see `Encoder`.

    Raises:
        ValueError: see `Encoder`.
    """

    def __init__(
        self,
        items: int,
        embedding: int,
        hidden: int,
        layers: int,
        cell: Cell = "gru",
        dropout: float = 0.0,
        history_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(items, embedding, hidden, layers, cell, dropout, history_dropout)
        self.head = nn.Linear(hidden, items)

    def logits(self, states: Tensor) -> Tensor:
        """[..., C] logits of Eq (4) in `states` [..., H]."""
        return self.head(states)

    def forward(self, trajectories: Trajectories) -> Tensor:
        """[B, T]: log pi(c_t in a_t | s_t) of each clicked item under Eq (4); 0 where nothing was clicked."""
        clicked = trajectories.click_mask()
        states = self.encoder(trajectories.inputs())
        # Only clicked steps are projected onto the catalogue: [clicks, C] instead of [B, T, C].
        logits = self.logits(states[clicked])
        chosen = logits.gather(-1, trajectories.clicks[clicked][:, None])[:, 0] - logits.logsumexp(-1)
        return states.new_zeros(clicked.shape).masked_scatter(clicked, chosen)

    def rollout_parameters(self) -> list[Tensor]:
        """Flat list that the rollout operator reads: embedding, recurrent layers, head."""
        return [self.encoder.embedding.weight, *self.encoder.rnn_parameters(), self.head.weight, self.head.bias]

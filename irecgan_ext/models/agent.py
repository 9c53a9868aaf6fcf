"""Agent A: the recommendation policy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from irecgan_ext import ops
from irecgan_ext.models.encoder import Cell, Encoder
from irecgan_ext.models.ragged import spread
from irecgan_ext.types import Trajectories

LARGE_CATALOGUE = 5_000  # items from which on no [S, C] logits are held
LOGITS_HELD = 4_000_000  # logits in memory at a time, with a large catalogue


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
        counted, clicked = trajectories.step_mask(), trajectories.click_mask()
        states = self.encoder.at_steps(trajectories)
        # Only clicked steps are projected onto the catalogue.
        chosen = self.log_probs(states[clicked[counted]], trajectories.clicks[clicked])
        return spread(chosen, clicked)

    def log_probs(self, states: Tensor, items: Tensor) -> Tensor:
        """[S]: log pi(item | s) under Eq (4), for `items` [S] int64 in `states` [S, H]. Large catalogues take no [S, C]."""
        if self._is_large(states):
            return ops.linear_log_prob(states, self.head.weight, self.head.bias, items)
        logits = self.logits(states)
        return logits.gather(-1, items[:, None])[:, 0] - logits.logsumexp(-1)

    def over_catalogue(self, function: Callable[[Tensor, Tensor], Tensor], states: Tensor, slates: Tensor) -> Tensor:
        """[S]: `function(logits, slates)` of logits [S, C] and `slates` [S, K] int64, in states [S, H].

        With a large catalogue the logits are made for a few rows at a time, and once more in the backward pass.
        """
        if not self._is_large(states):
            return function(self.logits(states), slates)

        def part(states: Tensor, slates: Tensor) -> Tensor:
            return function(self.logits(states), slates)

        rows = max(1, LOGITS_HELD // self.encoder.items)
        return torch.cat(
            [
                checkpoint(part, *some, use_reentrant=False, preserve_rng_state=False)
                for some in zip(states.split(rows), slates.split(rows))
            ]
        )

    def _is_large(self, states: Tensor) -> bool:
        """Whether the op that keeps no logits is worth its time; it is for the CPU."""
        return self.encoder.items >= LARGE_CATALOGUE and states.device.type == "cpu"

    def rollout_parameters(self) -> list[Tensor]:
        """Flat list that the rollout operator reads: embedding, recurrent layers, head."""
        return [self.encoder.embedding.weight, *self.encoder.rnn_parameters(), self.head.weight, self.head.bias]

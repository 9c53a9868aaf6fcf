"""A trained agent as modules that `torch.export` can take: no code of this package is left in what it makes of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.export import Dim, ExportedProgram

from irecgan_ext.models import Agent
from irecgan_ext.types import PAD

Lists = tuple[Tensor, Tensor, Tensor]
"""Items [B, k] int64 (`PAD` where no more may be shown), log-probabilities [B, k] float32, states [Z, L, B, H] float32."""


class _Program(nn.Module):
    """What both programs share: the recurrent step and the k best items."""

    def __init__(self, agent: Agent, k: int) -> None:
        super().__init__()
        encoder = agent.encoder
        if not 1 <= k <= encoder.items:
            raise ValueError(f"k must be in 1..C (C = {encoder.items}), got {k}")
        self.items, self.k, self.cell = encoder.items, k, encoder.cell
        self.layers, self.hidden = encoder.rnn.num_layers, encoder.rnn.hidden_size
        self.embedding, self.rnn, self.head = encoder.embedding, encoder.rnn, agent.head

    def advance(self, state: Tensor, index: Tensor) -> Tensor:
        """[Z, L, B, H] states after the inputs `index` [B] int64, rows of the embedding."""
        below, layers = self.embedding(index), []
        for layer in range(self.layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = [getattr(self.rnn, f"{name}_l{layer}") for name in names]
            if self.cell == "gru":
                below = torch.gru_cell(below, state[0, layer], *weights)
                layers.append(below[None])
            else:
                below, memory = torch.lstm_cell(below, (state[0, layer], state[1, layer]), *weights)
                layers.append(torch.stack([below, memory]))
        return torch.stack(layers, 1)

    def best(self, state: Tensor, exclude: Tensor) -> Lists:
        """The k most probable items in `state` that are not in `exclude` [B, X]."""
        logits = nn.functional.pad(self.head(state[0, -1]), (0, 1))
        left_out = torch.where(exclude < 0, self.items, exclude)
        logits = logits.scatter(1, left_out, -torch.inf)[:, : self.items]
        values, items = torch.log_softmax(logits, 1).topk(self.k)
        nothing = ~(values > -torch.inf)  # NaN too: a row without any item that may be shown
        return items.masked_fill(nothing, PAD), values.masked_fill(nothing, -torch.inf), state


class HistoryProgram(_Program):
    """Lists and states for whole click histories.

    Args:
        agent: in evaluation mode. k: items per list.
        starts_from_item: a history is a session from its first item on; otherwise `BOS` comes before it.
    """

    def __init__(self, agent: Agent, k: int, starts_from_item: bool) -> None:
        super().__init__(agent, k)
        self.starts_from_item = starts_from_item

    def forward(self, histories: Tensor, exclude: Tensor) -> Lists:
        """Lists after `histories` [B, T] int64 (items, END for an item that is not known, PAD from the end on; T >= 1), without
        the items `exclude` [B, X] int64 (PAD for none; X >= 1). A row of PAD alone is a session's start."""
        begin = torch.full_like(histories[:, :1], self.items + 1)
        known = torch.where(histories < 0, self.items, histories)
        symbols = torch.cat([begin, known], 1)
        lengths = (histories != PAD).sum(1)
        if self.starts_from_item:
            # The first item takes the place of BOS in histories that have one.
            symbols = torch.where((lengths > 0)[:, None], torch.cat([known, begin], 1), symbols)
            lengths = (lengths - 1).clamp(min=0)
        state = self.embedding.weight.new_zeros(
            2 if self.cell == "lstm" else 1, self.layers, histories.shape[0], self.hidden
        )
        steps = symbols.shape[1]

        def unfinished(place: Tensor, state: Tensor) -> Tensor:
            return place < steps

        def step(place: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            after = self.advance(state, symbols.index_select(1, place[None])[:, 0])
            return place + 1, torch.where((place <= lengths)[None, None, :, None], after, state)

        begin_at = torch.zeros((), dtype=torch.int64, device=histories.device)
        _, state = while_loop(unfinished, step, (begin_at, state))
        return self.best(state, exclude)


class StepProgram(_Program):
    """Lists and states after one more click."""

    def forward(self, state: Tensor, clicks: Tensor, exclude: Tensor) -> Lists:
        """Lists after `clicks` [B] int64 (END for an item that is not known) in `state` [Z, L, B, H], without the items
        `exclude` [B, X] int64 (PAD for none; X >= 1)."""
        return self.best(self.advance(state, torch.where(clicks < 0, self.items, clicks)), exclude)


def export_programs(agent: Agent, k: int, *, starts_from_item: bool = False) -> dict[str, ExportedProgram]:
    """`torch.export` programs "history" and "step" of an agent, with any batch, history length and number of exclusions.

    Args:
        agent: the trained agent. k: items per list, 1..C. starts_from_item: as in `HistoryProgram`.

    Raises:
        ValueError: k is not in 1..C.
    """
    agent = agent.eval().requires_grad_(False)
    histories, exclude = torch.tensor([[0, 0, 0], [0, PAD, PAD]]), torch.tensor([[0, PAD], [PAD, PAD]])
    state = agent.encoder.initial_state(2)
    batch: Any = Dim.DYNAMIC
    both = {0: batch, 1: batch}
    with torch.no_grad():
        return {
            "history": torch.export.export(
                HistoryProgram(agent, k, starts_from_item),
                (histories, exclude),
                dynamic_shapes={"histories": both, "exclude": both},
            ),
            "step": torch.export.export(
                StepProgram(agent, k),
                (state, histories[:, 0], exclude),
                dynamic_shapes={"state": {2: batch}, "clicks": {0: batch}, "exclude": both},
            ),
        }

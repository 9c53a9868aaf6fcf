"""Click histories to recurrent states."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from irecgan_ext.models.ragged import time_major
from irecgan_ext.types import END, Trajectories, symbol_index

Cell = Literal["gru", "lstm"]

# Items per candidate up to which a product with the whole table beats gathering the candidates' rows.
SMALL_CATALOGUE = 32

_CELLS: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class Encoder(nn.Module):
    """Symbol embeddings and a recurrent network over clicks: s_t = h(s_{t-1}, e_{t-1}).

    Args:
        items: C. The embedding has C + 2 rows; the last two are END and BOS.
        embedding: E, width of the embeddings.
        hidden: H, width of the states.
        layers: L, recurrent layers.
        cell: "gru" or "lstm".
        dropout: probability, in training mode, of dropping an entry of the embedded inputs, of the states between layers and
            of the states that are returned.
        history_dropout: probability, in training mode, of hiding a past click from `forward` and `at_steps`: END, which is
            no input otherwise, takes its place. What the state makes of single clicks is then learnt from fewer of them.
        embedding_std: standard deviation of the initial embeddings.

    Raises:
        ValueError: a size is below 1, `cell` is unknown or `dropout` is outside [0, 1).
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
        embedding_std: float = 0.1,
    ) -> None:
        super().__init__()
        for name, size in (("items", items), ("embedding", embedding), ("hidden", hidden), ("layers", layers)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if cell not in _CELLS:
            raise ValueError(f"cell must be 'gru' or 'lstm', got {cell!r}")
        for name, share in (("dropout", dropout), ("history_dropout", history_dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1), got {share}")
        self.items = items
        self.cell = cell
        self.embedding = nn.Embedding(items + 2, embedding)
        nn.init.normal_(self.embedding.weight, std=embedding_std)
        between = dropout if layers > 1 else 0.0
        self.rnn = _CELLS[cell](embedding, hidden, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.history_dropout = history_dropout

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # The weights of a copy lie apart: cuDNN would warn of that and gather them anew at every call.
        self.rnn.flatten_parameters()

    def embed(self, symbols: Tensor) -> Tensor:
        """[..., E] embeddings of `symbols` ([...] int64: items, END, BOS; PAD gives END's row, for the caller to mask)."""
        return self.embedding(symbol_index(symbols, self.items))

    def products(self, queries: Tensor, symbols: Tensor) -> Tensor:
        """[..., J]: inner products of `queries` [..., E] with the embeddings of `symbols` [..., J] int64, as in `embed`.

        The leading dimensions are broadcast.
        """
        rows = symbol_index(symbols, self.items)
        if self._is_small(symbols):
            shape = torch.broadcast_shapes(queries.shape[:-1], symbols.shape[:-1])
            return (queries @ self.embedding.weight.T).expand(*shape, -1).gather(-1, rows.expand(*shape, -1))
        return (self.embedding(rows) @ queries[..., None])[..., 0]

    def mixture(self, weights: Tensor, symbols: Tensor) -> Tensor:
        """[..., E]: sum of the embeddings of `symbols` [..., J] int64, as in `embed`, weighted with `weights` [..., J]."""
        rows = symbol_index(symbols, self.items)
        if self._is_small(symbols):
            whole = weights.new_zeros(*weights.shape[:-1], self.items + 2)
            return whole.scatter_add(-1, rows, weights) @ self.embedding.weight
        return (weights[..., None, :] @ self.embedding(rows))[..., 0, :]

    def _is_small(self, symbols: Tensor) -> bool:
        return self.items <= SMALL_CATALOGUE * symbols.shape[-1]

    def forward(self, symbols: Tensor) -> Tensor:
        """States after each input.

        Args:
            symbols: [B, T] int64, `Trajectories.inputs()`.

        Returns:
            [B, T, H]: at t, the state that has consumed inputs 0..t.
        """
        states, _ = self.rnn(self.dropout(self.embed(self._hide(symbols))))
        return self.dropout(states)

    def at_steps(self, sessions: Trajectories) -> Tensor:
        """[S, H]: the states before the slates of the S counted steps, session by session, as `forward` has them at
        `sessions.step_mask()`; nothing is computed for steps after a session's end."""
        order, batch_sizes = time_major(sessions.lengths)
        if not len(order):
            return self.embedding.weight.new_zeros(0, self.rnn.hidden_size)
        symbols = self._hide(sessions.inputs())[sessions.step_mask()]
        inputs = self.dropout(self.embed(symbols[order]))
        states = self.rnn(PackedSequence(inputs, batch_sizes))[0].data
        return self.dropout(torch.zeros_like(states).index_copy(0, order, states))

    def _hide(self, symbols: Tensor) -> Tensor:
        """`symbols` [B, T], in training mode with past clicks hidden as `history_dropout` says."""
        if not self.training or self.history_dropout == 0:
            return symbols
        hidden = torch.rand(symbols.shape, device=symbols.device) < self.history_dropout
        hidden[:, :1] = False
        return torch.where(hidden, END, symbols)

    def disable_dropout(self) -> None:
        """Switch `dropout` off for good, in training mode too; history dropout stays."""
        self.dropout.p = 0.0
        self.rnn.dropout = 0.0

    def initial_state(self, count: int) -> Tensor:
        """[Z, L, count, H] zeros, the state before any input; Z = 1 (GRU: h) or 2 (LSTM: h, c)."""
        parts = 2 if self.cell == "lstm" else 1
        return self.embedding.weight.new_zeros(parts, self.rnn.num_layers, count, self.rnn.hidden_size)

    def step(self, state: Tensor, symbols: Tensor) -> Tensor:
        """State [Z, L, B, H] after `state` has consumed one more input `symbols` [B] int64. For evaluation mode."""
        inputs = self.embed(symbols)[:, None]
        if self.cell == "gru":
            return self.rnn(inputs, state[0])[1][None]
        return torch.stack(self.rnn(inputs, (state[0], state[1]))[1])

    def output(self, state: Tensor) -> Tensor:
        """[B, H]: what `forward` returns for state [Z, L, B, H], i.e. h of the last layer."""
        return state[0, -1]

    def rnn_parameters(self) -> list[Tensor]:
        """Flat list: weight_ih, weight_hh, bias_ih, bias_hh of each layer in turn, as torch.nn lays them out."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self.rnn, f"{name}_l{layer}") for layer in range(self.rnn.num_layers) for name in names]

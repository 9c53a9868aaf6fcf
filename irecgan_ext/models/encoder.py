"""Click histories to recurrent states."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from irecgan_ext.types import END, symbol_index

Cell = Literal["gru", "lstm"]

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
            of the states that `forward` returns.
        history_dropout: probability, in training mode, of hiding a past click from `forward`: END, which is no input
            otherwise, takes its place. What the state makes of single clicks is then learnt from fewer of them.
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

    def forward(self, symbols: Tensor) -> Tensor:
        """States after each input.

        Args:
            symbols: [B, T] int64, `Trajectories.inputs()`.

        Returns:
            [B, T, H]: at t, the state that has consumed inputs 0..t.
        """
        if self.training and self.history_dropout > 0:
            hidden = torch.rand(symbols.shape, device=symbols.device) < self.history_dropout
            hidden[:, :1] = False
            symbols = torch.where(hidden, END, symbols)
        states, _ = self.rnn(self.dropout(self.embed(symbols)))
        return self.dropout(states)

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

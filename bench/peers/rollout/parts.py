"""What the peers share: a session batch, one recurrent step, a slate, a click and D's term of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from irecgan_ext.models import Discriminator, Encoder, UserModel

TEMPERATURE = 0.1


class Played(NamedTuple):
    """slates [R, W, K] and clicks [R, W] int64, rewards [R, W] float32, lengths [R] int64, scores [R], q [R, W] float32.

    Steps after a session's end hold -1 in clicks and whatever in slates, rewards 0 and q 0; clicks of -2 are END.
    """

    slates: Tensor
    clicks: Tensor
    rewards: Tensor
    lengths: Tensor
    scores: Tensor
    q: Tensor


def cat(calls: Sequence[Played]) -> Played:
    """The sessions of several calls."""
    width = max(played.q.shape[1] for played in calls)

    def widen(x: Tensor, value: int) -> Tensor:
        missing = width - x.shape[1] if x.dim() > 1 else 0
        return functional.pad(x, (0, 0) * (x.dim() - 2) + (0, missing), value=value) if missing else x

    fills = (-1, -1, 0, 0, 0, 0)
    return Played(*(torch.cat([widen(x, fill) for x in parts]) for parts, fill in zip(zip(*calls), fills)))


State = list[tuple[Tensor, ...]]  # per layer: (h,) for a GRU, (h, c) for an LSTM, each [n, H]


class Cell:
    """One step of an encoder's layers with torch's fused cell functions."""

    def __init__(self, encoder: Encoder) -> None:
        self.embedding, self.kind, self.hidden = encoder.embedding.weight, encoder.cell, encoder.rnn.hidden_size
        flat = encoder.rnn_parameters()
        self.layers = [flat[at : at + 4] for at in range(0, len(flat), 4)]

    def initial(self, count: int) -> State:
        parts = 2 if self.kind == "lstm" else 1
        return [tuple(torch.zeros(count, self.hidden) for _ in range(parts)) for _ in self.layers]

    def step(self, state: State, symbol: Tensor) -> State:
        x = self.embedding[symbol]
        after: State = []
        for layer, weights in zip(state, self.layers):
            new = torch.lstm_cell(x, layer, *weights) if self.kind == "lstm" else (torch.gru_cell(x, *layer, *weights),)
            after.append(new)
            x = new[0]
        return after

    def output(self, state: State) -> Tensor:
        return state[-1][0]


def draw_slate(logits: Tensor, slate_size: int) -> Tensor:
    """[n, K] items drawn without replacement from the softmax of `logits` [n, C], Eq (4)."""
    noise = torch.empty_like(logits).exponential_().log_()
    return torch.sub(logits, noise, out=noise).topk(slate_size).indices


def draw_click(user: UserModel, hidden: Tensor, candidates: Tensor) -> Tensor:
    """[n] embedding row clicked among `candidates` [n, K + 1] in states `hidden` [n, H], Eq (1)."""
    logits = torch.bmm(user.encoder.embedding.weight[candidates], user.query(hidden)[..., None])[..., 0]
    choice = (logits - torch.empty_like(logits).exponential_().log_()).argmax(1, keepdim=True)
    return candidates.gather(1, choice)[:, 0]


def step_score(judge: Discriminator, hidden: Tensor, candidates: Tensor, symbol: Tensor) -> Tensor:
    """[n] D's term of a step."""
    embeddings = judge.encoder.embedding.weight[candidates]
    weights = torch.softmax(torch.bmm(embeddings, judge.query(hidden)[..., None])[..., 0] / TEMPERATURE, 1)
    # favourite . e(click) without the favourite: K + 1 products with the clicked embedding, then their weighted sum
    products = torch.bmm(embeddings, judge.encoder.embedding.weight[symbol][..., None])[..., 0]
    return (weights * products).sum(1)


def add_end(slate: Tensor, items: int) -> Tensor:
    """[n, K + 1] embedding rows that can be clicked: the slate [n, K] and END, row C."""
    return functional.pad(slate, (0, 1), value=items)

"""The rollout in eager PyTorch: one batch of all running sessions, completions included; states cached, D carried along."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from irecgan_ext.models import Agent, Discriminator, Encoder, UserModel

TEMPERATURE = 0.1


class Played(NamedTuple):
    """slates [R, W, K] and clicks [R, W] int64, rewards [R, W] float32, lengths [R] int64, scores [R], q [R, W] float32."""

    slates: Tensor
    clicks: Tensor
    rewards: Tensor
    lengths: Tensor
    scores: Tensor
    q: Tensor


@torch.inference_mode()
def rollout(
    user: UserModel,
    agent: Agent,
    discriminator: Discriminator,
    *,
    sessions: int,
    slate_size: int,
    max_steps: int,
    completions: int,
) -> Played:
    """R = `sessions` fresh sessions with rewards "survival", N = `completions` per step on which a session goes on.

    Rows are kept in one batch: the root sessions, and the completions of every prefix as they branch off. Finished rows
    leave it after each step. Clicks are embedding rows here: items 0..C-1, END C, BOS C + 1.
    """
    items, cells = agent.encoder.items, [_Cell(m.encoder) for m in (user, agent, discriminator)]
    states = [cell.initial(sessions) for cell in cells]
    slates = torch.full((sessions, max_steps, slate_size), -1)
    clicks = torch.full((sessions, max_steps), -1)
    q = torch.zeros(sessions, max_steps)
    lengths, scores = torch.zeros(sessions, dtype=torch.int64), torch.zeros(sessions)
    root = torch.arange(sessions)
    branch = torch.full((sessions,), -1)  # the step that a completion scores; -1 for the session itself
    symbol = torch.full((sessions,), items + 1)
    total = torch.zeros(sessions)
    for step in range(max_steps):
        states = [cell.step(state, symbol) for cell, state in zip(cells, states)]
        user_hidden, agent_hidden, judge_hidden = (cell.output(state) for cell, state in zip(cells, states))
        logits = agent.head(agent_hidden)
        noise = torch.empty_like(logits).exponential_().log_()
        slate = torch.sub(logits, noise, out=noise).topk(slate_size).indices
        candidates = functional.pad(slate, (0, 1), value=items)
        symbol = _click(user, user_hidden, candidates)
        total = total + _step_score(discriminator, judge_hidden, candidates, symbol)

        is_root = branch < 0
        own = root[is_root]
        slates[own, step], clicks[own, step] = slate[is_root], symbol[is_root]
        finished = (symbol == items) if step < max_steps - 1 else torch.ones_like(is_root)
        value = torch.sigmoid(total / (step + 1))
        ended = finished & is_root
        lengths[root[ended]], scores[root[ended]], q[root[ended], step] = step + 1, value[ended], value[ended]
        ended = finished & ~is_root
        q.index_put_((root[ended], branch[ended]), value[ended] / completions, accumulate=True)

        (kept,) = torch.where(~finished)
        (going,) = torch.where(~finished & is_root)
        copies = going.repeat_interleave(completions)
        index = torch.cat([kept, copies])
        if len(index) == 0:
            break
        branch = torch.cat([branch[kept], torch.full_like(copies, step)])
        root, symbol, total = root[index], symbol[index], total[index]
        states = [[tuple(part[index] for part in layer) for layer in state] for state in states]
    clicks[clicks == items] = -2
    return Played(slates, clicks, (clicks >= 0).float(), lengths, scores, q)


State = list[tuple[Tensor, ...]]  # per layer: (h,) for a GRU, (h, c) for an LSTM, each [n, H]


class _Cell:
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


def _click(user: UserModel, hidden: Tensor, candidates: Tensor) -> Tensor:
    """[n] embedding row clicked among `candidates` [n, K + 1] in states `hidden` [n, H], Eq (1)."""
    logits = torch.bmm(user.encoder.embedding.weight[candidates], user.query(hidden)[..., None])[..., 0]
    choice = (logits - torch.empty_like(logits).exponential_().log_()).argmax(1, keepdim=True)
    return candidates.gather(1, choice)[:, 0]


def _step_score(judge: Discriminator, hidden: Tensor, candidates: Tensor, symbol: Tensor) -> Tensor:
    """[n] D's term of a step."""
    embeddings = judge.encoder.embedding.weight[candidates]
    weights = torch.softmax(torch.bmm(embeddings, judge.query(hidden)[..., None])[..., 0] / TEMPERATURE, 1)
    # favourite . e(click) without the favourite: K + 1 products with the clicked embedding, then their weighted sum
    products = torch.bmm(embeddings, judge.encoder.embedding.weight[symbol][..., None])[..., 0]
    return (weights * products).sum(1)

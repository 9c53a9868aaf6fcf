"""The rollout in eager PyTorch: one batch of all running sessions, completions included; states cached, D carried along."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.peers.rollout.parts import Cell, Played, State, add_end, draw_click, draw_slate, step_score
from irecgan_ext.models import Agent, Discriminator, UserModel

# states of the three models, symbol [n], total [n] -> states after it, slate [n, K], click [n], total [n] with its score
Step = Callable[[list[State], Tensor, Tensor], tuple[list[State], Tensor, Tensor, Tensor]]


def make_step(user: UserModel, agent: Agent, discriminator: Discriminator | None, slate_size: int) -> Step:
    """One step of all running rows. Clicks are embedding rows here: items 0..C-1, END C, BOS C + 1."""
    items, cells = agent.encoder.items, make_cells(user, agent, discriminator)

    def step(states: list[State], symbol: Tensor, total: Tensor) -> tuple[list[State], Tensor, Tensor, Tensor]:
        states = [cell.step(state, symbol) for cell, state in zip(cells, states)]
        hidden = [cell.output(state) for cell, state in zip(cells, states)]
        slate = draw_slate(agent.head(hidden[1]), slate_size)
        candidates = add_end(slate, items)
        symbol = draw_click(user, hidden[0], candidates)
        if discriminator is not None:
            total = total + step_score(discriminator, hidden[2], candidates, symbol)
        return states, slate, symbol, total

    return step


def make_cells(*models: UserModel | Agent | Discriminator | None) -> list[Cell]:
    return [Cell(model.encoder) for model in models if model is not None]


def rollout(
    user: UserModel,
    agent: Agent,
    discriminator: Discriminator | None,
    *,
    sessions: int,
    slate_size: int,
    max_steps: int,
    completions: int,
) -> Played:
    """R = `sessions` fresh sessions with rewards "survival", N = `completions` per step on which a session goes on.

    Without a discriminator N must be 0, and scores and q mean nothing.
    """
    step = make_step(user, agent, discriminator, slate_size)
    states = [cell.initial(sessions) for cell in make_cells(user, agent, discriminator)]
    return play(step, states, agent.encoder.items, sessions, slate_size, max_steps, completions)


@torch.inference_mode()
def play(
    play_step: Step,
    states: list[State],
    items: int,
    sessions: int,
    slate_size: int,
    max_steps: int,
    completions: int,
) -> Played:
    """Rows are kept in one batch: the root sessions, and the completions of every prefix as they branch off. Finished rows
    leave it after each step."""
    slates = torch.full((sessions, max_steps, slate_size), -1)
    clicks = torch.full((sessions, max_steps), -1)
    q = torch.zeros(sessions, max_steps)
    lengths, scores = torch.zeros(sessions, dtype=torch.int64), torch.zeros(sessions)
    root = torch.arange(sessions)
    branch = torch.full((sessions,), -1)  # the step that a completion scores; -1 for the session itself
    symbol = torch.full((sessions,), items + 1)
    total = torch.zeros(sessions)
    for step in range(max_steps):
        states, slate, symbol, total = play_step(states, symbol, total)
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

"""The rollout in PyTorch with shapes that never change, captured once as a CUDA graph and replayed.

Nothing is compacted: sessions that have ended are stepped on until the cap, and N completions of each session's every prefix
are stepped whether the session got that far or not. The same plan as the JAX peer's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.peers.rollout import eager
from bench.peers.rollout.parts import Played
from irecgan_ext.models import Agent, Discriminator, UserModel


@torch.inference_mode()
def padded(
    user: UserModel,
    agent: Agent,
    discriminator: Discriminator,
    *,
    sessions: int,
    slate_size: int,
    max_steps: int,
    completions: int,
) -> Played:
    """R = `sessions` fresh sessions with rewards "survival", N = `completions` per step on which a session goes on."""
    step, items = eager.make_step(user, agent, discriminator, slate_size), agent.encoder.items
    states = [cell.initial(sessions) for cell in eager.make_cells(user, agent, discriminator)]
    symbol, total = torch.full((sessions,), items + 1), torch.zeros(sessions)
    going = torch.ones(sessions, dtype=torch.bool)
    prefixes, slates, symbols, totals, played = [], [], [], [], []
    for _ in range(max_steps):
        states, slate, symbol, total = step(states, symbol, total)
        played.append(going)
        going = going & (symbol != items)
        prefixes.append((states, going))
        slates.append(slate)
        symbols.append(symbol)
        totals.append(total)
    lengths = torch.stack(played).sum(0)
    last = lengths[:, None] - 1
    scores = torch.sigmoid(torch.stack(totals, 1).gather(1, last)[:, 0] / lengths)

    def spread(parts: list[Tensor]) -> Tensor:
        """[(W - 1) R N, ...]: N rows for every prefix that another step can follow."""
        return torch.stack(parts[:-1]).repeat_interleave(completions, 1).flatten(0, 1)

    at = torch.arange(max_steps - 1).repeat_interleave(sessions * completions)
    states = [
        [
            tuple(spread([prefix[0][m][layer][part] for prefix in prefixes]) for part in range(len(parts)))
            for layer, parts in enumerate(model)
        ]
        for m, model in enumerate(states)
    ]
    symbol, total, alive = spread(symbols), spread(totals), spread([prefix[1] for prefix in prefixes])
    value = torch.zeros_like(total)
    for ahead in range(1, max_steps):
        states, _, symbol, total = step(states, symbol, total)
        ends = alive & ((symbol == items) | (at + ahead == max_steps - 1))
        value = torch.where(ends, torch.sigmoid(total / (at + ahead + 1)), value)
        alive = alive & ~ends
    q = value.view(max_steps - 1, sessions, completions).mean(2).T
    steps = torch.arange(max_steps)
    q = torch.where(steps < last, torch.nn.functional.pad(q, (0, 1)), 0.0)
    q = torch.where(steps == last, scores[:, None], q)
    clicks = torch.stack(symbols, 1)
    clicks = torch.where(steps <= last, torch.where(clicks == items, -2, clicks), -1)
    return Played(torch.stack(slates, 1), clicks, (clicks >= 0).float(), lengths, scores, q)


class Graphed:
    """`padded` behind one CUDA graph, captured when this is made. Arguments: as there."""

    def __init__(
        self, user: UserModel, agent: Agent, discriminator: Discriminator, slate_size: int, **sizes: int
    ) -> None:
        def play() -> Played:
            return padded(user, agent, discriminator, slate_size=slate_size, **sizes)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            play()  # libraries make their handles before the capture
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.played = play()

    def rollout(self) -> Played:
        """Tensors that the next call overwrites."""
        self.graph.replay()
        return self.played

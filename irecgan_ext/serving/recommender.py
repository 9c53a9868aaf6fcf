"""Recommendations from a trained agent, with a state per user that a service can keep between calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from irecgan_ext import ops
from irecgan_ext.catalogue import CatalogueIndex
from irecgan_ext.models import Agent
from irecgan_ext.serving.topk import linear_topk
from irecgan_ext.types import BOS, PAD

_STEPS = 64  # of a history encoded at a time: long ones need no more memory than this many


class Recommendation(NamedTuple):
    """Lists of items, best (or first drawn) first.

    Attributes:
        items: [B, k] int64; `PAD` fills a list where fewer items may be shown.
        log_probs: [B, k] float32: log pi(item | history) of Eq (4) among the items that may be shown; -inf at `PAD`; [B, 0] where
            they were not asked for.
    """

    items: Tensor
    log_probs: Tensor


class Recommender:
    """The policy of an agent behind the three calls that a service makes.

        state = recommender.start(1)
        shown = recommender.recommend(state, k=10)
        state = recommender.step(state, clicks)  # and so on; equal to replay of all clicks

    A state is [Z, L, B, H] float32, Z = 1 (GRU) or 2 (LSTM): plain numbers that can be stored and taken up again. Nothing but
    states and arguments is kept, so that threads may share a recommender.

    Args:
        agent: the trained agent; used in evaluation mode, without gradients.
        candidates: [C] bool, True for the items that may be shown at all; None for all.
        prepare: make a `CatalogueIndex` of the agent's output layer, so that `sample` without log-probabilities looks into few of
            the items. The agent must not change afterwards.

    Raises:
        ValueError: `candidates` has another shape, or holds no item; with `prepare`, a weight is not finite.
    """

    def __init__(self, agent: Agent, candidates: Tensor | None = None, *, prepare: bool = False) -> None:
        self.agent = agent.eval().requires_grad_(False)
        self.items = agent.encoder.items
        if candidates is not None and list(candidates.shape) != [self.items]:
            raise ValueError(f"candidates must have shape [C] = [{self.items}], got {list(candidates.shape)}")
        if candidates is not None and not bool(candidates.any()):
            raise ValueError("candidates must hold at least one item, got none")
        self.candidates = candidates
        head = self.agent.head
        self.index = CatalogueIndex(head.weight, head.bias, mask=candidates) if prepare else None

    @torch.no_grad()
    def start(self, count: int, symbols: Tensor | None = None) -> Tensor:
        """[Z, L, count, H] states at the start of sessions: after `BOS`, or after their start items `symbols` [count]."""
        symbols = torch.full((count,), BOS) if symbols is None else symbols
        return self.step(self.agent.encoder.initial_state(count), symbols)

    @torch.no_grad()
    def step(self, state: Tensor, clicks: Tensor) -> Tensor:
        """[Z, L, B, H] states after one more click of each user.

        Args:
            state: [Z, L, B, H]; not changed. clicks: [B] int64, items; END stands for a click that is not known.
        """
        return self.agent.encoder.step(state, clicks)

    @torch.no_grad()
    def replay(self, histories: Sequence[Tensor]) -> Tensor:
        """[Z, L, B, H] states after whole histories: B tensors [n] int64 of n >= 1 symbols, the first one BOS or a start item.

        Equal to `start` and one `step` per click.

        Raises:
            ValueError: a history is empty.
        """
        lengths = torch.tensor([len(history) for history in histories], dtype=torch.int64)
        if bool((lengths < 1).any()):
            raise ValueError(
                f"histories must hold at least a start symbol, got an empty one at {int(lengths.argmin())}"
            )
        encoder = self.agent.encoder
        state = encoder.initial_state(len(histories))
        for first in range(0, int(lengths.max()) if len(lengths) else 0, _STEPS):
            rows = (lengths > first).nonzero()[:, 0]
            pieces = [histories[row][first : first + _STEPS] for row in rows.tolist()]
            symbols = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=PAD)
            sizes = torch.tensor([len(piece) for piece in pieces])
            packed = pack_padded_sequence(encoder.embed(symbols), sizes, batch_first=True, enforce_sorted=False)
            before = state[:, :, rows]
            after = encoder.rnn(packed, before[0] if encoder.cell == "gru" else (before[0], before[1]))[1]
            state[:, :, rows] = after[None] if encoder.cell == "gru" else torch.stack(after)
        return state

    @torch.no_grad()
    def recommend(self, state: Tensor, k: int, *, exclude: Tensor | None = None) -> Recommendation:
        """The k most probable items of each user.

        Args:
            state: [Z, L, B, H]. k: 1..C.
            exclude: [B, X] int64, items not to show to each user, padded with PAD.

        Raises:
            ValueError: k is not in 1..C.
        """
        head = self.agent.head
        hidden = self.agent.encoder.output(state)
        values, items, total = linear_topk(hidden, head.weight, head.bias, k, exclude=exclude, mask=self.candidates)
        return Recommendation(items, torch.where(items == PAD, -torch.inf, values - total[:, None]))

    @torch.no_grad()
    def sample(
        self,
        state: Tensor,
        k: int,
        *,
        exclude: Tensor | None = None,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
        rows: Tensor | None = None,
        step: int = 0,
        log_probs: bool = True,
    ) -> Recommendation:
        """k draws without replacement from each user's softmax, as in training; the logits are never in memory.

        Args:
            state, k, exclude: as in `recommend`.
            generator, seed, rows, step: what keys the draws, see `ops.gumbel_topk`.
            log_probs: whether they are wanted. They need every item's logit; a prepared recommender draws faster without them, by
                the same law, but not the same items on the same seed.

        Raises:
            ValueError: an argument breaks its rule, or a prepared recommender's agent has changed.
        """
        if not 1 <= k <= self.items:
            raise ValueError(f"k must be in 1..C (C = {self.items}), got {k}")
        head, hidden = self.agent.head, self.agent.encoder.output(state)
        count = len(hidden)
        rows = torch.arange(count) if rows is None else rows
        key = ops.draw_seed(generator, seed)
        items = torch.full((count, k), PAD)
        scores = torch.full((count, k if log_probs else 0), -torch.inf)
        left = self._left(count, exclude).clamp(max=k)
        for size in left.unique().tolist():  # the sampler wants as many items as it is to draw
            chosen = (left == size).nonzero()[:, 0]
            if size == 0:
                continue
            states, ids = hidden[chosen], rows[chosen]
            hide = None if exclude is None else exclude[chosen]
            if self.index is not None and not log_probs:
                few = self.index.sample(states, size, seed=key, rows=ids, step=step, exclude=hide)
                items[chosen, :size] = few.indices
                continue
            drawn = ops.linear_gumbel_topk(
                states,
                head.weight,
                head.bias,
                size,
                seed=key,
                rows=ids,
                step=step,
                exclude=hide,
                mask=self.candidates,
            )
            items[chosen, :size] = drawn.indices
            if log_probs:
                logits = (head.weight[drawn.indices] @ states[:, :, None])[..., 0] + head.bias[drawn.indices]
                scores[chosen, :size] = logits - drawn.logsumexp[:, None]
        return Recommendation(items, scores)

    def _left(self, count: int, exclude: Tensor | None) -> Tensor:
        """[count] int64: how many items may be shown to each user."""
        total = self.items if self.candidates is None else int(self.candidates.sum())
        if exclude is None or exclude.shape[1] == 0:
            return torch.full((count,), total)
        ordered = exclude.sort(1).values
        counts = ordered >= 0
        counts[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
        if self.candidates is not None:
            counts &= self.candidates[ordered.clamp(min=0)]
        return total - counts.sum(1)

"""How many histories per second a recommender serves, beside the obvious PyTorch way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from irecgan_ext.models import Agent
from irecgan_ext.serving.recommender import Recommender
from irecgan_ext.types import PAD


@dataclass(frozen=True)
class Rate:
    """Histories per second: the median of the rounds, and their quartiles."""

    median: float
    quartiles: tuple[float, float]


def obvious(
    agent: Agent,
    histories: Sequence[Tensor],
    k: int,
    exclude: Tensor,
    *,
    sample: bool,
    candidates: Tensor | None = None,
) -> Tensor:
    """[B, k] int64: one padded batch, all its logits in memory, `topk`; for draws, Gumbel noise added first.

    Args as in `Recommender`.
    """
    with torch.no_grad():
        lengths = torch.tensor([len(history) for history in histories])
        symbols = pad_sequence(list(histories), batch_first=True, padding_value=PAD)
        states = agent.encoder(symbols)[torch.arange(len(histories)), lengths - 1]
        logits = agent.logits(states)
        if candidates is not None:
            logits.masked_fill_(~candidates, -torch.inf)
        row, column = (exclude >= 0).nonzero(as_tuple=True)
        logits[row, exclude[row, column]] = -torch.inf
        if sample:
            logits -= torch.empty_like(logits).exponential_().log_()
        return logits.topk(k).indices


def compare(
    recommender: Recommender, histories: Sequence[Tensor], exclude: Tensor, k: int, *, sample: bool, rounds: int = 7
) -> dict[str, Rate]:
    """Time both ways in turns on one batch, after a check that the greedy lists agree and one call each that is not counted.

    Args:
        histories: B tensors [n] int64 of symbols. exclude: [B, X] int64, filled with PAD. k: list length.

    Raises:
        RuntimeError: the two ways recommend different items.
    """

    def ours() -> Tensor:
        state = recommender.replay(histories)
        if sample:
            return recommender.sample(state, k, exclude=exclude).items
        return recommender.recommend(state, k, exclude=exclude).items

    def theirs() -> Tensor:
        return obvious(recommender.agent, histories, k, exclude, sample=sample, candidates=recommender.candidates)

    first, second = ours(), theirs()
    # Near-ties may change places between the two orders of summation.
    if not sample and float((first == second).double().mean()) < 0.999:
        raise RuntimeError("the recommender and PyTorch recommend different items")
    ways: dict[str, Callable[[], Tensor]] = {"irecgan_ext": ours, "PyTorch": theirs}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: _rate(len(histories), taken) for name, taken in seconds.items()}


def _rate(count: int, seconds: Sequence[float]) -> Rate:
    rates = sorted(count / taken for taken in seconds)
    low, middle, high = statistics.quantiles(rates, n=4) if len(rates) > 1 else rates * 3
    return Rate(middle, (low, high))

"""An exported program beside the Python model that it was made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from irecgan_ext.serving.recommender import Recommender
from irecgan_ext.types import BOS, END, PAD

_SIZES = ((1, 1, 1), (5, 9, 3), (16, 4, 7), (3, 40, 40))  # batch, history length, exclusions
_TOLERANCE = 1e-4  # of a log-probability, beside its size


class Unequal(RuntimeError):
    """An exported program answers otherwise than the model."""


def verify(
    recommender: Recommender, history: Callable[..., Any], step: Callable[..., Any], k: int, *, starts_from_item: bool
) -> float:
    """Run programs and model on random histories, empty ones and unknown items among them, of several shapes.

    Args:
        recommender: of the agent, without candidates. history, step: the programs, called as `programs` says.

    Returns:
        The largest difference of a log-probability.

    Raises:
        Unequal: a log-probability or a state differs by more than rounding, or an item has another log-probability.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch, length, shown in _SIZES:
        lengths = torch.randint(0, length + 1, (batch,), generator=generator)
        histories = torch.randint(recommender.items, (batch, length), generator=generator)
        histories[torch.rand(batch, length, generator=generator) < 0.1] = END
        if starts_from_item:
            histories[:, 0] = histories[:, 0].clamp(min=0)
        histories[torch.arange(length) >= lengths[:, None]] = PAD
        exclude = torch.randint(-1, recommender.items, (batch, shown), generator=generator)
        rows = [row[: int(n)] for row, n in zip(histories, lengths, strict=True)]
        symbols = [row if starts_from_item and len(row) else torch.cat([torch.tensor([BOS]), row]) for row in rows]
        state = recommender.replay(symbols)
        worst = max(worst, _compare(recommender, state, exclude, history(histories, exclude), k))
        clicks = torch.randint(recommender.items, (batch,), generator=generator)
        after = recommender.step(state, clicks)
        worst = max(worst, _compare(recommender, after, exclude, step(state, clicks, exclude), k))
    return worst


def _compare(recommender: Recommender, state: Tensor, exclude: Tensor, got: Any, k: int) -> float:
    items, log_probs, reached = got
    expected = recommender.recommend(state, k, exclude=exclude)
    # Near-ties may change places, so an item is judged by its own log-probability in the model.
    everything = recommender.recommend(state, recommender.items, exclude=exclude)
    table = torch.full((len(items), recommender.items + 1), -torch.inf)
    table.scatter_(1, torch.where(everything.items == PAD, recommender.items, everything.items), everything.log_probs)
    own = table.gather(1, torch.where(items == PAD, recommender.items, items))
    pairs = {
        "state": (reached, state),
        "log_probs": (log_probs, expected.log_probs),
        "items": (own, expected.log_probs),
    }
    for name, (one, other) in pairs.items():
        if one.shape != other.shape or not torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise Unequal(f"{name} of the exported program differ from the model's")
    finite = log_probs > -torch.inf
    return float((log_probs - expected.log_probs)[finite].abs().max()) if bool(finite.any()) else 0.0

"""The Plackett-Luce law: conditionals and marginals against enumeration of every ordered slate."""

from __future__ import annotations

import itertools

import pytest
import torch

from irecgan_ext.plackett_luce import log_conditionals, marginals
from irecgan_ext.types import PAD


def every_slate(items: int, size: int) -> torch.Tensor:
    return torch.tensor(list(itertools.permutations(range(items), size)))


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_marginals_are_the_sums_over_every_slate(spread: float) -> None:
    items, size = 6, 4
    logits = torch.randn(items, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * spread
    slates = every_slate(items, size)
    law = log_conditionals(logits.expand(len(slates), items), slates).sum(1).exp()
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    got = marginals(logits.expand(len(slates), items), slates)
    for place in range(size):
        expected = torch.zeros(items, dtype=torch.float64).index_add(0, slates[:, place], law)
        torch.testing.assert_close(got[:, place], expected[slates[:, place]], rtol=1e-8, atol=0)


def test_marginals_when_every_item_is_shown() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0])
    slates = every_slate(3, 3)
    law = log_conditionals(logits.double().expand(6, 3), slates).sum(1).exp()
    last = torch.zeros(3, dtype=torch.float64).index_add(0, slates[:, 2], law)
    torch.testing.assert_close(marginals(logits.expand(6, 3), slates)[:, 2], last[slates[:, 2]], rtol=1e-8, atol=0)


def test_filler_counts_for_nothing() -> None:
    logits = torch.randn(1, 7, generator=torch.Generator().manual_seed(2))
    short, filled = torch.tensor([[3, 0]]), torch.tensor([[3, 0, PAD, PAD]])
    torch.testing.assert_close(marginals(logits, filled)[:, :2], marginals(logits, short), rtol=1e-12, atol=0)
    assert marginals(logits, filled)[0, 2:].tolist() == [1, 1]
    assert log_conditionals(logits, filled)[0, 2:].tolist() == [0, 0]


def test_rows_are_apart() -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(3)) * 3
    slates = torch.rand(5, 9, generator=torch.Generator().manual_seed(4)).topk(3).indices
    alone = torch.cat([marginals(logits[[row]], slates[[row]]) for row in range(5)])
    torch.testing.assert_close(marginals(logits, slates), alone, rtol=1e-9, atol=0)

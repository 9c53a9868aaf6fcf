"""Exact laws and goodness-of-fit tests that several test modules share."""

import itertools
import math

import torch
from torch import Tensor


def chi_squared_p(counts: Tensor, probabilities: Tensor) -> float:
    """Upper tail of Pearson's statistic for counts [n] under probabilities [n]."""
    expected = probabilities.double() * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2).double(), statistic / 2).item()


def kolmogorov_p(u: Tensor) -> float:
    """Asymptotic p-value of the Kolmogorov-Smirnov test that u [n] is uniform on (0, 1)."""
    n = len(u)
    grid = torch.arange(n + 1, dtype=torch.float64) / n
    ordered = u.double().sort().values
    distance = max((grid[1:] - ordered).max().item(), (ordered - grid[:-1]).max().item())
    x = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    return min(1.0, max(0.0, 2 * sum((-1) ** (j - 1) * math.exp(-2 * (j * x) ** 2) for j in range(1, 101))))


def plackett_luce(logits: Tensor, k: int) -> tuple[list[tuple[int, ...]], Tensor]:
    """Every ordered draw of k items with a finite logit, and its exact probability."""
    weights = logits.double().exp()
    possible = [i for i in range(len(logits)) if weights[i] > 0]
    draws = list(itertools.permutations(possible, k))
    probabilities = []
    for order in draws:
        left, p = weights.clone(), 1.0
        for item in order:
            p *= (left[item] / left.sum()).item()
            left[item] = 0
        probabilities.append(p)
    return draws, torch.tensor(probabilities, dtype=torch.float64)


def count_draws(indices: Tensor, draws: list[tuple[int, ...]]) -> Tensor:
    """How often each of `draws` occurs among the rows of indices [R, k]; KeyError for a row that is none of them."""
    number = {order: n for n, order in enumerate(draws)}
    return torch.bincount(torch.tensor([number[tuple(i)] for i in indices.tolist()]), minlength=len(draws))


def likely_p(counts: Tensor, probabilities: Tensor) -> float:
    """`chi_squared_p` over the outcomes expected at least once; 0 if the others together occur more than five times."""
    likely = probabilities * counts.sum() >= 1
    if counts[~likely].sum() > 5:
        return 0.0
    return chi_squared_p(counts[likely], probabilities[likely] / probabilities[likely].sum())


def poisson_tail(count: int, mean: float) -> float:
    """Smaller one of P(X <= count) and P(X >= count), X Poisson(mean)."""
    rate = torch.tensor(mean).double()
    below = torch.special.gammaincc(torch.tensor(count + 1.0).double(), rate).item()
    above = torch.special.gammainc(torch.tensor(float(count)).double(), rate).item() if count else 1.0
    return min(below, above)

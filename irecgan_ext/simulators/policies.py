"""Recommendation policies that run in the simulator, many sessions at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from irecgan_ext import plackett_luce
from irecgan_ext.simulators.mdp import MDP
from irecgan_ext.types import Propensities


class Policy(ABC):
    """What `simulate` asks of a policy.

    `begin` is called once, then for every step `recommend` for the sessions still running and `observe` for those that
    go on. A policy that remembers keeps one row per session in its own buffers.

    Attributes:
        slate_size: K.
    """

    slate_size: int

    def begin(self, sessions: int, seed: int) -> None:
        """Forget everything and expect sessions 0..sessions-1.

        Args:
            sessions: B.
            seed: of the policy's own randomness; not the environment's.
        """
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def recommend(self, rows: Tensor, states: Tensor) -> Tensor:
        """Slates for the running sessions.

        Args:
            rows: [A] int64. Session indices.
            states: [A] int64. True user states, which only the policies that say so may look at.

        Returns:
            [A, K] int64, distinct items in each row.
        """

    def propensities(self, states: Tensor, slates: Tensor) -> Propensities | None:
        """Exact probabilities of `slates` under this policy; None where it cannot tell them.

        Args:
            states: [A] int64. True user states. slates: [A, K] int64. Slates of this step, of this policy or not.
        """
        return None

    def observe(self, rows: Tensor, slates: Tensor, clicks: Tensor) -> None:  # noqa: B027 (an optional hook)
        """Take note of the clicks of the sessions that go on.

        Args:
            rows: [A] int64. Session indices.
            slates: [A, K] int64. What was recommended.
            clicks: [A] int64. The items clicked.
        """


class RandomPolicy(Policy):
    """K items drawn uniformly without replacement, in random order."""

    def __init__(self, items: int, slate_size: int) -> None:
        self.items = items
        self.slate_size = check_slate_size(slate_size, items)

    def recommend(self, rows: Tensor, states: Tensor) -> Tensor:
        return _random_subsets(len(rows), self.items, self.slate_size, self.generator)

    def propensities(self, states: Tensor, slates: Tensor) -> Propensities:
        cascade = _subset_cascade(self.items, self.slate_size).expand(slates.shape)
        return Propensities(cascade[:, -1], torch.full(slates.shape, 1 / self.items, dtype=torch.float64), cascade)


class FixedPolicy(Policy):
    """The same slates for everyone: slate t at step t, the last one from then on.

    Args:
        slates: [L, K] int64, distinct items in each row; or [K] for one slate.
    """

    def __init__(self, slates: Tensor) -> None:
        slates = torch.atleast_2d(slates)
        if slates.dim() != 2 or 0 in slates.shape:
            raise ValueError(f"slates must have shape [L, K] or [K] with L, K >= 1, got {list(slates.shape)}")
        self.slates = slates
        self.slate_size = slates.shape[1]

    def begin(self, sessions: int, seed: int) -> None:
        super().begin(sessions, seed)
        self.steps = torch.zeros(sessions, dtype=torch.int64)

    def recommend(self, rows: Tensor, states: Tensor) -> Tensor:
        return self.slates[self.steps[rows].clamp(max=len(self.slates) - 1)]

    def observe(self, rows: Tensor, slates: Tensor, clicks: Tensor) -> None:
        self.steps[rows] += 1


class StatePolicy(Policy):
    """One slate per true user state; sees the state.

    Args:
        slates: [M, K] int64, distinct items in each row.
    """

    def __init__(self, slates: Tensor) -> None:
        if slates.dim() != 2 or 0 in slates.shape:
            raise ValueError(f"slates must have shape [M, K] with M, K >= 1, got {list(slates.shape)}")
        self.slates = slates
        self.slate_size = slates.shape[1]

    def recommend(self, rows: Tensor, states: Tensor) -> Tensor:
        return self.slates[states]

    def propensities(self, states: Tensor, slates: Tensor) -> Propensities:
        same = slates == self.slates[states]
        cascade = same.cumprod(1).double()
        return Propensities(cascade[:, -1], same.double(), cascade)


class MaxPolicy(StatePolicy):
    """The K items with the highest r(.|s), best first; sees the state."""

    def __init__(self, mdp: MDP, slate_size: int) -> None:
        super().__init__(mdp.ranking[:, : check_slate_size(slate_size, mdp.items)])


class MixPolicy(Policy):
    """At every step, with probability 1/2 the K best items under the state, otherwise K drawn uniformly without
    replacement from those ranked between the top 20% and 50% (ranks C/5 to C/2, rounded down); sees the state.

    Raises:
        ValueError: fewer than K items are ranked between the top 20% and 50%.
    """

    def __init__(self, mdp: MDP, slate_size: int) -> None:
        self.slate_size = check_slate_size(slate_size, mdp.items)
        self.best = mdp.ranking[:, :slate_size]
        self.middle = mdp.ranking[:, mdp.items // 5 : mdp.items // 2]
        if self.middle.shape[1] < slate_size:
            raise ValueError(
                f"slate_size must not exceed the items ranked between the top 20% and 50% "
                f"({self.middle.shape[1]} of C = {mdp.items}), got {slate_size}"
            )

    def recommend(self, rows: Tensor, states: Tensor) -> Tensor:
        subsets = _random_subsets(len(rows), self.middle.shape[1], self.slate_size, self.generator)
        best = torch.rand(len(rows), 1, generator=self.generator) < 0.5
        return torch.where(best, self.best[states], self.middle[states].gather(1, subsets))

    def propensities(self, states: Tensor, slates: Tensor) -> Propensities:
        best = slates == self.best[states]
        middle = (slates[:, :, None] == self.middle[states][:, None]).any(2)
        subsets = _subset_cascade(self.middle.shape[1], self.slate_size)
        cascade = (best.cumprod(1) + middle.cumprod(1) * subsets) / 2
        return Propensities(cascade[:, -1], (best.double() + middle.double() / self.middle.shape[1]) / 2, cascade)


class SoftmaxPolicy(Policy):
    """K draws without replacement (Plackett-Luce) from the softmax of r(.|s) / temperature; sees the state.

    Every slate has a chance, good ones a better one, so that its logs can tell the value of other policies.

    Args:
        temperature: positive; small ones come close to `MaxPolicy`, large ones to `RandomPolicy`.
    """

    def __init__(self, mdp: MDP, slate_size: int, temperature: float = 0.2) -> None:
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.slate_size = check_slate_size(slate_size, mdp.items)
        self.logits = mdp.rewards / temperature

    def recommend(self, rows: Tensor, states: Tensor) -> Tensor:
        # The race of exponential arrivals; 1 - u is never 0, and float64 leaves its tail fine enough for a catalogue.
        uniforms = torch.rand(len(rows), self.logits.shape[1], generator=self.generator, dtype=torch.float64)
        arrivals = (-torch.log1p(-uniforms)).log() - self.logits[states]
        return arrivals.topk(self.slate_size, dim=1, largest=False).indices

    def propensities(self, states: Tensor, slates: Tensor) -> Propensities:
        logits = self.logits[states]
        cascade = plackett_luce.log_conditionals(logits, slates).cumsum(1).exp()
        return Propensities(cascade[:, -1], plackett_luce.marginals(logits, slates), cascade)


def make_policy(name: str, mdp: MDP, slate_size: int, temperature: float = 0.2) -> Policy | None:
    """The logging policy `name` (random, max, mix or softmax, whose `temperature` it is); None for another name."""
    if name == "random":
        return RandomPolicy(mdp.items, slate_size)
    if name == "softmax":
        return SoftmaxPolicy(mdp, slate_size, temperature)
    if name in ("max", "mix"):
        return {"max": MaxPolicy, "mix": MixPolicy}[name](mdp, slate_size)
    return None


def check_slate_size(slate_size: int, items: int) -> int:
    """`slate_size` itself, or a ValueError if it is not in 1..C."""
    if not 1 <= slate_size <= items:
        raise ValueError(f"slate_size must be in 1..C (C = {items}), got {slate_size}")
    return slate_size


def _random_subsets(rows: int, items: int, size: int, generator: torch.Generator) -> Tensor:
    """[rows, size] int64: ordered uniform draws without replacement from 0..items-1."""
    # float64: ties among float32 uniforms would favour some items.
    return torch.rand(rows, items, generator=generator, dtype=torch.float64).topk(size, dim=1).indices


def _subset_cascade(items: int, size: int) -> Tensor:
    """[K] float64: probability of the first k of an ordered uniform draw without replacement."""
    return (1 / torch.arange(items, items - size, -1, dtype=torch.float64)).cumprod(0)

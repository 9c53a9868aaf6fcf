"""The one type that simulators, log readers, models, losses and metrics exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

PAD = -1  # no item: filler of short slates and of steps after a session's end
END = -2  # the user leaves instead of clicking
BOS = -3  # a session begins


def symbol_index(symbols: Tensor, items: int) -> Tensor:
    """Row of an embedding table of `items + 2` rows for each symbol.

    Args:
        symbols: int64, any shape; item ids 0..C-1, `END`, `BOS` or `PAD`.
        items: C.

    Returns:
        int64, same shape: item i -> i, END -> C, BOS -> C + 1. PAD -> C; the caller masks it.
    """
    index = torch.where(symbols == BOS, items + 1, symbols)
    return torch.where((symbols == END) | (symbols == PAD), items, index)


@dataclass(frozen=True)
class Trajectories:
    """A batch of sessions, logged or generated.

    Attributes:
        start: [B] int64. Symbol the session starts from: `BOS`, or the first clicked item where the log shows no slate for it.
        slates: [B, T, K] int64. Recommended lists a_t in order; `PAD` fills short lists and steps after the end.
        clicks: [B, T] int64. c_t: an item of the slate or `END`; `PAD` after the end.
        rewards: [B, T] float32. r_t; 0 after the end.
        lengths: [B] int64. Steps that count. The last one is the END step unless the session is censored.
        censored: [B] bool. The session was cut before an END was seen.
        states: [B, T] int64 or None. True simulator state of each step (simulated data only); `PAD` after the end.
    """

    start: Tensor
    slates: Tensor
    clicks: Tensor
    rewards: Tensor
    lengths: Tensor
    censored: Tensor
    states: Tensor | None = None

    def __len__(self) -> int:
        return self.start.shape[0]

    @property
    def horizon(self) -> int:
        """T, the longest session of the batch."""
        return self.clicks.shape[1]

    @property
    def slate_size(self) -> int:
        """K, the longest slate of the batch."""
        return self.slates.shape[2]

    def step_mask(self) -> Tensor:
        """[B, T] bool: the steps that count, the END step included."""
        return torch.arange(self.horizon, device=self.lengths.device) < self.lengths[:, None]

    def click_mask(self) -> Tensor:
        """[B, T] bool: the counted steps on which an item was clicked."""
        return self.step_mask() & (self.clicks >= 0)

    def inputs(self) -> Tensor:
        """[B, T] int64: what a recurrent state has consumed at step t: start, c_0, ..., c_{t-1}."""
        return torch.cat([self.start[:, None], self.clicks[:, :-1]], dim=1)

    def returns(self) -> Tensor:
        """[B] float32: undiscounted sum of rewards of each session."""
        return (self.rewards * self.step_mask()).sum(1)

    def select(self, index: Tensor) -> Trajectories:
        """Sessions `index` ([n] int64 or [B] bool), trimmed to the longest of them."""
        lengths = self.lengths[index]
        horizon = int(lengths.max()) if lengths.numel() else 0
        return Trajectories(
            start=self.start[index],
            slates=self.slates[index][:, :horizon],
            clicks=self.clicks[index][:, :horizon],
            rewards=self.rewards[index][:, :horizon],
            lengths=lengths,
            censored=self.censored[index],
            states=None if self.states is None else self.states[index][:, :horizon],
        )

    def to(self, device: torch.device | str) -> Trajectories:
        """The same batch on `device`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: None if value is None else value.to(device) for name, value in values.items()}
        return Trajectories(**moved)

    @staticmethod
    def cat(parts: Sequence[Trajectories]) -> Trajectories:
        """Batches one after the other, padded to the longest session and slate. States survive only if every part has them."""
        if not parts:
            raise ValueError("parts must hold at least one batch, got 0")
        horizon = max(p.horizon for p in parts)
        width = max(p.slate_size for p in parts)

        def widen(x: Tensor, value: float, slate: int = 0) -> Tensor:
            steps = horizon - x.shape[1]
            pad = (0, slate, 0, steps) if x.dim() == 3 else (0, steps)
            return torch.nn.functional.pad(x, pad, value=value)

        states = [p.states for p in parts if p.states is not None]
        return Trajectories(
            start=torch.cat([p.start for p in parts]),
            slates=torch.cat([widen(p.slates, PAD, width - p.slate_size) for p in parts]),
            clicks=torch.cat([widen(p.clicks, PAD) for p in parts]),
            rewards=torch.cat([widen(p.rewards, 0) for p in parts]),
            lengths=torch.cat([p.lengths for p in parts]),
            censored=torch.cat([p.censored for p in parts]),
            states=torch.cat([widen(s, PAD) for s in states]) if len(states) == len(parts) else None,
        )

    def validate(self, items: int) -> None:
        """Raise ValueError, naming field, rule, session and step, if the batch breaks a rule of this class.

        Args:
            items: C; item ids must lie in 0..C-1.
        """
        batch, horizon = self.clicks.shape
        expected = {
            "start": (batch,),
            "slates": (batch, horizon, self.slate_size),
            "rewards": (batch, horizon),
            "lengths": (batch,),
            "censored": (batch,),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(getattr(self, name).shape)}")
        mask = self.step_mask()
        is_item = (self.slates >= 0) & (self.slates < items)
        in_slate = (self.slates == self.clicks[..., None]).any(-1)
        ends = self.clicks == END
        last = torch.arange(horizon, device=mask.device) == self.lengths[:, None] - 1
        rules = [
            ("lengths", f"must be in 1..T (T = {horizon})", ((self.lengths < 1) | (self.lengths > horizon))[:, None]),
            (
                "start",
                "must be BOS or an item",
                ~((self.start == BOS) | ((self.start >= 0) & (self.start < items)))[:, None],
            ),
            ("slates", f"must hold items 0..{items - 1} or PAD", (~is_item & (self.slates != PAD)).any(-1) & mask),
            ("slates", "must hold at least one item", ~is_item.any(-1) & mask),
            ("clicks", "must be an item of the slate or END", ~(ends | (in_slate & (self.clicks >= 0))) & mask),
            ("clicks", "must be END only on the last step", ends & mask & ~last),
            ("censored", "must be the sessions without an END step", ((ends & mask).any(1) == self.censored)[:, None]),
            ("rewards", "must be finite", ~self.rewards.isfinite() & mask),
        ]
        for name, rule, bad in rules:
            if bool(bad.any()):
                session, step = (int(x) for x in bad.nonzero()[0])
                raise ValueError(f"{name} {rule}: session {session}, step {step}")


@dataclass(frozen=True)
class Propensities:
    """How probable the logging policy made each slate of a batch, with all that it saw; names as in Open Bandit Pipeline.

    Steps after the end and `PAD` entries of a slate hold 1. R stands for [B, T], or for the [A] sessions of one step.

    Attributes:
        pscore: [R] float64. P(a_1..a_K), the ordered slate.
        pscore_item_position: [R, K] float64 or None. P(a_k at place k), whatever the other places hold.
        pscore_cascade: [R, K] float64 or None. P(a_1..a_k), the first k places.
    """

    pscore: Tensor
    pscore_item_position: Tensor | None = None
    pscore_cascade: Tensor | None = None

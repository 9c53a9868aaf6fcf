"""Histories of items to the symbols that an agent's state consumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from irecgan_ext.types import BOS, END, PAD

Unknown = Literal["hide", "drop"]
T = TypeVar("T")


@dataclass
class Count:
    """What was met so far.

    Attributes:
        histories: read. unknown: items that are not in the catalogue. affected: histories with such an item.
    """

    histories: int = 0
    unknown: int = 0
    affected: int = 0


class Reader(Generic[T]):
    """Turns histories into symbols and counts the items that the agent does not know.

    Args:
        inside: the item 0..C-1 of an id, None where there is none.
        starts_from_item: sessions start from their first click, as those that the agent learnt from do, not from `BOS`.
        unknown: "hide" reads an item that is not in the catalogue as a click on something unknown (END's embedding, which
            history dropout trains), "drop" leaves it out.
    """

    def __init__(self, inside: Callable[[T], int | None], *, starts_from_item: bool, unknown: Unknown) -> None:
        self.inside = inside
        self.starts_from_item = starts_from_item
        self.unknown = unknown
        self.count = Count()

    def read(self, histories: Sequence[Sequence[T]]) -> tuple[list[Tensor], Tensor]:
        """Symbols of each history, B tensors [n] int64 with n >= 1, and its known items [B, X] int64, filled with PAD."""
        symbols, seen = [], []
        for history in histories:
            items = [self.inside(item) for item in history]
            known = [item for item in items if item is not None]
            missing = len(items) - len(known)
            self.count.histories += 1
            self.count.unknown += missing
            self.count.affected += missing > 0
            inputs = known if self.unknown == "drop" else [END if item is None else item for item in items]
            if not (self.starts_from_item and inputs and inputs[0] != END):
                inputs = [BOS, *inputs]
            symbols.append(torch.tensor(inputs))
            seen.append(torch.tensor(known, dtype=torch.int64))
        shown = (
            torch.nn.utils.rnn.pad_sequence(seen, batch_first=True, padding_value=PAD) if seen else torch.empty(0, 0)
        )
        return symbols, shown.long()

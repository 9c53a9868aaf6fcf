"""Item ids of the outside world to items 0..C-1 and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from irecgan_ext.data.histories import Item, LogItem
from irecgan_ext.data.packed_log import ITEMS_FILE, read_catalogue
from irecgan_ext.errors import LogError


class ItemIds:
    """The ids that users of a catalogue know its items by.

    Args:
        items: C.
        catalogue: [C] id of each item, as text; None where the ids are 0..C-1 themselves.

    Raises:
        LogError: the catalogue has another number of items.
    """

    def __init__(self, items: int, catalogue: Sequence[str] | None = None) -> None:
        if catalogue is not None and len(catalogue) != items:
            raise LogError(f"{ITEMS_FILE} has {len(catalogue)} items, the agent was trained on {items}")
        self.items = items
        self.outside: Sequence[Item] | None = catalogue
        if catalogue is not None and all(key.isdecimal() and str(int(key)) == key for key in catalogue):
            self.outside = [int(key) for key in catalogue]  # numbers in the raw log go out as numbers
        self._inside = None if catalogue is None else {key: item for item, key in enumerate(catalogue)}

    def inside(self, outside: Item) -> int | None:
        """The item 0..C-1 that is called `outside`, or that a session log names; None where there is none."""
        if self._inside is not None and not isinstance(outside, LogItem):
            return self._inside.get(str(outside))
        if isinstance(outside, str):
            if not outside.isdecimal():
                return None
            outside = int(outside)
        return int(outside) if 0 <= outside < self.items else None

    def check_same(self, directory: Path) -> None:
        """Raise LogError unless the items of a prepared log, which number its sessions' clicks, are these."""
        mine = range(self.items) if self.outside is None else self.outside
        for item, (own, theirs) in enumerate(zip(mine, read_catalogue(directory))):
            if str(own) != theirs:
                raise LogError(f"{directory}: item {item} is {theirs}, the agent's is {own}: another catalogue")

    def out(self, items: Iterable[int]) -> list[Item]:
        """What `items` 0..C-1 are called."""
        return list(items) if self.outside is None else [self.outside[item] for item in items]


def read_item_ids(items: int, directories: Iterable[Path]) -> ItemIds:
    """The map of ids that the first of `directories` with one holds (a file items.parquet); without one the ids are 0..C-1.

    Raises:
        LogError: the map is damaged, or of another catalogue.
    """
    for directory in directories:
        if (directory / ITEMS_FILE).is_file():
            return ItemIds(items, read_catalogue(directory))
    return ItemIds(items)


def read_candidates(path: Path, ids: ItemIds) -> tuple[list[int], int]:
    """Items of a text file with one id per line, and how many of its ids are not in the catalogue.

    Raises:
        LogError: the file cannot be read, or names no item of the catalogue.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise LogError(f"{path}: must be UTF-8 text with one item per line") from error
    named = [line.strip() for line in lines if line.strip()]
    found = [item for item in map(ids.inside, named) if item is not None]
    if not found:
        raise LogError(f"{path}: none of its {len(named)} lines names an item of the catalogue (C = {ids.items})")
    return sorted(set(found)), len(named) - len(found)

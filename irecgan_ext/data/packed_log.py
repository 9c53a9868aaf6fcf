"""Reading a prepared log without padding it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from irecgan_ext.data.report import SPLITS
from irecgan_ext.data.rows import positions
from irecgan_ext.data.sessions import read_checked
from irecgan_ext.data.storage import read_table
from irecgan_ext.errors import LogError
from irecgan_ext.files import atomic_write
from irecgan_ext.packed import PackedSessions
from irecgan_ext.types import END

ITEMS_FILE = "items.parquet"
SESSIONS_FILE = "sessions.parquet"
REPORT_FILE = "report.json"


def split_file(name: str) -> str:
    """The session file of split `name`."""
    return f"{name}.parquet"


def is_prepared(path: str | Path) -> bool:
    """Whether `path` is a directory that `irecgan_ext.prepare` wrote."""
    return (Path(path) / ITEMS_FILE).is_file() and (Path(path) / split_file("train")).is_file()


def is_split(path: str | Path) -> bool:
    """Whether `path` is a session file of such a directory."""
    return Path(path).name in map(split_file, SPLITS) and is_prepared(Path(path).parent)


@dataclass(frozen=True)
class PackedLog:
    """A session file.

    Attributes:
        sessions: in ascending order of the file's ids.
        items: C.
        metadata: what the writer noted.
        positions: [S] int64, the place of each click in the list as it was shown, PAD on END steps; None where not known.
    """

    sessions: PackedSessions
    items: int
    metadata: dict[str, Any]
    positions: Tensor | None


def read_packed(path: Path, items: int | None = None) -> PackedLog:
    """Read a session file as `sessions.read_sessions` does, with its checks, and without padding.

    Raises:
        LogError: one line naming the file, the row and what is wrong.
    """
    rows, order, items, metadata = read_checked(path, str(path), items)
    first, _ = positions(rows.session[order])
    width = rows.width[order]
    place = np.arange(int(width.sum())) - np.repeat(np.cumsum(width) - width, width)
    values = rows.slate[np.repeat(rows.begin()[order], width) + place]
    last = order[np.append(first[1:], True)]
    sessions = PackedSessions(
        start=torch.from_numpy(rows.start[order][first]),
        lengths=torch.from_numpy(np.bincount(np.cumsum(first) - 1)),
        censored=torch.from_numpy(rows.click[last] != END),
        clicks=torch.from_numpy(rows.click[order]),
        rewards=torch.from_numpy(rows.reward[order]),
        widths=torch.from_numpy(width),
        items=torch.from_numpy(values.astype(np.int32)),
        slate_size=int(width.max()),
    )
    shown = None if rows.position is None else torch.from_numpy(rows.position[order])
    return PackedLog(sessions, items, metadata, shown)


@dataclass(frozen=True)
class PreparedLog:
    """A prepared directory, read.

    Attributes:
        train, valid, test: the splits.
        catalogue: [C] the raw log's id of each item, as text.
        directory: where it was read from.
    """

    train: PackedLog
    valid: PackedLog
    test: PackedLog
    catalogue: tuple[str, ...]
    directory: Path

    @property
    def items(self) -> int:
        """C."""
        return len(self.catalogue)

    def check_catalogue(self, other: tuple[str, ...], whose: str) -> None:
        """Raise LogError unless `other`, the catalogue of `whose`, is this one."""
        if len(other) != self.items:
            raise LogError(f"{whose} has {len(other)} items, the data {self.items}: they must have the same catalogue")
        for item, (mine, theirs) in enumerate(zip(self.catalogue, other)):
            if mine != theirs:
                raise LogError(
                    f"{whose} has {theirs} as item {item}, the data {mine}: they must have the same catalogue"
                )


def read_catalogue(directory: Path) -> tuple[str, ...]:
    """The raw log's id of each item 0..C-1, as text.

    Raises:
        LogError: the map of items is missing or damaged.
    """
    path = directory / ITEMS_FILE
    table = read_table(path, str(path))
    for column in ("item", "id"):
        if column not in table.column_names:
            raise LogError(f"{path}: column {column} is missing")
    if table["item"].to_pylist() != list(range(len(table))):
        raise LogError(f"{path}: column item must be 0, 1, 2, ...")
    return tuple(pc.cast(table["id"], "string").to_pylist())


def read_prepared(directory: Path) -> PreparedLog:
    """Read the directory that `irecgan_ext.prepare` wrote.

    Raises:
        LogError: a file is missing or damaged, or the files do not belong together.
    """
    catalogue = read_catalogue(directory)
    splits = {name: read_packed(directory / split_file(name)) for name in ("train", "valid", "test")}
    for name, log in splits.items():
        if log.items != len(catalogue):
            path = directory / split_file(name)
            raise LogError(f"{path}: must have the {len(catalogue)} items of {ITEMS_FILE}, got {log.items}")
    return PreparedLog(splits["train"], splits["valid"], splits["test"], catalogue, directory)


def copy_prepared(source: Path, target: Path) -> None:
    """Copy the files of a prepared directory into a new directory `target`, each whole or not at all.

    Raises:
        OSError: a file cannot be read or written.
    """
    target.mkdir(parents=True, exist_ok=True)
    splits = [
        split_file(name) for name in ("test", "valid", "train")
    ]  # train last: it makes the directory a prepared one
    for name in (REPORT_FILE, SESSIONS_FILE, ITEMS_FILE, *splits):
        if (source / name).exists():
            with atomic_write(target / name) as stream, open(source / name, "rb") as original:
                shutil.copyfileobj(original, stream)

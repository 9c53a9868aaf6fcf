"""Session logs as Parquet files, one row per step.

| column    | type        | meaning                                                                        |
|-----------|-------------|--------------------------------------------------------------------------------|
| `session` | int64       | any id; the rows of a session need not be adjacent                              |
| `step`    | int64       | 0, 1, ... without a gap within the session                                      |
| `slate`   | list<int64> | recommended items in order, distinct, at least one                              |
| `click`   | int64       | an item of the slate, or null: the user left (only on a session's last step)    |
| `reward`  | float32     | finite                                                                          |
| `state`   | int64       | optional: the simulator's true state                                            |
| `start`   | int64       | optional: the item a session starts from, or null; the same on every row of it  |
| `position`| int64       | optional: the place 0, 1, ... of the click in the list as it was shown, where    |
|           |             | `slate` has another order (a shuffled list); null on the END step                |

Columns with the probability of each slate under the logging policy may stand beside them: see `data.propensities`.
A session whose last click is not null was cut before its end (censored). Narrower integers, float64 rewards and the
other list types are accepted. The file's metadata key `irecgan_ext` holds JSON: `schema_version`, `items`,
`slate_size` and the free `metadata`; a file without it is read with `items` = the largest id + 1. Version 2 of the schema
added `position`; files of version 1 are read.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from irecgan_ext.data.authors import read_authors_log
from irecgan_ext.data.propensities import propensity_columns
from irecgan_ext.data.rows import Ints, Rows, check_rows, check_sessions, positions, read_rows
from irecgan_ext.data.storage import header, read_header, read_table
from irecgan_ext.errors import LogError
from irecgan_ext.files import atomic_write, reason
from irecgan_ext.types import BOS, END, PAD, Propensities, Trajectories

__all__ = ["LogError", "SessionLog", "load_log", "read_sessions", "write_sessions"]

MAX_ITEMS = 2**30  # what the sampler takes


@dataclass(frozen=True)
class SessionLog:
    """A log as read from a file.

    Attributes:
        trajectories: the sessions in ascending order of their ids.
        items: C.
        metadata: what the writer noted: policy, seed, ...
        session_ids: [B] int64, the file's id of each session; None where it has none (file order).
    """

    trajectories: Trajectories
    items: int
    metadata: dict[str, Any] = field(default_factory=dict)
    session_ids: Tensor | None = None


def load_log(path: str | Path, *, items: int | None = None) -> SessionLog:
    """Read a log in any of the formats known: the authors' text if the suffix is `.txt`, Parquet otherwise.

    The authors' text lacks the step on which each user left; it is put back as `read_authors_log` says, with one fixed seed.

    Args:
        path: file name; `-` reads Parquet from standard input.
        items: C. Default: what the file declares, or else its largest item id + 1.

    Raises:
        LogError: one line naming the file, the row and what is wrong.
    """
    if Path(path).suffix != ".txt":
        return read_sessions(path, items=items)
    trajectories = read_authors_log(path, ends=torch.Generator().manual_seed(0))
    largest = int(max(trajectories.slates.max(), trajectories.start.max()))
    if items is not None and largest >= items:
        raise LogError(f"{path}: items must be in 0..C-1 (C = {items}), got {largest}")
    return SessionLog(trajectories, largest + 1 if items is None else items)


def read_sessions(path: str | Path, *, items: int | None = None) -> SessionLog:
    """Read a Parquet log.

    Args:
        path: file name, or `-` for standard input.
        items: C. Default: what the file declares, or else its largest item id + 1.

    Returns:
        The sessions in ascending order of session id, padded to the longest session and slate.

    Raises:
        LogError: one line, `FILE: row 17: click 12 is not in its slate`. Rows count from 0 in the file's order.
    """
    if items is not None and items < 1:
        raise ValueError(f"items must be at least 1, got {items}")
    name = "standard input" if str(path) == "-" else str(path)
    try:
        rows, order, items, metadata = read_checked(path, name, items)
        return SessionLog(_assemble(rows, order), items, metadata, torch.from_numpy(np.unique(rows.session)))
    except MemoryError as error:
        raise LogError(f"{name}: too large, once padded to the longest session and slate: {reason(error)}") from error


def read_checked(path: str | Path, name: str, items: int | None = None) -> tuple[Rows, Ints, int, dict[str, Any]]:
    """The rows of a Parquet log that keeps every rule, the order [R] that sorts them by session and step, C, and metadata.

    Raises:
        LogError: see `read_sessions`; `name` stands for the file.
    """
    table = read_table(path, name)
    declared, metadata = read_header(table.schema, name)
    rows = read_rows(table, name)
    if items is None:
        items = rows.largest_item() + 1 if declared is None else declared["items"]
    if items > MAX_ITEMS:
        raise LogError(f"{name}: item ids must be below {MAX_ITEMS}, got {items - 1}; number the items 0, 1, 2, ...")
    check_rows(rows, name, items, int(rows.width.max()) if declared is None else declared["slate_size"])
    order = np.lexsort((rows.step, rows.session))
    check_sessions(rows, order, name)
    return rows, order, items, metadata


def write_sessions(
    path: str | Path,
    trajectories: Trajectories,
    items: int,
    metadata: Mapping[str, Any] | None = None,
    propensities: Propensities | None = None,
) -> None:
    """Write a Parquet log with session ids 0..B-1 that `read_sessions` reads back. It appears whole or not at all.

    Args:
        path: file name, or `-` for standard output.
        trajectories: at least one session.
        items: C.
        metadata: JSON-able notes: policy, seed, ...
        propensities: how probable the logging policy made each slate, [B, T] and [B, T, K]; see `data.propensities`.

    Raises:
        ValueError: the sessions break a rule of `Trajectories`, or `metadata` holds NaN or infinity.
        LogError: a slate repeats an item, a state is negative, or the file cannot be written.
    """
    trajectories = trajectories.to("cpu")
    trajectories.validate(items)
    name = "standard output" if str(path) == "-" else str(path)
    rows = _flatten(trajectories)
    check_rows(rows, name, items, trajectories.slate_size)
    table = rows_table(rows)
    for column, values in propensity_columns(propensities, trajectories).items() if propensities is not None else ():
        table = table.append_column(column, values)
    table = table.replace_schema_metadata(header(items, trajectories.slate_size, metadata))
    try:
        if str(path) == "-":
            buffer = io.BytesIO()
            pq.write_table(table, buffer, write_page_checksum=True)
            sys.stdout.buffer.write(buffer.getbuffer())
            sys.stdout.buffer.flush()
        else:
            with atomic_write(path) as stream:
                pq.write_table(table, stream, write_page_checksum=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LogError(f"{name}: cannot write: {reason(error)}") from error


def _assemble(rows: Rows, order: Ints) -> Trajectories:
    """Rows, sorted by `order`, padded to [B, T]."""
    first, position = positions(rows.session[order])
    batch = np.cumsum(first) - 1
    lengths = np.bincount(batch)
    shape = (len(lengths), int(lengths.max()))

    def spread(values: NDArray[Any], fill: float) -> Tensor:
        padded = np.full(shape + values.shape[1:], fill, dtype=values.dtype)
        padded[batch, position] = values[order]
        return torch.from_numpy(padded)

    last = order[np.append(first[1:], True)]
    return Trajectories(
        start=torch.from_numpy(rows.start[order][first]),
        slates=spread(rows.padded(), PAD),
        clicks=spread(rows.click, PAD),
        rewards=spread(rows.reward, 0),
        lengths=torch.from_numpy(lengths),
        censored=torch.from_numpy(rows.click[last] != END),
        states=None if rows.state is None else spread(rows.state, PAD),
    )


def _flatten(trajectories: Trajectories) -> Rows:
    """Steps that count, as rows in session order; the filler of each slate moves to its end."""
    mask = trajectories.step_mask().numpy()
    session, step = np.nonzero(mask)
    slate = trajectories.slates.numpy()[mask]
    slate = np.take_along_axis(slate, np.argsort(slate == PAD, axis=1, kind="stable"), axis=1)
    states = trajectories.states
    return Rows(
        session=session.astype(np.int64),
        step=step.astype(np.int64),
        slate=slate[slate != PAD],
        width=(slate != PAD).sum(1),
        click=trajectories.clicks.numpy()[mask],
        reward=trajectories.rewards.numpy()[mask],
        state=None if states is None else states.numpy()[mask],
        start=trajectories.start.numpy()[session],
    )


def rows_table(rows: Rows) -> pa.Table:
    """The columns of a log as they are stored; a slate is a list of int64, and nulls stand for END and BOS."""
    offsets = np.append(0, np.cumsum(rows.width))
    large = offsets[-1] > np.iinfo(np.int32).max
    array, offset = (pa.LargeListArray, np.int64) if large else (pa.ListArray, np.int32)
    columns: dict[str, pa.Array] = {
        "session": pa.array(rows.session),
        "step": pa.array(rows.step),
        "slate": array.from_arrays(pa.array(offsets.astype(offset)), pa.array(rows.slate)),
        "click": pa.array(rows.click, mask=rows.click == END),
        "reward": pa.array(rows.reward, type=pa.float32()),
    }
    if rows.state is not None:
        columns["state"] = pa.array(rows.state)
    if (rows.start != BOS).any():
        columns["start"] = pa.array(rows.start, mask=rows.start == BOS)
    if rows.position is not None:
        columns["position"] = pa.array(rows.position, mask=rows.position == PAD)
    return pa.table(columns)

"""The columns of a session log that say how probable the logging policy made each slate; names as in Open Bandit Pipeline.

| column                 | type          | meaning, each in (0, 1]                                                         |
|------------------------|---------------|---------------------------------------------------------------------------------|
| `pscore`               | float64       | probability of the whole slate, in order, given all that the logging policy saw |
| `pscore_item_position` | list<float64> | optional: of the item at each place, whatever the other places hold             |
| `pscore_cascade`       | list<float64> | optional: of the first 1, 2, ... places together; the last one is `pscore`      |

They stand beside the columns of `sessions`, one row per step; the lists are as long as the row's slate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from irecgan_ext.data.rows import PROPENSITIES, Ints
from irecgan_ext.data.storage import read_table
from irecgan_ext.errors import LogError
from irecgan_ext.types import PAD, Propensities, Trajectories

Floats = NDArray[np.float64]


def read_propensities(path: str | Path, sessions: Trajectories) -> Propensities | None:
    """The propensities of a Parquet log, in the order of the sessions that `read_sessions` made of it.

    Args:
        path: the file.
        sessions: what `read_sessions(path)` returned.

    Returns:
        [B, T] and [B, T, K] tensors; None if the file has no column `pscore`.

    Raises:
        LogError: a value is null or not in (0, 1], a list is not as long as its slate, or `pscore` is not the last of
            `pscore_cascade`.
    """
    table = read_table(path, str(path))
    found = [column for column in PROPENSITIES if column in table.column_names]
    if "pscore" not in found:
        return None
    order = np.lexsort((table["step"].to_numpy(), table["session"].to_numpy()))
    mask = sessions.step_mask()
    width = (sessions.slates[mask] != PAD).sum(1).numpy()  # of the rows in the order of sessions and steps
    columns: dict[str, Tensor] = {}
    for column in found:
        values = _floats(table[column], column, str(path), np.argsort(order, kind="stable"), width)[order]
        shape = (*mask.shape, *values.shape[1:])
        columns[column] = torch.ones(shape, dtype=torch.float64)
        columns[column][mask] = torch.from_numpy(values)
    told = Propensities(**columns)
    if told.pscore_cascade is not None:
        last = told.pscore_cascade[mask][torch.arange(len(width)), torch.from_numpy(width) - 1].numpy()
        bad = np.abs(last / told.pscore[mask].numpy() - 1) > 1e-6
        _reject(bad[np.argsort(order, kind="stable")], str(path), "the last of pscore_cascade must be pscore")
    return told


def propensity_columns(propensities: Propensities, sessions: Trajectories) -> dict[str, pa.Array]:
    """The columns of `propensities`, [B, T] and [B, T, K], for the rows of `sessions` that `write_sessions` writes.

    Raises:
        LogError: a propensity of a counted step is not in (0, 1].
    """
    mask = sessions.step_mask().numpy()
    slate = sessions.slates.numpy()[mask]
    filler = slate == PAD
    place = np.argsort(filler, axis=1, kind="stable")  # as the slate's own filler moves to the end
    shown = ~np.take_along_axis(filler, place, axis=1)
    offsets = np.append(0, np.cumsum(shown.sum(1))).astype(np.int64)
    columns: dict[str, pa.Array] = {}
    for column in PROPENSITIES:
        value = getattr(propensities, column)
        if value is None:
            continue
        values = value.numpy()[mask]
        if values.ndim == 2:
            values = np.take_along_axis(values, place, axis=1)[shown]
            columns[column] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
        else:
            columns[column] = pa.array(values)
        row = np.repeat(np.arange(len(slate)), shown.sum(1)) if value.dim() == 3 else np.arange(len(slate))
        _check_range(values, row, column, "log to write")
    return columns


def _floats(values: pa.ChunkedArray, column: str, name: str, rank: Ints, width: Ints) -> Floats:
    """[R] or [R, K] values of a column in the file's order, lists filled with 1.

    Args:
        rank: [R], place of each row in the order of sessions and steps. width: [R], slate sizes in that order.
    """
    if column == "pscore":
        flat, row = values, np.arange(len(values))
    else:
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
            raise LogError(f"{name}: column {column} must be list<float64>, got {values.type}")
        size = pc.fill_null(pc.list_value_length(values), -1).to_numpy()
        wrong = size != width[rank]
        _reject(wrong, name, f"{column} must be as long as the slate")
        flat, row = pc.list_flatten(values), np.repeat(np.arange(len(values)), size)
    if not pa.types.is_floating(flat.type):
        raise LogError(f"{name}: column {column} must hold float64, got {flat.type}")
    numbers = flat.cast(pa.float64()).to_numpy()
    _check_range(numbers, row, column, name)
    if column == "pscore":
        return numbers
    padded = np.ones((len(values), int(width.max())))
    padded[np.arange(padded.shape[1]) < width[rank][:, None]] = numbers
    return padded


def _check_range(values: Floats, row: Ints, column: str, name: str) -> None:
    """Raise `LogError` unless every one of `values` [S], each of `row` [S], is in (0, 1] (NaN stands for null)."""
    wrong = ~((values > 0) & (values <= 1 + 1e-9))
    if wrong.any():
        place = int(wrong.argmax())
        raise LogError(f"{name}: row {row[place]}: {column} must be in (0, 1], got {values[place]:g}")


def _reject(bad: NDArray[np.bool_], name: str, problem: str) -> None:
    if bad.any():
        raise LogError(f"{name}: row {int(bad.argmax())}: {problem}")

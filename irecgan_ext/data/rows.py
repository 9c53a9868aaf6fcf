"""The columns of a session log, and the rules they must keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from irecgan_ext.errors import LogError
from irecgan_ext.files import reason
from irecgan_ext.types import BOS, END, PAD

REQUIRED = ("session", "step", "slate", "click", "reward")
OPTIONAL = ("state", "start", "position")
PROPENSITIES = ("pscore", "pscore_item_position", "pscore_cascade")  # optional too; `data.propensities` reads them
NULLABLE = ("click", "start", "position")  # null stands for END, BOS and no click

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """The columns of a log, one entry per row in the file's order. R rows, S items in all slates together."""

    session: Ints  # [R]
    step: Ints  # [R]
    slate: Ints  # [S], the items of row 0's slate, of row 1's, ...
    width: Ints  # [R], items of each slate
    click: Ints  # [R], END for null
    reward: NDArray[np.float32]  # [R]
    state: Ints | None  # [R]
    start: Ints  # [R], BOS for null
    position: Ints | None = None  # [R], place of the click in the list as it was shown; PAD for null

    def largest_item(self) -> int:
        """The largest id among slates and starts (clicks are in slates)."""
        return int(max(self.slate.max(), self.start.max()))

    def row(self) -> Ints:
        """[S]: the row of each slate item."""
        return np.repeat(np.arange(len(self.width)), self.width)

    def begin(self) -> Ints:
        """[R]: where each row's slate begins in `slate`."""
        return np.cumsum(self.width) - self.width

    def padded(self) -> Ints:
        """[R, K]: the slates, K the longest, filled with PAD."""
        slate = np.full((len(self.width), int(self.width.max())), PAD, dtype=np.int64)
        slate[np.arange(slate.shape[1]) < self.width[:, None]] = self.slate
        return slate


def read_rows(table: pa.Table, name: str) -> Rows:
    """Columns as arrays, after the checks of names, types and nulls.

    Args:
        table: as read from the file.
        name: of the file, for messages.

    Raises:
        LogError: a column is missing, unknown, of a wrong type or null where it must not be; a slate is empty; an
            item, click or start is negative; there are no rows.
    """
    names = table.column_names
    for column in names:
        if column not in REQUIRED + OPTIONAL + PROPENSITIES:
            known = ", ".join(REQUIRED + OPTIONAL + PROPENSITIES)
            raise LogError(f"{name}: unknown column {column}; the columns are {known}")
        if names.count(column) > 1:
            raise LogError(f"{name}: column {column} appears {names.count(column)} times")
    for column in REQUIRED:
        if column not in names:
            raise LogError(f"{name}: column {column} is missing")
    names = [column for column in names if column not in PROPENSITIES]
    for column in names:
        _check_type(column, table.schema.field(column).type, name)
    if table.num_rows == 0:
        raise LogError(f"{name}: no rows")
    for column in names:
        if column not in NULLABLE:
            _reject(_nulls(table[column]), name, f"{column} is null")

    slate, width = _read_slates(table["slate"], name)
    return Rows(
        session=_integers(table["session"], "session", name),
        step=_integers(table["step"], "step", name),
        slate=slate,
        width=width,
        click=_integers(table["click"], "click", name, null=END),
        reward=table["reward"].cast(pa.float32()).to_numpy(),
        state=_integers(table["state"], "state", name) if "state" in names else None,
        start=_integers(table["start"], "start", name, null=BOS) if "start" in names else np.full(table.num_rows, BOS),
        position=_integers(table["position"], "position", name, null=PAD) if "position" in names else None,
    )


def _check_type(column: str, got: pa.DataType, name: str) -> None:
    wanted = {"slate": "list<int64>", "reward": "float32"}.get(column, "int64")
    if column == "slate":
        is_list = pa.types.is_list(got) or pa.types.is_large_list(got) or pa.types.is_fixed_size_list(got)
        fits = is_list and pa.types.is_integer(got.value_type)
    elif column == "reward":
        fits = pa.types.is_floating(got)
    else:
        fits = pa.types.is_integer(got) or (column in NULLABLE and pa.types.is_null(got))
    if not fits:
        raise LogError(f"{name}: column {column} must be {wanted}, got {got}")


def _integers(values: pa.ChunkedArray, column: str, name: str, null: int | None = None) -> Ints:
    """A column as int64. `null` replaces its nulls; a negative id, which could be taken for it, is then an error."""
    try:
        values = values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise LogError(f"{name}: column {column} does not fit int64: {reason(error)}") from error
    if null is not None:
        negative = pc.fill_null(pc.less(values, 0), False).to_numpy()
        _reject(negative, name, lambda row: f"{column} {values[row]} is negative")
        values = pc.fill_null(values, null)
    return values.to_numpy()


def _read_slates(column: pa.ChunkedArray, name: str) -> tuple[Ints, Ints]:
    """[S] the items of all slates, and [R] how many each row has."""
    width = pc.list_value_length(column).to_numpy().astype(np.int64)
    _reject(width == 0, name, "slate is empty")
    values = pc.list_flatten(column)

    def rows_with(bad: Bools) -> Bools:
        rows = np.repeat(np.arange(len(width)), width)
        return np.bincount(rows[bad], minlength=len(width)).astype(bool)

    nulls = _nulls(values)
    if nulls.any():
        _reject(rows_with(nulls), name, "slate holds a null")
    items = _integers(values, "slate", name)
    negative = items < 0
    if negative.any():
        _reject(rows_with(negative), name, f"slate item {items[negative][0]} is negative")
    return items, width


def check_rows(rows: Rows, name: str, items: int, slate_size: int) -> None:
    """Raise `LogError` if a row breaks a rule on its own.

    Args:
        rows: the log.
        name: of the file, for messages.
        items: C, the bound of item ids.
        slate_size: the longest slate allowed.
    """
    row, begin = rows.row(), rows.begin()
    largest = np.maximum.reduceat(rows.slate, begin)
    in_slate = np.logical_or.reduceat(rows.slate == np.repeat(rows.click, rows.width), begin)
    limit = f"must be in 0..C-1 (C = {items})"
    _reject(rows.step < 0, name, lambda at: f"step {rows.step[at]} is negative")
    too_long = f"items, more than slate_size {slate_size}"
    _reject(rows.width > slate_size, name, lambda at: f"slate has {rows.width[at]} {too_long}")
    _reject(largest >= items, name, lambda at: f"slate item {limit}, got {largest[at]}")
    twice = _repeats(rows.slate, row, len(largest))
    _reject(twice, name, lambda at: f"item {_repeated(rows.slate[row == at])} is twice in the slate")
    _reject(~in_slate & (rows.click != END), name, lambda at: f"click {rows.click[at]} is not in its slate")
    _reject(rows.start >= items, name, lambda at: f"start {limit}, got {rows.start[at]}")
    _reject(~np.isfinite(rows.reward), name, lambda at: f"reward must be a finite float32, got {rows.reward[at]}")
    if rows.state is not None:
        state = rows.state
        _reject(state < 0, name, lambda at: f"state {state[at]} is negative")
    if rows.position is not None:
        place = rows.position
        misplaced = ((place == PAD) != (rows.click == END)) | (place >= rows.width)
        rule = "position must be a place 0, 1, ... of the slate where an item is clicked, and null elsewhere"
        _reject(misplaced, name, lambda at: f"{rule}, got {'null' if place[at] == PAD else place[at]}")


def _repeats(slate: Ints, row: Ints, count: int) -> Bools:
    """[count]: the rows whose slate holds an item twice; `slate` and `row` [S], items below 2^30."""
    bound = int(slate.max()) + 1
    keys = np.sort(row * bound + slate)  # one per row and item
    twice = keys[1:][keys[1:] == keys[:-1]] // bound
    return np.bincount(twice, minlength=count).astype(bool)


def _repeated(slate: Ints) -> int:
    """The smallest item that a slate [K] holds twice."""
    ordered = np.sort(slate)
    return int(ordered[1:][ordered[1:] == ordered[:-1]][0])


def check_sessions(rows: Rows, order: Ints, name: str) -> None:
    """Raise `LogError` if the rows of a session do not fit together.

    Args:
        rows: the log.
        order: [R], sorts the rows by session and step, stably.
        name: of the file, for messages.
    """
    session, step = rows.session[order], rows.step[order]
    first, position = positions(session)
    goes_on = ~first[1:]
    repeated = np.append(False, goes_on & (step[1:] == step[:-1]))
    after_end = np.append(False, goes_on & (rows.click[order][:-1] == END))
    start = rows.start[order]
    moved = start != start[np.arange(len(order)) - position]

    def at(bad: Bools) -> Bools:
        in_file = np.zeros_like(bad)
        in_file[order] = bad
        return in_file

    def missing(row: int) -> str:
        return f"session {rows.session[row]} has step {rows.step[row]} but no step {position[order == row][0]}"

    _reject(at(repeated), name, lambda row: f"session {rows.session[row]} has step {rows.step[row]} twice")
    gap = step != position
    gap[1:] &= first[1:] | (step[:-1] == position[:-1])
    _reject(at(gap), name, missing)
    _reject(at(after_end), name, lambda row: f"session {rows.session[row]} goes on after its END (null click)")
    _reject(at(moved), name, lambda row: f"start must be the same on every row of session {rows.session[row]}")


def positions(session: Ints) -> tuple[Bools, Ints]:
    """For sorted session ids [R]: whether a row is its session's first, and its place 0, 1, ... in the session."""
    first = np.append(True, session[1:] != session[:-1])
    index = np.arange(len(session))
    return first, index - np.maximum.accumulate(np.where(first, index, 0))


def _nulls(values: pa.ChunkedArray) -> Bools:
    return values.is_null().to_numpy()


def _reject(bad: Bools, name: str, problem: str | Callable[[int], str]) -> None:
    """Raise `LogError` for the first row on which `bad` [R] is true; `problem` may depend on the row."""
    if bad.any():
        row = int(bad.argmax())
        raise LogError(f"{name}: row {row}: {problem if isinstance(problem, str) else problem(row)}")

"""Click histories to recommend for, a batch at a time: JSON lines, CSV and Parquet, from a file or standard input.

| format     | a history is                                                                                             |
|------------|----------------------------------------------------------------------------------------------------------|
| JSON lines | a line with a list of items, or an object {"id": ..., "history": [items]}                                |
| CSV        | a row with the column `history`, items with spaces between, and optionally `id`                          |
| Parquet    | a row with the column `history`, a list of items, and optionally `id`; or a session log (`session`,      |
|            | `step`, `click`, optionally `start`), whose sessions are whole histories, rows adjacent and in order      |

Items are integers or strings, oldest click first; those of a session log are always 0..C-1, as in the log's slates, whatever the
raw log called them. A history without an id gets its place 0, 1, ... in the input.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from irecgan_ext.data.storage import read_header
from irecgan_ext.errors import LogError
from irecgan_ext.files import reason

Format = Literal["jsonl", "csv", "parquet"]
SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


class LogItem(int):
    """An item 0..C-1 of a session log: not the raw log's id, which may be a number too."""


Item = int | str | LogItem


@dataclass
class Histories:
    """A batch of B histories.

    Attributes:
        ids: [B] what the input calls them: JSON scalars.
        clicks: B lists of items, as the input names them.
    """

    ids: list[Any] = field(default_factory=list)
    clicks: list[list[Item]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


def format_of(path: str, given: Format | None = None) -> Format:
    """The format `given`, or else that of the file's suffix; JSON lines for standard input or output (`-`).

    Raises:
        LogError: the suffix is not known.
    """
    if given is not None:
        return given
    if path == "-":
        return "jsonl"
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise LogError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}, got {suffix!r}; or name the format")
    return SUFFIXES[suffix]


def read_histories(path: str, form: Format, batch: int, items: int | None = None) -> Iterator[Histories]:
    """Histories of a file in its order, `batch` at a time; only a batch is in memory.

    Args:
        path: file name, or `-` for standard input (Parquet from there is held whole: it ends with its table of contents).
        form: "jsonl", "csv" or "parquet".
        items: C that a session log must declare, if it declares any; None takes every log.

    Raises:
        LogError: one line naming the file, the line or row, and the rule.
    """
    name = "standard input" if path == "-" else path
    reader = {"jsonl": _json_lines, "csv": _csv_rows}.get(form)
    rows = _parquet_rows(path, name, batch, items) if reader is None else _text_rows(path, name, reader)
    found = Histories()
    for place, (key, clicks) in enumerate(rows):
        found.ids.append(place if key is None else key)
        found.clicks.append(clicks)
        if len(found) == batch:
            yield found
            found = Histories()
    if len(found):
        yield found


Row = tuple[Any, list[Item]]


def _text_rows(path: str, name: str, reader: Any) -> Iterator[Row]:
    try:
        with _open_text(path) as stream:
            yield from reader(stream, name)
    except UnicodeDecodeError as error:
        raise LogError(f"{name}: must be UTF-8 text: {reason(error)}") from error
    except OSError as error:
        raise LogError(f"{name}: {reason(error)}") from error


@contextmanager
def _open_text(path: str) -> Iterator[TextIO]:
    if path == "-":
        stream = io.TextIOWrapper(sys.stdin.buffer, "utf-8", newline="")
        try:
            yield stream
        finally:
            stream.detach()  # or standard input would be closed with it
    else:
        with open(path, encoding="utf-8", newline="") as file:
            yield file


def _json_lines(stream: TextIO, name: str) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise LogError(f"{name}: line {number}: not JSON: {reason(error)}") from error
        if isinstance(value, dict) and "history" not in value:
            raise LogError(
                f"{name}: line {number}: history is missing; the object must be {{'id': ..., 'history': [...]}}"
            )
        key, clicks = (value.get("id"), value["history"]) if isinstance(value, dict) else (None, value)
        if isinstance(key, (dict, list)):
            raise LogError(f"{name}: line {number}: id must be a number or a string, got {json.dumps(key)}")
        yield key, _items(clicks, f"{name}: line {number}")


def _csv_rows(stream: TextIO, name: str) -> Iterator[Row]:
    reader = csv.DictReader(stream, strict=True)
    try:
        columns = list(reader.fieldnames or [])
        if "history" not in columns:
            found = ", ".join(columns) or "none"
            raise LogError(
                f"{name}: column history is missing; the columns are {found} (the separator must be a comma)"
            )
        for row in reader:
            if None in row or None in row.values():
                raise LogError(f"{name}: line {reader.line_num}: must have {len(columns)} fields")
            yield row.get("id"), list(row["history"].split())
    except csv.Error as error:
        raise LogError(f"{name}: line {reader.line_num}: {reason(error)}") from error


def _items(clicks: Any, where: str) -> list[Item]:
    if not isinstance(clicks, list):
        raise LogError(f"{where}: history must be a list of items, got {json.dumps(clicks)}")
    for item in clicks:
        if isinstance(item, bool) or not isinstance(item, (int, str)):
            raise LogError(f"{where}: an item must be an integer or a string, got {json.dumps(item)}")
    return clicks


def _parquet_rows(path: str, name: str, batch: int, items: int | None) -> Iterator[Row]:
    try:
        source = pa.BufferReader(sys.stdin.buffer.read()) if path == "-" else pa.memory_map(path)
        file = pq.ParquetFile(source, pre_buffer=False)
        names = file.schema_arrow.names
        logged = "history" not in names and {"session", "step", "click"} <= set(names)
        if not logged and "history" not in names:
            raise LogError(f"{name}: column history is missing; the columns are {', '.join(names) or 'none'}")
        declared = read_header(file.schema_arrow, name)[0] if logged else None
        if declared is not None and items not in (None, declared["items"]):
            raise LogError(f"{name}: has a catalogue of {declared['items']} items, the agent was trained on {items}")
        wanted = ("session", "step", "click", "start") if logged else ("id", "history")
        columns = [column for column in wanted if column in names]
        _check_types(file.schema_arrow, columns, name)
        # One thread: those of Arrow must not outlive a process that ends on an error.
        batches = file.iter_batches(batch, columns=columns, use_threads=False)
        yield from _sessions(batches, name) if logged else _lists(batches, name)
    except (pa.ArrowException, OSError) as error:
        raise LogError(f"{name}: cannot be read as Parquet: {reason(error)}") from error


def _check_types(schema: pa.Schema, columns: list[str], name: str) -> None:
    for column in columns:
        got = schema.field(column).type
        if column == "history":
            listed = pa.types.is_list(got) or pa.types.is_large_list(got) or pa.types.is_fixed_size_list(got)
            got, wanted = (got.value_type if listed else None), "a list of integers or strings"
        else:
            wanted = "integers or strings"
        text = got is not None and (pa.types.is_string(got) or pa.types.is_large_string(got))
        if got is None or not (text or pa.types.is_integer(got) or pa.types.is_null(got)):
            raise LogError(f"{name}: column {column} must hold {wanted}, got {schema.field(column).type}")


def _lists(batches: Iterator[pa.RecordBatch], name: str) -> Iterator[Row]:
    row = 0
    for part in batches:
        ids = part["id"].to_pylist() if "id" in part.schema.names else [None] * len(part)
        for key, clicks in zip(ids, part["history"].to_pylist(), strict=True):
            if clicks is None or None in clicks:
                raise LogError(f"{name}: row {row}: history {'is null' if clicks is None else 'holds a null'}")
            yield key, clicks
            row += 1


def _sessions(batches: Iterator[pa.RecordBatch], name: str) -> Iterator[Row]:
    """One history per session of a log; its END steps (null clicks) are no items."""
    row, session, next_step = 0, None, 0
    clicks: list[Item] = []
    for part in batches:
        starts = part["start"].to_pylist() if "start" in part.schema.names else [None] * len(part)
        columns = (part[column].to_pylist() for column in ("session", "step", "click"))
        for key, step, click, start in zip(*columns, starts, strict=True):
            if key is None:
                raise LogError(f"{name}: row {row}: session is null")
            if step == 0 and (key != session or next_step > 0):
                if next_step > 0:
                    yield session, clicks
                session, next_step, clicks = key, 0, [] if start is None else [_log_item(start)]
            if key != session or step != next_step:
                raise LogError(f"{name}: row {row}: the steps of session {key} must be adjacent, 0, 1, ... in order")
            if click is not None:
                clicks.append(_log_item(click))
            next_step += 1
            row += 1
    if next_step > 0:
        yield session, clicks


def _log_item(item: Item) -> Item:
    return LogItem(item) if isinstance(item, int) else item

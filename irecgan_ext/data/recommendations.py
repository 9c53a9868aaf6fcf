"""Recommendations as files: JSON lines, CSV or Parquet, written a batch at a time."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from irecgan_ext.data.histories import Format, Item
from irecgan_ext.errors import LogError
from irecgan_ext.files import atomic_write, reason


class Writer(Protocol):
    """Where recommendations go."""

    def write(self, ids: Sequence[Any], items: Sequence[Sequence[Item]], scores: Sequence[Sequence[float]]) -> None:
        """Append a batch: B ids, B lists of items and their log-probabilities."""

    def close(self) -> None:
        """Write what a file of this kind ends with; the stream stays open."""


@contextmanager
def open_writer(path: str, form: Format) -> Iterator[Writer]:
    """A file that takes its name when the block ends without an error.

    JSON lines: {"id": ..., "items": [...], "log_probs": [...]}. CSV: columns `id`, `items` and `log_probs`, lists with spaces
    between. Parquet: the same columns, lists. Ids and items are strings in a Parquet file unless all of its first batch are
    integers.

    Args:
        path: file name, or `-` for standard output. form: "jsonl", "csv" or "parquet".

    Raises:
        LogError: the file cannot be written.
    """
    name = "standard output" if path == "-" else path
    try:
        if path == "-":
            yield from _fill(sys.stdout.buffer, form)
            sys.stdout.buffer.flush()
        else:
            with atomic_write(path) as stream:
                yield from _fill(stream, form)
    except BrokenPipeError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise LogError(f"{name}: cannot write: {reason(error)}") from error


def _fill(stream: BinaryIO, form: Format) -> Iterator[Writer]:
    kinds: dict[Format, Callable[[BinaryIO], Writer]] = {"jsonl": _JsonLines, "csv": _Csv, "parquet": _Parquet}
    writer = kinds[form](stream)
    yield writer
    writer.close()


class _JsonLines:
    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def write(self, ids: Sequence[Any], items: Sequence[Sequence[Item]], scores: Sequence[Sequence[float]]) -> None:
        rows = zip(ids, items, scores, strict=True)
        text = (json.dumps({"id": key, "items": shown, "log_probs": scored}) for key, shown, scored in rows)
        self.stream.write("".join(line + "\n" for line in text).encode())
        self.stream.flush()  # a reader at the other end of a pipe need not wait for the next batch

    def close(self) -> None:
        pass


class _Csv:
    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self._write([["id", "items", "log_probs"]])

    def write(self, ids: Sequence[Any], items: Sequence[Sequence[Item]], scores: Sequence[Sequence[float]]) -> None:
        rows = zip(ids, items, scores, strict=True)
        self._write([key, " ".join(map(str, shown)), " ".join(map(str, scored))] for key, shown, scored in rows)

    def _write(self, rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.stream.write(text.getvalue().encode())
        self.stream.flush()

    def close(self) -> None:
        pass


class _Parquet:
    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.file: pq.ParquetWriter | None = None

    def write(self, ids: Sequence[Any], items: Sequence[Sequence[Item]], scores: Sequence[Sequence[float]]) -> None:
        if self.file is None:
            self.file = self._begin(ids, [item for shown in items for item in shown])
        schema = self.file.schema
        if pa.types.is_string(schema.field("id").type):
            ids = [str(key) for key in ids]
        if pa.types.is_string(schema.field("items").type.value_type):
            items = [[str(item) for item in shown] for shown in items]
        self.file.write_table(pa.table([ids, items, scores], schema=schema))

    def _begin(self, ids: Sequence[Any], items: Sequence[Item]) -> pq.ParquetWriter:
        def kind(values: Sequence[Any]) -> pa.DataType:
            return pa.int64() if all(type(value) is int for value in values) else pa.string()

        fields = {"id": kind(ids), "items": pa.list_(kind(items)), "log_probs": pa.list_(pa.float32())}
        return pq.ParquetWriter(self.stream, pa.schema(fields), write_page_checksum=True)

    def close(self) -> None:
        if self.file is None:
            self.file = self._begin([], [])
        self.file.close()

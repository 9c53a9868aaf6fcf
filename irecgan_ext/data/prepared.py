"""A prepared log: a directory with a session file per split, the maps of ids and the report.

| file | content |
|---|---|
| `train.parquet`, `valid.parquet`, `test.parquet` | sessions, in the schema of `data.sessions` |
| `items.parquet` | map of items: `item` 0..C-1 by falling number of clicks, `id` as in the raw log, `clicks` |
| `sessions.parquet` | the split: `session` as in the session files, `id` as in the raw log, `split` |
| `report.json` | see `data.report` |
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from irecgan_ext.data.assemble import Assembled, Assembly, Ints, assemble
from irecgan_ext.data.packed_log import ITEMS_FILE, REPORT_FILE, SESSIONS_FILE, split_file
from irecgan_ext.data.raw import RawLog
from irecgan_ext.data.report import SPLITS, Report, SplitReport
from irecgan_ext.data.rows import Rows
from irecgan_ext.data.sessions import rows_table
from irecgan_ext.data.storage import header
from irecgan_ext.errors import UsageError
from irecgan_ext.files import TEMPORARY_SUFFIX, atomic_write
from irecgan_ext.types import BOS, END, PAD

CHUNK = 1 << 16  # steps whose lists are in memory as they are written


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory that takes the name `path` once the block has ended; if the block raises, nothing is left.

    Raises:
        UsageError: `path` exists and is not an empty directory.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--out: {path} exists already; choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_prepared(directory: Path, raw: RawLog, how: Assembly, notes: dict[str, Any]) -> Report:
    """Assemble a raw log and write it into an existing, empty directory.

    Args:
        notes: JSON-able; goes into the metadata of the session files.

    Raises:
        LogError: see `assemble`. OSError: the directory cannot be written.
    """
    made = assemble(raw, how)
    splits = {name: _write_split(directory, name, made, how, notes) for name in SPLITS}
    made.items.write_parquet(directory / ITEMS_FILE)
    made.sessions.write_parquet(directory / SESSIONS_FILE)
    ends = int(made.steps["item"].null_count())
    report = Report(splits, len(made.items), raw.rows_read, raw.dropped, raw.reward, ends)
    with atomic_write(directory / REPORT_FILE) as stream:
        stream.write(report.json())
    return report


def _write_split(directory: Path, name: str, made: Assembled, how: Assembly, notes: dict[str, Any]) -> SplitReport:
    """Write one split, `CHUNK` steps at a time."""
    sessions = made.sessions.filter(pl.col("split") == name).select("session")
    steps = made.steps.with_row_index("key").join(sessions, on="session", how="semi", maintain_order="left")
    longest = int(made.widths[steps["list"].to_numpy()].max()) + 1  # one more: a click may be added to its list
    writer, shown = None, 0
    with atomic_write(directory / split_file(name)) as stream:
        for first in range(0, len(steps), CHUNK):
            rows = _rows(made, steps.slice(first, CHUNK), how)
            shown += int(rows.width[rows.click != END].sum())
            table = rows_table(rows).replace_schema_metadata(header(len(made.items), longest, notes))
            writer = writer or pq.ParquetWriter(stream, table.schema, write_page_checksum=True)
            writer.write_table(table)
        assert writer is not None  # a split has a session
        writer.close()
    clicked = steps.filter(pl.col("item").is_not_null())
    return SplitReport(len(sessions), len(clicked), shown, float(clicked["reward"].sum()))


def _rows(made: Assembled, steps: pl.DataFrame, how: Assembly) -> Rows:
    """Steps with their lists, each click in its list, in the order in which the models are to see them."""
    click = steps["item"].fill_null(END).cast(pl.Int64).to_numpy()
    lists = steps["list"].to_numpy()
    width = made.widths[lists]
    values, owner = _gather(made, lists, width)
    inside = np.bincount(owner[values == click[owner]], minlength=len(click)).astype(bool)
    added = np.flatnonzero(~inside & (click != END))
    values = np.insert(values, np.cumsum(width)[added], click[added])
    width = width + np.bincount(added, minlength=len(click))
    owner = np.repeat(np.arange(len(width)), width)
    begin = np.cumsum(width) - width
    position = np.full(len(click), PAD, dtype=np.int64)
    found = np.flatnonzero(values == click[owner])
    position[owner[found]] = found - begin[owner[found]]
    if how.shuffle:
        key = _noise(how.seed, np.repeat(steps["key"].to_numpy().astype(np.uint64), width), values)
        values = values[np.lexsort((key, owner))]
    return Rows(
        session=steps["session"].to_numpy(),
        step=steps["step"].to_numpy(),
        slate=values,
        width=width,
        click=click,
        reward=steps["reward"].to_numpy(),
        state=None,
        start=np.full(len(click), BOS),
        position=position,
    )


def _gather(made: Assembled, lists: Ints, width: Ints) -> tuple[Ints, Ints]:
    """The items of `lists` one list after the other, and which of them each belongs to."""
    owner = np.repeat(np.arange(len(lists)), width)
    place = np.arange(len(owner)) - (np.cumsum(width) - width)[owner]
    return made.values[made.begins[lists][owner] + place].astype(np.int64), owner


def _noise(seed: int, key: Any, item: Ints) -> Any:
    """[I] uint64 that depend on nothing but (seed, step, item): SplitMix64's finaliser, twice."""
    with np.errstate(over="ignore"):
        mixed = key * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**64)
        for value in (np.uint64(0), item.astype(np.uint64)):
            mixed = mixed + value * np.uint64(0xD1B54A32D192ED03)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed

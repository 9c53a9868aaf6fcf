"""A prepared directory without polars, for the tests of what reads one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from irecgan_ext.data.rows import Rows
from irecgan_ext.data.sessions import rows_table
from irecgan_ext.data.storage import header
from irecgan_ext.types import BOS, END, PAD

ITEMS = 30


def write_prepared_by_hand(
    directory: Path, sessions: tuple[int, int, int] = (40, 8, 9), longest: int = 25, names: str = "item"
) -> None:
    """Random sessions of 2 to 5 clicks and an END on lists of 1 to `longest` of 30 items; every list is shuffled."""
    directory.mkdir(parents=True)
    draw = np.random.default_rng(0)
    first = 0
    for split, count in zip(("train", "valid", "test"), sessions):
        rows = _rows(draw, first, count, longest)
        table = rows_table(rows).replace_schema_metadata(header(ITEMS, longest))
        pq.write_table(table, directory / f"{split}.parquet")
        first += count
    ids = pa.table({"item": list(range(ITEMS)), "id": [f"{names}{i}" for i in range(ITEMS)]})
    pq.write_table(ids, directory / "items.parquet")
    (directory / "report.json").write_text("{}\n")


def _rows(draw: np.random.Generator, first: int, count: int, longest: int) -> Rows:
    lengths = draw.integers(3, 7, count)
    step = np.concatenate([np.arange(n) for n in lengths])
    ends = np.append(step[1:] == 0, True)
    width = draw.integers(1, longest + 1, len(step))
    lists = [draw.permutation(ITEMS)[:n] for n in width]
    click = np.array([END if end else items[draw.integers(len(items))] for end, items in zip(ends, lists)])
    return Rows(
        session=np.repeat(np.arange(first, first + count), lengths),
        step=step,
        slate=np.concatenate(lists),
        width=width,
        click=click,
        reward=((click % 3 == 0) & ~ends).astype(np.float32),
        state=None,
        start=np.full(len(step), BOS),
        position=np.where(ends, PAD, draw.integers(0, width)),
    )

"""What every reader of raw logs returns: clicks in order, and the lists that they were made on, still on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import polars as pl
from tqdm import tqdm

from irecgan_ext.data.tables import RawTable
from irecgan_ext.errors import LogError

Repair = Literal["add", "drop"]
OUTSIDE = "clicks not in their list"
BATCH = 20_000  # lists in memory at a time


@dataclass
class RawLog:
    """A log before any filter.

    Attributes:
        steps: session (any type), list (UInt32), item (the id clicked; null: a list without a click), reward (Float32);
            sessions in the order in which they are to be numbered, the steps of a session in order of time.
        lists: list (UInt32, unique), items (List of the items' type), lazily.
        table: the file that the lists come from, for messages.
        rows_read: rows of all files.
        dropped: how many rows, clicks, ... were left out, by rule.
        reward: what a reward of 1 stands for, such as "purchase"; None where the log has none, and a click earns 1.
        products: id and further columns of items, for the map of ids; None for none.
    """

    steps: pl.DataFrame
    lists: pl.LazyFrame
    table: RawTable
    rows_read: int
    dropped: Counter[str] = field(default_factory=Counter)
    reward: str | None = None
    products: pl.DataFrame | None = None

    def batches(self, wanted: pl.Series) -> Iterator[pl.DataFrame]:
        """`lists`, those in `wanted` only, `BATCH` rows of the file at a time: a join of the whole would hold them all.

        Raises:
            LogError: the file is damaged.
        """
        keys = wanted.unique().to_frame("list")
        bar = tqdm(desc="reading lists", total=self.table.count(), unit=" rows", disable=None, leave=False)
        with bar, self.table.reading():
            for batch in self.lists.collect_batches(chunk_size=BATCH):
                bar.update(len(batch))
                yield batch.join(keys, on="list", how="semi")


def drop_repeats(
    frame: pl.DataFrame, dropped: Counter[str], rule: str, subset: list[str] | None = None
) -> pl.DataFrame:
    """`frame` with each row once, in order; the others are counted under `rule`."""
    kept = frame.unique(subset, keep="first", maintain_order=True)
    dropped[rule] += len(frame) - len(kept)
    return kept


def check_clicks(raw: RawLog, repair: Repair) -> None:
    """Count the clicks on items that their list does not hold; `drop` them, or leave them for `add` to complete the list.

    Lists without an item are no lists: what happened on them is dropped.

    Raises:
        LogError: nothing is left.
    """
    steps = raw.steps.with_row_index("row")
    clicked = pl.col("item").is_not_null()
    clicks = steps.filter(clicked).select("row", "list", "item")
    shown = pl.col("items").list.len() > 0
    known = [
        batch.filter(shown)
        .join(clicks, on="list")
        .select("row", pl.col("items").list.contains(pl.col("item")).alias("inside"))
        for batch in raw.batches(clicks["list"])
    ]
    if not known:
        raise LogError(f"{raw.table.path}: holds no row")
    steps = steps.join(pl.concat(known), on="row", how="left", maintain_order="left")
    unlisted = clicked & pl.col("inside").is_null()
    raw.dropped["clicks on an empty list"] += steps.filter(unlisted).height
    outside = clicked & ~pl.col("inside")
    count = steps.filter(outside).height
    if repair == "drop":
        raw.dropped[OUTSIDE] += count
        steps = steps.filter(~outside.fill_null(False))
    else:
        raw.dropped[f"{OUTSIDE}, added to it"] += count
    raw.steps = steps.filter(~unlisted).drop("row", "inside")
    if raw.steps.filter(clicked).is_empty():
        raise LogError(f"{raw.table.path}: no click is left; dropped: {summary(raw.dropped)}")


def summary(dropped: Counter[str]) -> str:
    """The rules that dropped something, in a line."""
    return "; ".join(f"{count} {rule}" for rule, count in dropped.items() if count) or "nothing"

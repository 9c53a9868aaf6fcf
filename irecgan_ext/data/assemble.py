"""From a raw log to steps on the catalogue's ids: filters, lists, the step on which a user leaves, splits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from irecgan_ext.data.filters import Filters, keep_clicks, number_items
from irecgan_ext.data.raw import RawLog, Repair, check_clicks, summary
from irecgan_ext.data.report import SPLITS
from irecgan_ext.errors import LogError

End = Literal["repeat", "unclicked", "none"]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Assembly:
    """How a raw log becomes sessions.

    Attributes:
        filters: which sessions and items are kept.
        repair: what becomes of clicks on items that their list does not hold.
        end: the list on which a user leaves. unclicked: the first list after the last click, where the log has one;
            repeat: that, or else the list of the last click again; none: no session shows its end.
        shuffle: put every list in a random order. The place of the click in the logged list is kept beside it.
        valid_share, test_share: shares of the sessions, drawn at random.
        seed: of the split and of the shuffling.
    """

    filters: Filters = field(default_factory=Filters)
    repair: Repair = "drop"
    end: End = "repeat"
    shuffle: bool = False
    valid_share: float = 1_718 / 68_822
    test_share: float = 1_820 / 68_822
    seed: int = 0


@dataclass(frozen=True)
class Assembled:
    """Sessions 0..B-1 on items 0..C-1. S steps, L lists.

    Attributes:
        steps: session (Int64), step (Int64), list (Int64, place among the lists), item (Int32 id, null: the user left),
            reward (Float32); sorted by session and step.
        sessions: session (Int64), id (the raw log's), split.
        items: item (Int64), id (the raw log's), clicks, and the raw log's columns.
        values, begins, widths: the lists one after the other ([I] int32), where each begins and its length ([L] int64).
    """

    steps: pl.DataFrame
    sessions: pl.DataFrame
    items: pl.DataFrame
    values: NDArray[np.int32]
    begins: Ints
    widths: Ints


def assemble(raw: RawLog, how: Assembly) -> Assembled:
    """Filter, number and split a raw log; what is left out is counted in `raw.dropped`.

    Raises:
        LogError: nothing is left, or fewer than three sessions.
    """
    check_clicks(raw, how.repair)
    numbered = raw.steps.with_row_index("place").with_columns(pl.col("place").cast(pl.Int64))
    clicks, clicked = keep_clicks(numbered.filter(pl.col("item").is_not_null()), how.filters, raw.dropped)
    count = clicks["session"].n_unique()
    if count < len(SPLITS):
        dropped = summary(raw.dropped)
        raise LogError(f"{raw.table.path}: {count} sessions are left, at least 3 are needed; dropped: {dropped}")
    shown = None if how.filters.clicked_only else _shown(raw, clicks["list"].unique())
    catalogue = number_items(clicked, shown, how.filters)
    lists = _lists(raw, pl.concat([clicks["list"], _unclicked(numbered, clicks)["list"]]).unique(), catalogue)
    ends = _ends(numbered, clicks, lists, how.end, raw.dropped)
    clicks = clicks.join(catalogue.select("item", pl.col("id").alias("number")), on="item", maintain_order="left")
    steps = pl.concat([clicks.select("session", "place", "list", "number", "reward"), ends])
    steps = steps.join(lists.select("list", pl.int_range(pl.len()).alias("at")), on="list", maintain_order="left")
    order = clicks.select(pl.col("session").unique(maintain_order=True)).with_row_index("number_of_session")
    steps = steps.join(order, on="session", maintain_order="left").sort("number_of_session", "place")
    column = lists["items"].rechunk().to_arrow()
    offsets = np.asarray(column.offsets, dtype=np.int64)
    items = catalogue.select(pl.col("id").cast(pl.Int64).alias("item"), pl.col("item").alias("id"), "clicks")
    if raw.products is not None:
        items = items.join(raw.products, on="id", how="left", maintain_order="left")
    return Assembled(
        steps=steps.select(
            pl.col("number_of_session").cast(pl.Int64).alias("session"),
            pl.int_range(pl.len(), dtype=pl.Int64).over("number_of_session").alias("step"),
            pl.col("at").alias("list"),
            pl.col("number").alias("item"),
            "reward",
        ),
        sessions=_split(order["session"], how),
        items=items,
        values=np.asarray(column.values),
        begins=offsets[:-1],
        widths=np.diff(offsets),
    )


def _unclicked(steps: pl.DataFrame, clicks: pl.DataFrame) -> pl.DataFrame:
    """Of each kept session the first list after its last click, if there is one: session, place, list."""
    last = steps.filter(pl.col("item").is_not_null()).group_by("session").agg(pl.col("place").max().alias("last"))
    kept = last.join(clicks.select("session").unique(), on="session", how="semi")
    after = steps.join(kept, on="session", maintain_order="left").filter(pl.col("place") > pl.col("last"))
    return after.group_by("session", maintain_order=True).first().select("session", "place", "list")


def _ends(
    steps: pl.DataFrame, clicks: pl.DataFrame, lists: pl.DataFrame, end: End, dropped: Counter[str]
) -> pl.DataFrame:
    """The steps on which users leave, like `clicks` but with a null item; none on a list of which nothing is left. The lists
    without a click that are not needed are counted."""
    parts = []
    dropped["lists without a click"] += steps["item"].null_count()
    if end != "none":
        parts.append(_unclicked(steps, clicks).join(lists.select("list"), on="list", how="semi"))
        dropped["lists without a click"] -= len(parts[0])
    if end == "repeat":
        last = clicks.group_by("session", maintain_order=True).last().select("session", "place", "list")
        # Behind the session's last click; places are whole numbers, and nothing else of the session follows.
        parts.append(last.join(parts[0], on="session", how="anti").with_columns(pl.col("place") + 1))
    empty = clicks.select("session", "place", "list").clear()
    ends = pl.concat([empty, *parts])
    return ends.with_columns(pl.lit(None, pl.Int32).alias("number"), pl.lit(0.0, pl.Float32).alias("reward"))


def _shown(raw: RawLog, lists: pl.Series) -> pl.DataFrame:
    """item and shows: how many of `lists` hold each item."""
    counts = [
        batch.select(pl.col("items").list.unique().alias("item"))
        .explode("item")
        .drop_nulls()
        .group_by("item")
        .len("shows")
        for batch in raw.batches(lists)
    ]
    return pl.concat(counts).group_by("item").agg(pl.col("shows").sum())


def _lists(raw: RawLog, wanted: pl.Series, catalogue: pl.DataFrame) -> pl.DataFrame:
    """The lists `wanted` in ids of the catalogue, each item once, sorted by `list`; those of which nothing is left are not."""
    to_id = pl.element().replace_strict(catalogue["item"], catalogue["id"], default=None, return_dtype=pl.Int32)
    parts = []
    for batch in raw.batches(wanted):
        known = batch.select("list", pl.col("items").list.eval(to_id).list.drop_nulls())
        part = known.with_columns(pl.col("items").list.unique(maintain_order=True))
        shown, left, kept = (int(frame["items"].list.len().sum()) for frame in (batch, known, part))
        raw.dropped["list items outside the catalogue"] += shown - left
        raw.dropped["items repeated in a list"] += left - kept
        parts.append(part.filter(pl.col("items").list.len() > 0))
    return pl.concat(parts).sort("list")


def _split(sessions: pl.Series, how: Assembly) -> pl.DataFrame:
    """A random split of the sessions; every part gets at least one."""
    count = len(sessions)
    valid = max(1, round(how.valid_share * count))
    test = max(1, round(how.test_share * count))
    if valid + test >= count:
        raise LogError(f"the shares of valid and test leave no session of {count} to train on")
    order = np.random.default_rng(how.seed).permutation(count)
    part = np.zeros(count, dtype=np.int64)
    part[order[:valid]], part[order[valid : valid + test]] = 1, 2
    names = pl.Series("split", np.array(SPLITS)[part])
    return pl.DataFrame({"session": pl.int_range(count, eager=True), "id": sessions, "split": names})

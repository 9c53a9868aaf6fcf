"""Session actions in the format of the RecSys Challenge 2019 (trivago), as CSV or Parquet.

A `clickout item` shows a list (`impressions`) and names the item clicked (`reference`). The log knows no bookings; the nearest
thing is an `interaction item deals` on an item that the session clicked, and stands for a reward.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import polars as pl

from irecgan_ext.data.raw import RawLog, drop_repeats
from irecgan_ext.data.tables import ROW, RawTable, open_parquet, open_text, present, whole_list

COLUMNS = ("user_id", "session_id", "step", "action_type", "reference", "impressions")
CLICK, DEALS = "clickout item", "interaction item deals"

Reward = Literal["deals", "click"]


def read_trivago(path: Path, reward: Reward = "deals") -> RawLog:
    """Read a file of actions.

    Args:
        path: CSV, or Parquet by its suffix.
        reward: "deals", see above; or "click": every click earns 1.

    Raises:
        LogError: the file or a column is missing, or a row breaks a rule; one line with file, row and rule.
    """
    table = open_parquet(path, COLUMNS) if path.suffix == ".parquet" else open_text(path, COLUMNS, ",")
    table.check_fields()
    table.reject(
        {c: present(c) for c in ("user_id", "session_id", "action_type")}
        | {"step": _integer("step"), "impressions": whole_list("impressions", "|")}
    )
    actions = _actions(table)
    dropped: Counter[str] = Counter()
    keys = ["session", "step", "action_type", "reference", "impressions"]
    actions = drop_repeats(actions, dropped, "repeated actions", keys)
    clicks = actions.filter(pl.col("action_type") == CLICK)
    unnamed = pl.col("reference").is_null()
    dropped["clicks without a reference"] += clicks.filter(unnamed).height
    clicks = clicks.filter(~unnamed).sort("session_place", "step", maintain_order=True)
    steps = clicks.select("session", "list", pl.col("reference").alias("item"))
    return RawLog(
        steps=_rewarded(steps, actions, reward),
        lists=table.frame.select(pl.col(ROW).alias("list"), pl.col("impressions").str.split("|").alias("items")),
        table=table,
        rows_read=table.count(),
        dropped=dropped,
        reward="deal views (proxy)" if reward == "deals" else None,
    )


def _actions(table: RawTable) -> pl.DataFrame:
    """Clicks and deal views: session, its place in the file, list (row), step and the columns needed; no lists."""
    first = pl.concat_str("user_id", "session_id", separator="/").alias("session")
    actions = table.frame.filter(pl.col("action_type").is_in([CLICK, DEALS])).select(
        first,
        pl.col(ROW).alias("list"),
        pl.col("step").cast(pl.Int64),
        "action_type",
        pl.col("reference").cast(pl.String),
        pl.col("impressions").hash().alias("impressions"),
    )
    return table.collect(actions).sort("list").with_columns(pl.col("list").min().over("session").alias("session_place"))


def _integer(column: str) -> tuple[pl.Expr, str]:
    return pl.col(column).cast(pl.Int64, strict=False).is_null(), "must be an integer"


def _rewarded(steps: pl.DataFrame, actions: pl.DataFrame, reward: Reward) -> pl.DataFrame:
    """`steps` with a reward on the last click on each item whose deals the session looked at, or on every click."""
    if reward == "click":
        return steps.with_columns(pl.lit(1.0, pl.Float32).alias("reward"))
    deals = actions.filter(pl.col("action_type") == DEALS).select("session", pl.col("reference").alias("item")).unique()
    deals = deals.drop_nulls().with_columns(pl.lit(True).alias("seen"))
    last = pl.int_range(pl.len()).over("session", "item") == pl.len().over("session", "item") - 1
    steps = steps.with_columns(last.alias("last")).join(
        deals, on=["session", "item"], how="left", maintain_order="left"
    )
    earned = (pl.col("seen").fill_null(False) & pl.col("last")).cast(pl.Float32)
    return steps.select("session", "list", "item", earned.alias("reward"))

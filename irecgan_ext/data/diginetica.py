"""The raw files of CIKM Cup 2016 track 2 (DIGINETICA).

A query shows a list and belongs to a session; a click belongs to a query; a purchase belongs to a session and an item. So clicks
find their session through the query, and a purchase rewards the session's last click on the item. Steps are ordered by
(eventdate, timeframe). Queries marked is.test have no clicks in the files: whether they had any is not known, and they are
left out.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl

from irecgan_ext.data.raw import RawLog, drop_repeats
from irecgan_ext.data.tables import ROW, RawTable, integer, integer_list, open_text, present

COLUMNS = {
    "train-queries.csv": ("queryId", "sessionId", "timeframe", "eventdate", "items", "is.test"),
    "train-clicks.csv": ("queryId", "timeframe", "itemId"),
    "train-item-views.csv": ("sessionId", "itemId"),
    "train-purchases.csv": ("sessionId", "userId", "timeframe", "eventdate", "ordernumber", "itemId"),
    "products.csv": ("itemId", "pricelog2"),
    "product-categories.csv": ("itemId", "categoryId"),
}


def read_diginetica(directory: Path) -> RawLog:
    """Read the six files; lists of items stay on disk.

    Raises:
        LogError: a file or column is missing, or a row breaks a rule; one line with file, row and rule.
    """
    tables = {name: open_text(directory / name, columns, ";") for name, columns in COLUMNS.items()}
    queries, clicks, views, purchases, products, categories = tables.values()
    queries.reject(
        {c: integer(c) for c in ("queryId", "sessionId", "timeframe")}
        | {"eventdate": present("eventdate"), "items": integer_list("items", ",")}
    )
    clicks.reject({c: integer(c) for c in ("queryId", "timeframe", "itemId")})
    for table in (views, purchases):
        table.reject({c: integer(c) for c in ("sessionId", "itemId")})
    for table in (products, categories):
        table.reject({"itemId": integer("itemId")})
    dropped: Counter[str] = Counter()
    steps = _steps(queries, clicks, dropped)
    return RawLog(
        steps=_rewarded(steps, purchases, dropped),
        lists=queries.frame.select(
            pl.col(ROW).alias("list"), pl.col("items").str.split(",").cast(pl.List(pl.Int64)).alias("items")
        ),
        table=queries,
        rows_read=sum(table.count() for table in tables.values()),
        dropped=dropped,
        reward="purchase",
        products=_products(views, products, categories),
    )


def _numbers(table: RawTable, columns: tuple[str, ...]) -> pl.DataFrame:
    return table.collect(table.frame.select(pl.col(columns).cast(pl.Int64)))


def _steps(queries: RawTable, clicks: RawTable, dropped: Counter[str]) -> pl.DataFrame:
    """session, list, item, row of each click and of each query without one, in order of time within the session."""
    shown = queries.collect(
        queries.frame.select(
            pl.col(ROW).alias("list"),
            pl.col("queryId", "sessionId", "timeframe").cast(pl.Int64),
            "eventdate",
            (pl.col("is.test").str.to_uppercase() == "TRUE").fill_null(False).alias("test"),
        )
    )
    shown = drop_repeats(shown, dropped, "repeated queries", ["queryId"])
    dropped["test queries"] += shown.filter("test").height
    shown = shown.filter(~pl.col("test"))
    clicked = drop_repeats(_numbers(clicks, ("queryId", "timeframe", "itemId")), dropped, "repeated clicks")
    orphans = clicked.join(shown, on="queryId", how="anti")
    dropped["clicks without a query"] += len(orphans)
    rows = clicked.join(shown.drop("timeframe"), on="queryId", how="inner", maintain_order="left")
    unclicked = shown.join(clicked, on="queryId", how="anti", maintain_order="left")
    columns: list[pl.Expr | str] = [pl.col("sessionId").alias("session"), "list", "eventdate", "timeframe"]
    steps = pl.concat(
        [
            rows.select(*columns, pl.col("itemId").alias("item")),
            unclicked.select(*columns, pl.lit(None, pl.Int64).alias("item")),
        ]
    )
    return steps.sort("session", "eventdate", "timeframe", maintain_order=True).select("session", "list", "item")


def _rewarded(steps: pl.DataFrame, purchases: RawTable, dropped: Counter[str]) -> pl.DataFrame:
    """`steps` with a reward of 1 on the last click on each item that its session bought."""
    bought = purchases.collect(purchases.frame.select(COLUMNS["train-purchases.csv"]))
    bought = drop_repeats(bought, dropped, "repeated purchases")
    bought = bought.select(
        pl.col("sessionId").cast(pl.Int64).alias("session"), pl.col("itemId").cast(pl.Int64).alias("item")
    )
    dropped["purchases without a click"] += bought.join(steps, on=["session", "item"], how="anti").height
    last = pl.int_range(pl.len()).over("session", "item") == pl.len().over("session", "item") - 1
    steps = steps.with_columns(last.alias("last"))
    paid = bought.unique().with_columns(pl.lit(1.0, pl.Float32).alias("paid"))
    steps = steps.join(paid, on=["session", "item"], how="left", maintain_order="left")
    reward = pl.when("last").then(pl.col("paid")).fill_null(0.0).cast(pl.Float32)
    return steps.select("session", "list", "item", reward.alias("reward"))


def _products(views: RawTable, products: RawTable, categories: RawTable) -> pl.DataFrame:
    """id, price_log2, category and number of views of each item."""
    item = pl.col("itemId").cast(pl.Int64).alias("id")
    prices = products.collect(
        products.frame.select(item, pl.col("pricelog2").cast(pl.Int64, strict=False).alias("price_log2"))
    )
    kinds = categories.collect(
        categories.frame.select(item, pl.col("categoryId").cast(pl.Int64, strict=False).alias("category"))
    )
    seen = views.collect(views.frame.select(item).group_by("id").agg(pl.len().alias("views")))
    every = prices.unique("id").join(kinds.unique("id"), on="id", how="full", coalesce=True)
    return every.join(seen, on="id", how="left").with_columns(pl.col("views").fill_null(0))

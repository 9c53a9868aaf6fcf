"""A user's own log, CSV or Parquet: one row per list shown, columns named by the user."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from irecgan_ext.data.raw import RawLog, drop_repeats
from irecgan_ext.data.tables import ROW, RawTable, open_parquet, open_text, present, whole_list
from irecgan_ext.errors import UsageError


@dataclass(frozen=True)
class Columns:
    """Names of the columns.

    Attributes:
        session: who the row belongs to.
        list: the items shown: a list, or text with `list_separator` between the items.
        click: the item clicked, or a list of items clicked in order; nothing where the user clicked nothing.
        order: sorts the rows of a session; None for the file's order.
        reward: 0 or 1; None where a click earns 1.
        list_separator: of lists in text.
    """

    session: str
    list: str
    click: str
    order: str | None = None
    reward: str | None = None
    list_separator: str = "|"

    def names(self) -> tuple[str, ...]:
        return tuple(n for n in (self.session, self.list, self.click, self.order, self.reward) if n is not None)


def read_columns(table: RawTable, names: Columns, reward: str | None = "reward") -> RawLog:
    """Steps of a table with one row per list.

    Args:
        reward: what a reward stands for, where `names` has a column of them.

    Raises:
        LogError: a row breaks a rule; one line with file, row and rule.
    """
    with table.reading():
        schema = table.frame.collect_schema()
    _check_lists(table, names, schema)
    table.check_fields()
    table.reject(_rules(names, schema))
    dropped: Counter[str] = Counter()
    steps = _steps(table, names, schema)
    if names.order is not None:  # without an order, equal rows may be two clicks
        steps = drop_repeats(steps, dropped, "repeated rows", [c for c in steps.columns if c != "list"])
    if isinstance(schema[names.click], pl.List):
        steps = steps.explode("item").with_columns(pl.col("item").cast(pl.String))
    steps = steps.with_columns(pl.col("list").min().over("session").alias("first"))
    steps = steps.sort("first", *(["order"] if names.order is not None else []), maintain_order=True)
    earned = pl.when(pl.col("item").is_null()).then(0.0).otherwise("reward").cast(pl.Float32).alias("reward")
    shown = pl.col(names.list)
    lists = shown if isinstance(schema[names.list], pl.List) else shown.cast(pl.String).str.split(names.list_separator)
    return RawLog(
        steps=steps.select("session", "list", "item", earned),
        lists=table.frame.select(pl.col(ROW).alias("list"), lists.cast(pl.List(pl.String)).alias("items")),
        table=table,
        rows_read=table.count(),
        dropped=dropped,
        reward=None if names.reward is None else reward,
    )


def _check_lists(table: RawTable, names: Columns, schema: pl.Schema) -> None:
    if not names.list_separator:
        raise UsageError("--list-separator must be at least one character, got ''")
    kind = schema[names.list]
    of = kind.inner if isinstance(kind, pl.List) else kind
    if of != pl.String and not (isinstance(kind, pl.List) and of.is_integer()):
        raise table.error(f"column {names.list} must hold text, or lists of integers or text, got {kind}")


def _rules(names: Columns, schema: pl.Schema) -> dict[str, tuple[pl.Expr, str]]:
    """What the columns must keep, for `RawTable.reject`."""
    rules = {names.session: present(names.session), names.list: _no_gap(names, schema)}
    if names.order is not None:
        # Text: numbers must be sorted as numbers.
        rules[names.order] = _number(names.order) if schema[names.order] == pl.String else present(names.order)
    if names.reward is not None:
        value = pl.col(names.reward).cast(pl.Float32, strict=False)
        rules[names.reward] = (value.is_null() | ~value.is_in([0.0, 1.0])).fill_null(True), "must be 0 or 1"
    return rules


def _steps(table: RawTable, names: Columns, schema: pl.Schema) -> pl.DataFrame:
    """session, list (row), item, reward, order if there is one, and a hash of the list; in the file's order."""
    item = pl.col(names.click)
    if schema[names.click].is_float():  # integers with gaps, as pandas writes them
        item = item.cast(pl.Int64)
    if not isinstance(schema[names.click], pl.List):
        item = item.cast(pl.String)
    columns = [
        pl.col(names.session).cast(pl.String).alias("session"),
        pl.col(ROW).alias("list"),
        item.alias("item"),
        (pl.lit(1.0) if names.reward is None else pl.col(names.reward)).cast(pl.Float32).alias("reward"),
        pl.col(names.list).hash().alias("shown"),
    ]
    if names.order is not None:
        order = pl.col(names.order)
        columns.append((order.cast(pl.Float64) if schema[names.order] == pl.String else order).alias("order"))
    return table.collect(table.frame.select(columns)).sort("list")


def read_csv(path: Path, names: Columns, separator: str = ",") -> RawLog:
    """A CSV file with a header; see `read_columns`."""
    if len(separator) != 1:
        raise UsageError(f"--separator must be one character, got {separator!r}")
    return read_columns(open_text(path, names.names(), separator), names)


def read_parquet(path: Path, names: Columns) -> RawLog:
    """A Parquet file; see `read_columns`."""
    return read_columns(open_parquet(path, names.names()), names)


def _no_gap(names: Columns, schema: pl.Schema) -> tuple[pl.Expr, str]:
    if isinstance(schema[names.list], pl.List):
        return pl.col(names.list).list.eval(pl.element().is_null()).list.any().fill_null(False), "must hold no null"
    return whole_list(names.list, names.list_separator)


def _number(column: str) -> tuple[pl.Expr, str]:
    return pl.col(column).cast(pl.Float64, strict=False).is_null(), "must be a number"

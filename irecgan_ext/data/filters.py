"""Which sessions and items of a log are kept (section 7.2 of the paper)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Filters:
    """What is kept. The defaults are the paper's.

    Attributes:
        min_length, max_length: clicks of a session.
        top_items: so many of the most clicked items make the catalogue; None for all.
        clicked_only: leave items out of the catalogue that are never clicked.
    """

    min_length: int = 2
    max_length: int = 40
    top_items: int | None = 40_000
    clicked_only: bool = True


def keep_clicks(clicks: pl.DataFrame, filters: Filters, dropped: Counter[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The clicks that the filters keep, and the catalogue that they make.

    Sessions are filtered first, then items, as in the paper. A click on an item outside the catalogue is no step, which can make
    its session too short: both filters are repeated until they drop nothing more, and hold of what is returned.

    Args:
        clicks: session and item of each click, in order.
        filters: what to keep.
        dropped: counts by rule, added to.

    Returns:
        The kept rows of `clicks`, and the clicked items: item and clicks, by falling number of clicks, ties by item.
    """
    while True:
        size = len(clicks)
        length = pl.len().over("session")
        for bad, rule in (
            (length < filters.min_length, f"clicks in sessions of fewer than {filters.min_length}"),
            (length > filters.max_length, f"clicks in sessions of more than {filters.max_length}"),
        ):
            flagged = clicks.with_columns(bad.alias("bad"))
            gone = flagged.filter("bad")
            dropped[rule] += len(gone)
            dropped[rule.removeprefix("clicks in ")] += gone["session"].n_unique()
            clicks = flagged.filter(~pl.col("bad")).drop("bad")
        counts = clicks.group_by("item").agg(pl.len().alias("clicks"))
        counts = counts.sort(["clicks", "item"], descending=[True, False])
        catalogue = counts.head(filters.top_items) if filters.top_items is not None else counts
        kept = clicks.join(catalogue, on="item", how="semi", maintain_order="left")
        if len(kept) < len(clicks):
            dropped[f"clicks outside the {filters.top_items} most clicked items"] += len(clicks) - len(kept)
        clicks = kept
        if len(clicks) == size:
            return clicks, catalogue


def number_items(clicked: pl.DataFrame, shown: pl.DataFrame | None, filters: Filters) -> pl.DataFrame:
    """The catalogue: item, clicks, id (Int32, 0..C-1).

    Args:
        clicked: item and clicks, as `keep_clicks` returns them.
        shown: item and shows of every item on the kept lists, which fill the places that clicked items leave, the most
            shown first; None leaves them out.
    """
    if shown is not None:
        others = shown.join(clicked, on="item", how="anti").sort(["shows", "item"], descending=[True, False])
        if filters.top_items is not None:
            others = others.head(filters.top_items - len(clicked))
        never = others.select("item", pl.lit(0, clicked["clicks"].dtype).alias("clicks"))
        clicked = pl.concat([clicked, never])
    return clicked.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("id"))

"""RecBole's atomic files (`.inter`): tab-separated, `name:type` in the header, sequences with a blank between tokens."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import polars as pl

from irecgan_ext.data.columns import Columns, read_columns
from irecgan_ext.data.packed_log import ITEMS_FILE, SESSIONS_FILE, split_file
from irecgan_ext.data.raw import RawLog
from irecgan_ext.data.report import SPLITS
from irecgan_ext.data.tables import ROW, RawTable, open_text
from irecgan_ext.files import atomic_write

COLUMNS = Columns("session_id", "item_list", "item_id", order="timestamp", reward="label", list_separator=" ")
_HEADER = {
    "session_id": "session_id:token",
    "item_id": "item_id:token",
    "timestamp": "timestamp:float",
    "label": "label:float",
    "item_list": "item_list:token_seq",
}


def read_inter(path: Path, names: Columns = COLUMNS) -> RawLog:
    """Read an interaction file that has the list shown as a `token_seq` field.

    Args:
        names: of the fields, without their types. A reward or order that the file lacks is left out.

    Raises:
        LogError: the file or a field is missing, or a row breaks a rule; one line with file, row and rule.
    """
    table = open_text(path, (), "\t")
    with table.reading():
        typed = table.frame.collect_schema().names()
    plain = {name.partition(":")[0]: name for name in typed if name != ROW}
    names = replace(
        names,
        order=names.order if names.order in plain else None,
        reward=names.reward if names.reward in plain else None,
    )
    for field in fields(names):
        name = getattr(names, field.name)
        if field.name != "list_separator" and name is not None and name not in plain:
            raise table.error(f"column {name} is missing; the fields are {', '.join(sorted(plain)[:12])}")
    frame = table.frame.rename({full: name for name, full in plain.items()})
    return read_columns(RawTable(path, frame, 2, "\t"), names, reward="label")


def write_inter(directory: Path, name: str) -> None:
    """Write the splits of a prepared directory as `NAME.train.inter`, `NAME.valid.inter` and `NAME.test.inter` into it.

    The ids are the raw log's. Steps on which a user left are interactions with no item, so they are left out.
    """
    items = pl.read_parquet(directory / ITEMS_FILE).select(pl.col("item").cast(pl.Int64), pl.col("id").cast(pl.String))
    sessions = pl.read_parquet(directory / SESSIONS_FILE).select("session", pl.col("id").cast(pl.String))
    token = pl.element().replace_strict(items["item"], items["id"], return_dtype=pl.String)
    for split in SPLITS:
        rows = pl.scan_parquet(directory / split_file(split)).filter(pl.col("click").is_not_null())
        table = rows.select(
            pl.col("session").replace_strict(sessions["session"], sessions["id"]).alias("session_id"),
            pl.col("click").replace_strict(items["item"], items["id"]).alias("item_id"),
            pl.col("step").cast(pl.Float64).alias("timestamp"),
            pl.col("reward").alias("label"),
            pl.col("slate").list.eval(token).list.join(" ").alias("item_list"),
        ).rename(_HEADER)
        with atomic_write(directory / f"{name}.{split}.inter") as stream:
            table.collect().write_csv(stream, separator="\t")

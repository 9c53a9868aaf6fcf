"""Impressions of the Ekstra Bladet news recommendation data set (EB-NeRD): `behaviors.parquet`.

An impression shows `article_ids_inview` and has one or more `article_ids_clicked`, each a step on the same list. There are no
rewards beyond the click.
"""

from __future__ import annotations

from pathlib import Path

from irecgan_ext.data.columns import Columns, read_parquet
from irecgan_ext.data.raw import RawLog

COLUMNS = Columns("session_id", "article_ids_inview", "article_ids_clicked", order="impression_time")


def read_ebnerd(path: Path) -> RawLog:
    """Read a file of impressions.

    Raises:
        LogError: the file or a column is missing, or a row breaks a rule; one line with file, row and rule.
    """
    return read_parquet(path, COLUMNS)

"""The prepare command in this process, and what it leaves. Needs polars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("polars", reason="polars is not installed (extra data): prepare cannot be tested")
from command_line import here  # noqa: E402

from irecgan_ext import prepare  # noqa: E402
from irecgan_ext.data.packed_log import read_catalogue  # noqa: E402

KEYS = [
    "rows_read",
    "sessions",
    "steps",
    "items",
    "mean_session_length",
    "mean_list_length",
    "purchase_share",
    "dropped",
]
EVERYTHING = ("--min-length", 1, "--valid-share", 0.3, "--test-share", 0.3)


def prepare_here(*args: Any) -> tuple[int, str, str]:
    return here(prepare, prepare.Sources, *args)


def report(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "report.json").read_text())


def sessions_of(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Steps by the raw id of the session, items by theirs: slate, click, reward, position."""
    names = read_catalogue(directory)
    ids = dict(zip(*(pq.read_table(directory / "sessions.parquet")[c].to_pylist() for c in ("session", "id"))))
    found: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "valid", "test"):
        rows = pq.read_table(directory / f"{split}.parquet").sort_by([("session", "ascending"), ("step", "ascending")])
        for row in rows.to_pylist():
            step = {
                "slate": [names[i] for i in row["slate"]],
                "click": None if row["click"] is None else names[row["click"]],
                "reward": row["reward"],
                "position": row["position"],
            }
            found.setdefault(str(ids[row["session"]]), []).append(step)
    return found


def write(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n")


def replace_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    write(path, *lines)

"""Log files: Parquet tables with a header that says what they hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from irecgan_ext.errors import LogError
from irecgan_ext.files import reason

SCHEMA_VERSION = 2  # 2 adds the column `position`
READABLE_VERSIONS = (1, 2)
_KEY = b"irecgan_ext"


def header(items: int, slate_size: int, metadata: Mapping[str, Any] | None = None) -> dict[bytes, bytes]:
    """Parquet metadata of a log with C = `items` and lists of at most `slate_size` items.

    Raises:
        ValueError: `metadata` holds NaN or infinity.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "items": items,
        "slate_size": slate_size,
        "metadata": dict(metadata or {}),
    }
    return {_KEY: json.dumps(content, sort_keys=True, allow_nan=False).encode()}


def read_table(path: str | Path, name: str) -> pa.Table:
    """The table of a Parquet file, or of standard input for `-`; `name` is for messages.

    Raises:
        LogError: the file cannot be read or is damaged.
    """
    try:
        if str(path) == "-":
            return _parse(sys.stdin.buffer.read(), name)
        with open(path, "rb") as stream:
            return _parse(stream.read(), name)
    except OSError as error:
        raise LogError(f"{name}: {reason(error)}") from error


def _parse(content: bytes, name: str) -> pa.Table:
    if content[:4] != b"PAR1":
        raise LogError(f"{name}: not a Parquet file")
    try:
        # From memory: a Python file would be released by one of Arrow's threads, which aborts a process that is about to exit.
        return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True, pre_buffer=False).read(
            use_threads=False
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise LogError(f"{name}: damaged or truncated Parquet file: {reason(error)}") from error


def read_header(schema: pa.Schema, name: str) -> tuple[dict[str, int] | None, dict[str, Any]]:
    """What the file declares of itself (`items` and `slate_size`; None in a file of other origin) and its free metadata.

    Raises:
        LogError: the header is damaged, or of a version that is not known.
    """
    raw = (schema.metadata or {}).get(_KEY)
    if raw is None:
        return None, {}
    try:
        header = json.loads(raw)
        version, metadata = header["schema_version"], header["metadata"]
        sizes = {key: header[key] for key in ("items", "slate_size")}
    except (ValueError, TypeError, KeyError) as error:
        raise LogError(f"{name}: metadata irecgan_ext is damaged: {type(error).__name__}: {reason(error)}") from error
    if version not in READABLE_VERSIONS:
        known = " or ".join(map(str, READABLE_VERSIONS))
        raise LogError(f"{name}: schema version must be {known}, got {version}")
    for key, size in sizes.items():
        if type(size) is not int or size < 1:
            raise LogError(f"{name}: metadata {key} must be a positive integer, got {size!r}")
    if not isinstance(metadata, dict):
        raise LogError(f"{name}: metadata must be a JSON object, got {type(metadata).__name__}")
    return sizes, metadata

"""The files that describe a run: its resolved configuration and its summary."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from irecgan_ext.errors import UsageError
from irecgan_ext.files import atomic_write, reason
from irecgan_ext.training.config import TrainConfig

CONFIG_FILE = "config.json"
SUMMARY_FILE = "summary.json"

T = TypeVar("T")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. Raises ValueError for NaN and infinities."""
    with atomic_write(path) as stream:
        stream.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; UsageError with one line if the file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {reason(error)}") from error


def write_config(directory: Path, config: TrainConfig) -> None:
    """Keep the resolved configuration with the run."""
    write_json(directory / CONFIG_FILE, _plain(dataclasses.asdict(config)))


def read_config(directory: Path) -> TrainConfig:
    """The configuration of the run in `directory`.

    Raises:
        UsageError: the directory holds no run, or one whose options this version does not know.
    """
    path = directory / CONFIG_FILE
    if not path.exists():
        raise UsageError(f"{directory}: holds no run ({CONFIG_FILE} is missing)")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UsageError(f"{path}: must hold a JSON object, got {type(values).__name__}")
    try:
        return _typed(TrainConfig, values)
    except (AttributeError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: not a configuration of this version: {reason(error)}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _typed(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass from JSON: nested dataclasses and paths get their types back."""
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            value = _typed(hint, value)
        elif Path in options and value is not None:
            value = Path(value)
        arguments[name] = value
    return kind(**arguments)

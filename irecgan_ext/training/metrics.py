"""What a training run measures, as JSON lines and as TensorBoard events."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsFloat

from irecgan_ext.errors import LogError
from irecgan_ext.files import atomic_write, reason

if TYPE_CHECKING:
    from typing_extensions import Self

FILE_NAME = "metrics.jsonl"
_RESERVED = ("phase", "unit", "step", "wall")


class MetricsWriter:
    """Appends records to `metrics.jsonl` and to TensorBoard event files in one directory.

    A record is one JSON object on one line: `phase` (str), `unit` (int, epoch or batch within the phase), `step` (int,
    counts the units finished in the whole run when the record was made; never decreases), `wall` (seconds of running
    time, those before a resumption included) and the named values. Values that are not finite are written as null. In
    TensorBoard a value is `phase/name`.

    Args:
        directory: created if it is missing.
        resume_at: None starts empty files. A number goes on from the checkpoint of that step: records of later steps,
            which are about to be made again, are removed, and so is a last line that was cut short.

    Raises:
        LogError: `metrics.jsonl` of the run to go on with is damaged.
        OSError: the directory cannot be written.
    """

    def __init__(self, directory: str | Path, resume_at: int | None = None) -> None:
        self.path = Path(directory) / FILE_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        records = _restart(self.path, resume_at)
        self._started = time.monotonic() - (records[-1]["wall"] if records else 0.0)
        with ExitStack() as stack:
            self._stream = stack.enter_context(open(self.path, "a", encoding="utf-8"))
            self._board = stack.enter_context(closing(_tensorboard(directory, resume_at)))
            self._open = stack.pop_all()

    def write(self, phase: str, unit: int, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Append one record; it is on its way to the disk when this returns.

        Args:
            phase: part of the algorithm, such as `pretrain_user`.
            unit: index within the phase.
            step: units finished in the whole run.
            values: numbers or one-element tensors by name; the names phase, unit, step and wall are taken.
        """
        taken = [name for name in values if name in _RESERVED]
        if taken:
            raise ValueError(f"values must not be named {', '.join(_RESERVED)}, got {taken[0]}")
        numbers = {name: float(value) for name, value in values.items()}
        record: dict[str, Any] = {"phase": phase, "unit": unit, "step": step, "wall": time.monotonic() - self._started}
        record |= {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()
        for name, number in numbers.items():
            self._board.add_scalar(f"{phase}/{name}", number, step)

    def close(self) -> None:
        """Flush and close both files."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Records of a `metrics.jsonl`, in order; nulls become NaN and a last line that was cut short is left out.

    Args:
        path: the file, or the directory that holds it.

    Raises:
        LogError: one line, `FILE: line 3: ...` (lines count from 1).
    """
    path = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise LogError(f"{path}: {reason(error)}") from error
    return [_parse(line, f"{path}: line {number}") for number, line in enumerate(lines[:-1], 1)]


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise LogError(f"{where}: not JSON: {reason(error)}") from error
    if not isinstance(record, dict):
        raise LogError(f"{where}: must be a JSON object, got {type(record).__name__}")
    for name in _RESERVED:
        if name not in record:
            raise LogError(f"{where}: {name} is missing")
    for name, value in record.items():
        if name != "phase" and type(value) not in (int, float, type(None)):
            raise LogError(f"{where}: {name} must be a number, got {value!r}")
    return {name: math.nan if value is None else value for name, value in record.items()}


def _restart(path: Path, resume_at: int | None) -> list[dict[str, Any]]:
    """Cut the file back to the records up to `resume_at` and return them."""
    if resume_at is None or not path.exists():
        path.write_bytes(b"")
        return []
    records = read_metrics(path)
    kept = [record["step"] <= resume_at for record in records]
    lines = path.read_bytes().splitlines(keepends=True)
    with atomic_write(path) as stream:
        stream.writelines(compress(lines, kept))
    return list(compress(records, kept))


def _tensorboard(directory: str | Path, resume_at: int | None) -> Any:
    # Imported here so that reading metrics does not need it.
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard hides what earlier event files of the directory hold from this step on.
    return SummaryWriter(log_dir=str(directory), purge_step=0 if resume_at is None else resume_at + 1)

"""What a grid is made of, and what it leaves on disk."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from irecgan_ext.errors import UsageError
from irecgan_ext.files import atomic_write, reason

CELLS = "cells"  # folder of a grid's directory with what finished cells left


class Row(NamedTuple):
    """One number of an experiment, as a line of results.csv."""

    configuration: str
    method: str
    seed: int
    metric: str
    value: float


@dataclass(frozen=True)
class Cell:
    """One piece of a grid's work, done in a process of its own.

    Attributes:
        configuration: what is varied, such as `random(200)`.
        job: what is run, such as the method to train; its results may hold several methods.
        seed: of users, log, weights and samples.
        task: what the grid's function needs besides; JSON.
    """

    configuration: str
    job: str
    seed: int
    task: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the cell's files; different cells of a grid have different ones."""
        return re.sub(r"[^a-z0-9_.]+", "-", f"{self.configuration} {self.job} seed {self.seed}".lower()).strip("-")


@dataclass(frozen=True)
class Grid:
    """The cells of an experiment.

    Attributes:
        experiment: its name.
        function: `module:name` of the function that does a cell: (cell, directory for its files) -> rows.
        settings: what all results in one directory must have in common; JSON.
        cells: in the order to run.
    """

    experiment: str
    function: str
    settings: dict[str, Any]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class CellResult:
    """What a finished cell left.

    Attributes:
        cell: what was done. rows: its numbers.
        seconds: running time of the process that finished it.
        commit: of the code that ran. machine: where.
    """

    cell: Cell
    rows: tuple[Row, ...]
    seconds: float
    commit: str
    machine: str

    def save(self, path: Path) -> None:
        """Write the result whole or not at all."""
        write(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> CellResult:
        """Read what `save` wrote.

        Raises:
            UsageError: the file is damaged.
        """
        try:
            values = json.loads(path.read_text())
            rows = tuple(Row(*row) for row in values.pop("rows"))
            return cls(cell=Cell(**values.pop("cell")), rows=rows, **values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{path}: not a cell's result: {reason(error)}; remove it to run the cell again"
            ) from error


def finished_cells(grid: Grid, out: Path) -> dict[str, CellResult]:
    """Results that are in `out` already, by the cell's name.

    Raises:
        UsageError: a file is damaged, or holds another task than the grid's cell of that name.
    """
    found = {}
    for cell in grid.cells:
        path = result_path(out, cell)
        if path.exists():
            result = CellResult.load(path)
            if result.cell != cell:
                raise UsageError(f"--out: {path} is of another task; choose another directory or remove it")
            found[cell.name] = result
    return found


@contextmanager
def open_directory(grid: Grid, out: Path) -> Iterator[None]:
    """Make or take up the directory of a grid, and keep other runners out of it meanwhile.

    Raises:
        UsageError: the directory holds another grid, or a runner is at work in it.
    """
    folder = out / CELLS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"--out: another process is running a grid in {out}") from None
        _check_same(grid, folder / "grid.json")
        yield


def _check_same(grid: Grid, path: Path) -> None:
    """Note what the directory's results have in common, or compare with what is noted."""
    mine = json.loads(json.dumps({"experiment": grid.experiment, **grid.settings}))
    if not path.exists():
        write(path, mine)
        return
    try:
        noted = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path}: {reason(error)}") from error
    if noted != mine:
        names = [name for name in {**noted, **mine} if noted.get(name) != mine.get(name)]
        differ = ", ".join(f"{name} {noted.get(name)!r}, not {mine.get(name)!r}" for name in names)
        raise UsageError(f"--out: {path.parent.parent} holds a different grid ({differ}); choose another directory")


def result_path(out: Path, cell: Cell) -> Path:
    """Where the cell's result is stored."""
    return out / CELLS / f"{cell.name}.json"


def log_path(out: Path, cell: Cell) -> Path:
    """Where the cell's process writes what it has to say."""
    return out / CELLS / f"{cell.name}.log"


def work_directory(out: Path, cell: Cell) -> Path:
    """Where the cell keeps files while it runs; removed once its result is stored."""
    return work_directories(out) / cell.name


def work_directories(out: Path) -> Path:
    """Folder of the `work_directory` of every cell."""
    return out / CELLS / "work"


def write(path: Path, value: Any) -> None:
    """Write JSON atomically. Raises ValueError for NaN and infinities."""
    with atomic_write(path) as stream:
        stream.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def select(rows: Sequence[Row], **wanted: str | int) -> list[Row]:
    """The rows whose fields have the wanted values."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]

"""Raw tables, read lazily with polars: CSV as text, Parquet as it is; and errors that name file, row and rule."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from irecgan_ext.errors import LogError
from irecgan_ext.files import reason

ROW = "irecgan_row"  # index column of every table, from 0


@dataclass(frozen=True)
class RawTable:
    """A file to read.

    Attributes:
        path: of the file.
        frame: its columns and `ROW`.
        first_row: number of the first row in messages: 2 for text with a header, as editors count, 0 for Parquet.
        separator: of text; None for Parquet.
    """

    path: Path
    frame: pl.LazyFrame
    first_row: int
    separator: str | None = None

    def error(self, rule: str, row: int | None = None) -> LogError:
        """The error to raise for row `row`, counted from 0."""
        where = f"{self.path}: " if row is None else f"{self.path}: row {row + self.first_row}: "
        return LogError(where + rule)

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Run a query on this table, streaming.

        Raises:
            LogError: the file is damaged, or a row has too many fields.
        """
        with self.reading():
            return frame.collect(engine="streaming")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what polars finds wrong with the file into a LogError."""
        try:
            yield
        except (pl.exceptions.PolarsError, OSError) as error:
            if "found more fields" in str(error) and self.separator is not None:
                row, got, wanted = self._widest()
                raise self.error(f"must have {wanted} fields separated by {self.separator}, got {got}", row) from error
            raise self.error(f"cannot be read: {reason(error)}") from error

    def _widest(self) -> tuple[int, int, int]:
        """The first row with more fields than the header: its index, its fields, the header's."""
        assert self.separator is not None
        lines = pl.scan_csv(self.path, has_header=False, separator="\x01", quote_char=None, infer_schema=False)
        fields = pl.nth(0).str.count_matches(self.separator, literal=True).fill_null(0) + 1
        counts = lines.select(fields.alias("fields")).with_row_index("line").collect()
        wanted = int(counts["fields"][0])
        worst = counts.filter(pl.col("fields") > wanted).row(0, named=True)
        return int(worst["line"]) - 1, int(worst["fields"]), wanted

    def check_fields(self) -> None:
        """Raise LogError if a row of text has too many fields: polars notices only where every column is read."""
        if self.separator is not None:
            self.collect(self.frame.select(pl.all().null_count()))

    def count(self) -> int:
        """Rows."""
        return int(self.collect(self.frame.select(pl.len())).item())

    def reject(self, bad: dict[str, tuple[pl.Expr, str]]) -> None:
        """Raise for the first row that breaks a rule.

        Args:
            bad: by column, an expression that is true where the column breaks the rule, and the rule. A null is then said to
                be missing, whatever the rule.

        Raises:
            LogError: one line with file, row, column and value.
        """
        found = self.collect(
            self.frame.select(pl.col(ROW).filter(where).min().alias(c) for c, (where, _) in bad.items())
        )
        for column, (_, rule) in bad.items():
            row = found[column][0]
            if row is not None:
                value = self.collect(self.frame.filter(pl.col(ROW) == row).select(column)).to_dicts()[0][column]
                shown = reprlib.repr(value)  # a list may have hundreds of items
                raise self.error(f"{column} is missing" if value is None else f"{column} {rule}, got {shown}", row)


def open_text(path: Path, columns: tuple[str, ...], separator: str) -> RawTable:
    """A CSV file with a header, all columns as text; `NA` and nothing are null.

    Raises:
        LogError: the file cannot be read, or a column is missing.
    """
    table = RawTable(path, pl.LazyFrame(), 2, separator)
    with table.reading():
        _touch(path)
        frame = pl.scan_csv(path, separator=separator, infer_schema=False, null_values=["NA", ""], row_index_name=ROW)
        names = frame.collect_schema().names()
    _require(
        table,
        names,
        columns,
        f"; with the separator {separator!r} the file has a single column" if len(names) == 2 else "",
    )
    return RawTable(path, frame, 2, separator)


def open_parquet(path: Path, columns: tuple[str, ...]) -> RawTable:
    """A Parquet file.

    Raises:
        LogError: the file cannot be read, or a column is missing.
    """
    table = RawTable(path, pl.LazyFrame(), 0)
    with table.reading():
        _touch(path)
        frame = pl.scan_parquet(path, row_index_name=ROW)
        names = frame.collect_schema().names()
    _require(table, names, columns, "")
    return RawTable(path, frame, 0)


def _touch(path: Path) -> None:
    """Raise the OSError of a file that cannot be opened: polars would take a directory, or a pattern, for many files."""
    with open(path, "rb"):
        pass


def integer(column: str) -> tuple[pl.Expr, str]:
    """The rule that a text column holds integers, for `RawTable.reject`."""
    return pl.col(column).cast(pl.Int64, strict=False).is_null(), "must be an integer"


def present(column: str) -> tuple[pl.Expr, str]:
    """The rule that a column is never null, for `RawTable.reject`."""
    return pl.col(column).is_null(), "must be given"


def integer_list(column: str, separator: str) -> tuple[pl.Expr, str]:
    """The rule that a text column holds integers with `separator` between them, or nothing."""
    one = r"-?[0-9]{1,18}"
    pattern = f"^{one}({_escape(separator)}{one})*$"
    return ~pl.col(column).str.contains(pattern), f"must be integers separated by {separator}"


def whole_list(column: str, separator: str) -> tuple[pl.Expr, str]:
    """The rule that no item of a text column's lists is `NA` or nothing."""
    between = _escape(separator)
    gap = pl.col(column).str.contains(f"(^|{between})(NA)?({between}|$)").fill_null(False)
    return gap, f"must have an item between every two {separator!r}"


def _escape(separator: str) -> str:
    return "".join(f"\\x{{{ord(c):x}}}" for c in separator)


def _require(table: RawTable, names: list[str], columns: tuple[str, ...], hint: str) -> None:
    for column in columns:
        if column not in names:
            raise table.error(f"column {column} is missing{hint}")

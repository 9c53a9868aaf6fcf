"""Turn a raw log into sessions to train on: `python -m irecgan_ext.prepare SOURCE ... --out DIR`."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from irecgan_ext.cli import run_command
from irecgan_ext.errors import UsageError, checking_arguments

if TYPE_CHECKING:
    from irecgan_ext.data.assemble import Assembly
    from irecgan_ext.data.raw import RawLog

PAPER_VALID, PAPER_TEST = 1_718 / 68_822, 1_820 / 68_822


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all sources have in common."""

    out: Path
    """Directory to write: sessions by split, maps of ids, report. It must not exist yet, or be empty."""
    min_length: int = 2
    """Least clicks of a session. The paper's is 2."""
    max_length: int = 40
    """Most clicks of a session. The paper's is 40."""
    items: int | None = 40_000
    """Keep so many of the most clicked items, the paper's 40,000; None keeps all."""
    clicked_only: bool = True
    """Leave out items that nobody ever clicked, as the paper does. Whether an item is clicked is then seen from the test
    sessions too: in a small log, being on a list is half the answer."""
    valid_share: float = 0.1
    """Share of the sessions to stop training on."""
    test_share: float = 0.1
    """Share of the sessions to test on."""
    seed: int = 0
    """Seed of the split, of shuffling and of synthetic files."""
    repair: Literal["drop", "add"] = "drop"
    """What to do with a click on an item that its list does not hold: drop the click, or add the item to the list. Both are
    counted in the report."""
    end: Literal["repeat", "unclicked", "none"] = "repeat"
    """The list on which a user leaves. unclicked: the first list without a click after the session's last click, where the log
    has one. repeat: that, or else the list of the last click once more. none: no session shows its end."""
    shuffle: bool = False
    """Put every list in a random order, where places give away what was clicked. The logged place of each click is kept for the
    baseline."""
    inter: bool = False
    """Write the splits as RecBole's .inter files too."""


@dataclass(frozen=True, kw_only=True)
class DigineticaOptions(Options):
    """The six raw files of CIKM Cup 2016 track 2 (DIGINETICA), with the paper's filters and split."""

    source: tyro.conf.Positional[Path | None] = None
    """Directory with the files. With --synthetic: where to write them; None puts them into OUT/raw."""
    synthetic: int | None = None
    """First write files of the same shape, with every quirk of the originals, of so many sessions (the originals have
    573,935)."""
    valid_share: float = PAPER_VALID
    """Share of the sessions to stop training on. The paper's is 1,718 of 68,822."""
    test_share: float = PAPER_TEST
    """Share of the sessions to test on. The paper's is 1,820 of 68,822."""


@dataclass(frozen=True, kw_only=True)
class TrivagoOptions(Options):
    """Actions in the format of the RecSys Challenge 2019 (trivago), CSV or Parquet; lists are shuffled."""

    source: tyro.conf.Positional[Path]
    """The file."""
    reward: Literal["deals", "click"] = "deals"
    """deals: a look at the deals of a clicked item earns 1, for want of bookings; click: every click does."""
    items: int | None = None
    """Keep so many of the most clicked items; None keeps all."""
    clicked_only: bool = False
    """Leave out items that nobody ever clicked."""
    shuffle: bool = True
    """Put every list in a random order: in these lists, places give away what was clicked. The logged place of each click is
    kept for the baseline."""


@dataclass(frozen=True, kw_only=True)
class EbnerdOptions(Options):
    """Impressions of EB-NeRD (Ekstra Bladet news)."""

    source: tyro.conf.Positional[Path]
    """behaviors.parquet."""
    items: int | None = None
    """Keep so many of the most clicked items; None keeps all."""
    clicked_only: bool = False
    """Leave out items that nobody ever clicked."""


@dataclass(frozen=True, kw_only=True)
class ParquetOptions(Options):
    """Your own Parquet file, one row per list shown."""

    source: tyro.conf.Positional[Path]
    """The file."""
    session: str = "session"
    """Column of the session's id."""
    list: str = "list"
    """Column of the items shown: a list column, or text with --list-separator between the items."""
    click: str = "click"
    """Column of the item clicked, or of a list of them in order; empty where there was no click."""
    order: str | None = None
    """Column that sorts the rows of a session. None: the order of the file. Repeated rows are dropped only where there is such a
    column: without one, they may be two clicks."""
    reward: str | None = None
    """Column of rewards, 0 or 1. None: a click earns 1."""
    list_separator: str = "|"
    """Between the items of a list in text."""


@dataclass(frozen=True, kw_only=True)
class CsvOptions(ParquetOptions):
    """Your own CSV file with a header, one row per list shown."""

    separator: str = ","
    """Between the columns."""


@dataclass(frozen=True, kw_only=True)
class RecboleOptions(ParquetOptions):
    """A RecBole .inter file whose rows hold the list shown as a token_seq field."""

    session: str = "session_id"
    """Field of the session's id."""
    list: str = "item_list"
    """Field of the items shown, a token_seq."""
    click: str = "item_id"
    """Field of the item clicked."""
    order: str | None = "timestamp"
    """Field that sorts the rows of a session; without it, the order of the file."""
    reward: str | None = "label"
    """Field of rewards, 0 or 1; without it, a click earns 1."""
    list_separator: str = " "
    """Between the items of a list."""


Sources = (
    Annotated[DigineticaOptions, tyro.conf.subcommand("diginetica")]
    | Annotated[TrivagoOptions, tyro.conf.subcommand("trivago")]
    | Annotated[EbnerdOptions, tyro.conf.subcommand("ebnerd")]
    | Annotated[CsvOptions, tyro.conf.subcommand("csv")]
    | Annotated[ParquetOptions, tyro.conf.subcommand("parquet")]
    | Annotated[RecboleOptions, tyro.conf.subcommand("recbole")]
)


def main(options: Options) -> None:
    """Read, filter, split, write, and print the report.

    Raises:
        UserError: an option is out of range, the raw log breaks a rule, or the directory cannot be written.
    """
    if importlib.util.find_spec("polars") is None:
        raise UsageError("prepare needs polars, which is not installed: pip install 'irecgan_ext[data]'")
    from irecgan_ext.data.prepared import new_directory, write_prepared

    how = _assembly(options)
    with new_directory(options.out) as directory:
        raw = _read(options, directory)
        report = write_prepared(directory, raw, how, _notes(options))
        if options.inter:
            from irecgan_ext.data.recbole import write_inter

            write_inter(directory, options.out.resolve().name)
    print(report.text())
    print(f"\nwritten to {options.out}; go on with python -m irecgan_ext.train --data {options.out}")


def _read(options: Options, directory: Path) -> RawLog:
    """The raw log that the options name; `directory` is the one being written."""
    from irecgan_ext.data import columns, diginetica, ebnerd, recbole, synthetic, trivago

    if isinstance(options, DigineticaOptions):
        source = options.source
        if options.synthetic is not None:
            source = source or directory / "raw"
            if source.exists() and any((source / name).exists() for name in synthetic.FILES):
                raise UsageError(f"--synthetic: {source} holds raw files already; choose another directory")
            with checking_arguments():
                synthetic.write_synthetic(source, options.synthetic, options.seed)
        if source is None:
            raise UsageError("diginetica needs the directory of the raw files, or --synthetic N")
        return diginetica.read_diginetica(source)
    if isinstance(options, TrivagoOptions):
        return trivago.read_trivago(options.source, options.reward)
    if isinstance(options, EbnerdOptions):
        return ebnerd.read_ebnerd(options.source)
    assert isinstance(options, ParquetOptions)
    names = columns.Columns(
        options.session, options.list, options.click, options.order, options.reward, options.list_separator
    )
    if isinstance(options, RecboleOptions):
        return recbole.read_inter(options.source, names)
    if isinstance(options, CsvOptions):
        return columns.read_csv(options.source, names, options.separator)
    return columns.read_parquet(options.source, names)


def _assembly(options: Options) -> Assembly:
    """The options that all sources share, checked."""
    from irecgan_ext.data.assemble import Assembly
    from irecgan_ext.data.filters import Filters

    if options.min_length < 1:
        raise UsageError(f"--min-length must be at least 1, got {options.min_length}")
    if options.max_length < options.min_length:
        raise UsageError(f"--max-length must be at least {options.min_length}, got {options.max_length}")
    if options.items is not None and options.items < 1:
        raise UsageError(f"--items must be at least 1, got {options.items}")
    for flag, share in (("valid-share", options.valid_share), ("test-share", options.test_share)):
        if not 0 < share < 1:
            raise UsageError(f"--{flag} must be in (0, 1), got {share}")
    if options.seed < 0:
        raise UsageError(f"--seed must not be negative, got {options.seed}")
    filters = Filters(options.min_length, options.max_length, options.items, options.clicked_only)
    shares = (options.valid_share, options.test_share)
    return Assembly(filters, options.repair, options.end, options.shuffle, *shares, options.seed)


def _notes(options: Options) -> dict[str, Any]:
    """How the log was made, for the metadata of its files."""
    values = {name: value for name, value in dataclasses.asdict(options).items() if name != "out"}
    kind = type(options).__name__.removesuffix("Options").lower()
    return {"prepared_from": kind, **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}}


if __name__ == "__main__":
    chosen: Any = Sources
    sys.exit(run_command(main, chosen, prog="python -m irecgan_ext.prepare"))

"""Recommend with what was trained: `python -m irecgan_ext.recommend DIR --histories FILE`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from irecgan_ext.cli import run_command
from irecgan_ext.data.histories import Format, Histories, Item, format_of, read_histories
from irecgan_ext.data.item_ids import ItemIds, read_candidates, read_item_ids
from irecgan_ext.data.packed_log import is_split
from irecgan_ext.data.recommendations import open_writer
from irecgan_ext.errors import UsageError
from irecgan_ext.serving.histories import Reader, Unknown
from irecgan_ext.serving.recommender import Recommendation, Recommender
from irecgan_ext.serving.timing import compare
from irecgan_ext.training.trained import Trained, item_id_places, load_trained

_BENCH = 512  # histories of the benchmark's batch


@dataclass(frozen=True)
class RecommendOptions:
    """Recommend items for click histories with a trained agent, a batch at a time, so that any number of them fits in memory.

    A history is a JSON line ([3, 17, 4], or {"id": "u1", "history": [3, 17, 4]}), a CSV row with the columns id and history
    (items with spaces between), or a Parquet row with a list column history. Items are called as in the raw log where the run or
    its data keep a map of ids (items.parquet), and 0..C-1 otherwise. A session log, such as the test.parquet of a prepared log,
    is read too: its sessions are the histories, its items 0..C-1.
    """

    directory: tyro.conf.Positional[Path]
    """Directory of a finished run of irecgan_ext.train."""
    histories: str = "-"
    """Histories: a .jsonl, .csv or .parquet file, or - for standard input."""
    k: int = 10
    """Items per history."""
    greedy: tyro.conf.FlagCreatePairsOff[bool] = False
    """The k most probable items (the default)."""
    sample: tyro.conf.FlagCreatePairsOff[bool] = False
    """k draws without replacement from the agent's softmax, as in training."""
    candidates: Path | None = None
    """Recommend only the items of this text file, one per line."""
    out: str = "-"
    """Where the lists go: a .jsonl, .csv or .parquet file, or - for standard output. A file appears whole or not at all."""
    exclude_seen: bool = True
    """Leave out what the history holds already. Simulated users may click an item twice: --no-exclude-seen is the policy of the
    online test."""
    unknown: Literal["auto", "hide", "drop", "error"] = "auto"
    """Items that are not in the catalogue: hide reads them as a click on something unknown, drop leaves them out, error stops.
    auto: hide where the agent was trained with history dropout, otherwise drop: without it the agent never learnt what a hidden
    click is, and hide feeds it noise."""
    input_format: Literal["jsonl", "csv", "parquet"] | None = None
    """Of the histories. None: by the suffix; JSON lines from standard input."""
    output_format: Literal["jsonl", "csv", "parquet"] | None = None
    """Of the lists. None: by the suffix; JSON lines to standard output."""
    agent: str | None = None
    """Which agent of the run, by its row in the run's table: irecgan, pg, ... None: that of the run's method."""
    seed: int = 0
    """Of --sample: the same seed gives a history at the same place the same list."""
    log_probs: bool = True
    """Write each item's log-probability. --sample --no-log-probs prepares the catalogue first and then looks into few of its
    items: faster where it is large, draws by the same law, but others. The lists of log-probabilities are empty then."""
    batch: int = 512
    """Histories in memory at a time."""
    threads: int | None = None
    """CPU threads; None: as torch chooses."""
    bench: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print histories per second, beside those of PyTorch with all logits in memory, and recommend nothing. On the histories
    of --histories if it is a file, otherwise on those of the run's log."""


def main(options: RecommendOptions) -> None:
    """Load the agent, read, recommend, write; progress and a summary go to standard error.

    Raises:
        UserError: the run, the histories, the candidates or an option.
    """
    _check(options)
    source = format_of(options.histories, options.input_format)
    target = format_of(options.out, options.output_format)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    trained = load_trained(options.directory, options.agent)
    if options.k > trained.items:
        raise UsageError(f"--k must be in 1..C (C = {trained.items}), got {options.k}")
    ids = read_item_ids(trained.items, item_id_places(options.directory, trained.config))
    if is_split(options.histories):
        ids.check_same(Path(options.histories).parent)
    prepare = options.sample and not options.log_probs and not options.bench
    recommender = Recommender(trained.agent, _candidates(options, ids), prepare=prepare)
    reader = _reader(options, trained, ids)
    if options.bench:
        _bench(options, trained, recommender, reader, ids, source)
        return
    batches = read_histories(options.histories, source, options.batch, trained.items)
    short = first = 0
    with open_writer(options.out, target) as writer, tqdm(unit=" histories", disable=not sys.stderr.isatty()) as bar:
        for batch in batches:
            lists = _recommend(options, recommender, reader, batch, first)
            shown = [[item for item in row if item >= 0] for row in lists.items.tolist()]
            log_probs = lists.log_probs.double().round(decimals=6).tolist()
            scores = [row[: len(kept) * options.log_probs] for row, kept in zip(log_probs, shown, strict=True)]
            writer.write(batch.ids, [ids.out(row) for row in shown], scores)
            short += sum(len(row) < options.k for row in shown)
            first += len(batch)
            bar.update(len(batch))
    _report(reader, short, options.k)


def _check(options: RecommendOptions) -> None:
    if options.greedy and options.sample:
        raise UsageError("--greedy and --sample exclude each other")
    for flag, value in (("k", options.k), ("batch", options.batch), ("threads", options.threads)):
        if value is not None and value < 1:
            raise UsageError(f"--{flag} must be at least 1, got {value}")


def _candidates(options: RecommendOptions, ids: ItemIds) -> Tensor | None:
    """[C] bool, the items that may be shown."""
    if options.candidates is None:
        return None
    found, unknown = read_candidates(options.candidates, ids)
    if unknown:
        print(f"{options.candidates}: {unknown} lines name no item of the catalogue", file=sys.stderr)
    mask = torch.zeros(ids.items, dtype=torch.bool)
    mask[found] = True
    return mask


def _reader(options: RecommendOptions, trained: Trained, ids: ItemIds) -> Reader[Item]:
    unknown: Unknown = "hide" if trained.config.model.history_dropout > 0 else "drop"
    if options.unknown == "hide" or options.unknown == "drop":
        unknown = options.unknown
    return Reader(ids.inside, starts_from_item=trained.starts_from_item, unknown=unknown)


def _recommend(
    options: RecommendOptions, recommender: Recommender, reader: Reader[Item], batch: Histories, first: int
) -> Recommendation:
    """Lists for a batch whose first history is number `first` of the input."""
    symbols, seen = reader.read(batch.clicks)
    if options.unknown == "error" and reader.count.unknown:
        place = next(
            row for row, clicks in enumerate(batch.clicks) if any(reader.inside(item) is None for item in clicks)
        )
        item = next(item for item in batch.clicks[place] if reader.inside(item) is None)
        raise UsageError(f"{options.histories}: history {batch.ids[place]}: item {item} is not in the catalogue")
    state = recommender.replay(symbols)
    exclude = seen if options.exclude_seen else None
    if options.sample:
        rows = first + torch.arange(len(batch))
        return recommender.sample(
            state, options.k, exclude=exclude, seed=options.seed, rows=rows, log_probs=options.log_probs
        )
    return recommender.recommend(state, options.k, exclude=exclude)


def _report(reader: Reader[Item], short: int, k: int) -> None:
    """What a user should know of the whole, on standard error."""
    count = reader.count
    print(f"recommended for {count.histories} histories", file=sys.stderr)
    if count.unknown:
        done = "left out" if reader.unknown == "drop" else "read as clicks on something unknown"
        where = f"in {count.affected} histories are not in the catalogue"
        print(f"{count.unknown} items {where}: {done}", file=sys.stderr)
    if short:
        print(f"{short} lists have fewer than {k} items: no more were left", file=sys.stderr)


def _bench(
    options: RecommendOptions,
    trained: Trained,
    recommender: Recommender,
    reader: Reader[Item],
    ids: ItemIds,
    form: Format,
) -> None:
    """Histories per second of one batch, repeated."""
    if options.histories == "-":
        log = trained.source.log
        sessions = log.select(torch.arange(_BENCH) % len(log))
        symbols = torch.cat([sessions.start[:, None], sessions.clicks], 1).tolist()
        histories: list[list[Item]] = [ids.out([item for item in row if item >= 0]) for row in symbols]
    else:
        found = next(read_histories(options.histories, form, _BENCH, trained.items), Histories())
        histories = found.clicks
    if not histories:
        raise UsageError(f"{options.histories}: holds no history")
    inputs, seen = reader.read(histories)
    exclude = seen if options.exclude_seen else torch.empty(len(histories), 0, dtype=torch.int64)
    rates = compare(recommender, inputs, exclude, options.k, sample=options.sample)
    longest = max(map(len, inputs))
    print(
        f"batch of {len(histories)} histories of up to {longest} symbols, C = {trained.items}, k = {options.k}, ",
        end="",
    )
    print(f"{'sampled' if options.sample else 'greedy'}, {torch.get_num_threads()} threads")
    for name, rate in rates.items():
        low, high = rate.quartiles
        print(f"{name:12}{rate.median:12.0f} histories/s  [{low:.0f}, {high:.0f}]")


if __name__ == "__main__":
    sys.exit(run_command(main, RecommendOptions, prog="python -m irecgan_ext.recommend"))

"""Files shaped like those of CIKM Cup 2016 track 2 (DIGINETICA), with every quirk of the originals, at any size.

The columns, separators, `NA` and the shares of duplicates are the originals'; so are the mean numbers per session of queries,
clicks, purchases and items per list. Contents are drawn: each item has a hidden appeal, and of three places of a list the user
clicks the most appealing item.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray
from tqdm import tqdm

from irecgan_ext.files import atomic_write

FULL_SIZE = 573_935  # sessions of the originals
QUERIES = 923_127 / FULL_SIZE  # per session
CLICKS = 1_117_455 / 923_127  # per query, without duplicates
LIST_LENGTH, LIST_SPREAD = 145.0, 0.8  # mean, and deviation of the logarithm
VIEWS = 1_235_380 / FULL_SIZE
PURCHASES = 18_025 / 1_127_764  # per click
PRODUCTS = 184_047 / FULL_SIZE
DUPLICATES = 10_309 / 1_127_764  # rows that appear twice
RARE = 0.002  # share of each fault: a click outside its list, a click without its query, a list with an item twice
CHUNK = 20_000  # sessions in memory at a time

FILES = (
    "train-queries.csv",
    "train-clicks.csv",
    "train-item-views.csv",
    "train-purchases.csv",
    "products.csv",
    "product-categories.csv",
)

Ints = NDArray[np.int64]


def write_synthetic(directory: Path, sessions: int, seed: int = 0) -> None:
    """Write the six files of `sessions` sessions; the same arguments give the same bytes.

    Args:
        directory: created if missing; each file appears whole or not at all.
        sessions: at least 1.
        seed: of everything.

    Raises:
        ValueError: `sessions` is below 1.
        OSError: the directory cannot be written.
    """
    if sessions < 1:
        raise ValueError(f"sessions must be at least 1, got {sessions}")
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    products = max(60, round(PRODUCTS * sessions))
    ids = 2 * random.permutation(products) + 7  # as in the originals, ids are not 0, 1, 2, ...
    appeal = random.standard_normal(products)
    _write_products(directory, ids, random)
    with ExitStack() as stack:
        queries, clicks, views, purchases = (stack.enter_context(_Csv(directory / name)) for name in FILES[:4])
        chunks = range(0, sessions, CHUNK)
        for first in tqdm(chunks, desc="writing raw files", unit=" chunks", disable=None, leave=False):
            count = min(CHUNK, sessions - first)
            shown = _queries(random, first, count, products)
            clicked = _clicks(random, shown, appeal)
            queries.write(_query_table(random, shown, ids))
            clicks.write(_twice(random, _click_table(clicked, ids)))
            views.write(_view_table(random, first, count, ids))
            purchases.write(_twice(random, _purchase_table(random, clicked, ids)))


class _Csv:
    """A `;`-separated file, written table by table."""

    def __init__(self, path: Path) -> None:
        self._file = atomic_write(path)
        self._writer: pyarrow.csv.CSVWriter | None = None

    def __enter__(self) -> _Csv:
        self._stream = self._file.__enter__()
        return self

    def write(self, columns: dict[str, pa.Array]) -> None:
        text = {name: pc.fill_null(pc.cast(values, pa.string()), "NA") for name, values in columns.items()}
        table = pa.table(text)
        if self._writer is None:
            options = pyarrow.csv.WriteOptions(delimiter=";", quoting_style="none", quoting_header="none")
            self._writer = pyarrow.csv.CSVWriter(self._stream, table.schema, write_options=options)
        self._writer.write_table(table)

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self._file.__exit__(*error)  # type: ignore[arg-type]


class _Shown:
    """Queries of a chunk. Q queries; a list is `start + stride * place` modulo the number of products, so it has no repeats."""

    def __init__(self, random: np.random.Generator, session: Ints, query: Ints, products: int) -> None:
        self.session, self.query, self.products = session, query, products  # [Q]
        self.user = random.integers(1, 60_000, len(session))
        self.known = random.random(len(session)) < 0.3
        self.day = random.integers(0, 150, session.max() - session.min() + 1)[session - session.min()]
        self.time = random.integers(1_000, 10_000_000, len(session))
        shift = np.log(LIST_LENGTH) - LIST_SPREAD**2 / 2
        width = np.exp(random.normal(shift, LIST_SPREAD, len(session))).astype(np.int64) + 1
        self.width = np.minimum(width, products)
        self.start = random.integers(0, products, len(session))
        coprime = np.flatnonzero(np.gcd(np.arange(min(products, 1000)), products) == 1)
        self.stride = random.choice(coprime, len(session))
        self.test = random.random(len(session)) < 0.05

    def item(self, query: Ints, place: Ints) -> Any:
        """Index of the item at `place` of each of the lists `query` (rows of this chunk)."""
        return (self.start[query] + self.stride[query] * place) % self.products


def _queries(random: np.random.Generator, first: int, count: int, products: int) -> _Shown:
    sessions = np.arange(first, first + count)
    session = np.repeat(sessions, random.geometric(1 / QUERIES, count))
    # Query ids rise with the session but not in steps of 1; a session has fewer than 64 queries.
    place = np.arange(len(session)) - np.searchsorted(session, session)
    return _Shown(random, session, session * 64 + np.minimum(place, 63), products)


def _clicks(random: np.random.Generator, shown: _Shown, appeal: NDArray[np.float64]) -> dict[str, Ints]:
    """Row of the query, time and item of each click; most queries get none, some several."""
    often = np.where(random.random(len(shown.query)) < 0.45, random.geometric(0.45 / CLICKS, len(shown.query)), 0)
    often[shown.test] = 0  # the originals withhold the clicks of test queries
    query = np.repeat(np.arange(len(often)), often)
    places = (random.random((3, len(query))) * shown.width[query]).astype(np.int64)
    candidates = np.stack([shown.item(query, place) for place in places])
    item = candidates[appeal[candidates].argmax(0), np.arange(len(query))]
    outside = _some(random, len(query), RARE) & (shown.width[query] < shown.products)
    item[outside] = shown.item(query, shown.width[query])[outside]  # the item that would be next on the list
    time = shown.time[query] + random.integers(1, 600_000, len(query))
    identity = shown.query[query]
    lost = _some(random, len(query), RARE) & ~outside
    return {
        "query": np.where(lost, identity + 10**9, identity),
        "session": shown.session[query],
        "day": shown.day[query],
        "time": time,
        "item": item,
    }


def _query_table(random: np.random.Generator, shown: _Shown, ids: Ints) -> dict[str, pa.Array]:
    rows = np.repeat(np.arange(len(shown.query)), shown.width)
    offsets = np.append(0, np.cumsum(shown.width))
    items = ids[shown.item(rows, np.arange(len(rows)) - offsets[rows])]
    twice = np.flatnonzero(_some(random, len(shown.width), RARE) & (shown.width > 1))
    items[offsets[twice] + 1] = items[offsets[twice]]
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pc.cast(pa.array(items), pa.string()))
    text = random.random(len(shown.query)) < 53_427 / 923_127
    words = random.integers(1, 180_000, (2, len(shown.query)))
    search = [f"{a},{b}" if there else None for a, b, there in zip(*words.tolist(), text.tolist())]
    empty = _some(random, len(shown.query), RARE)
    order = random.permutation(len(shown.query))  # the originals are not in order of time
    columns = {
        "queryId": pa.array(shown.query),
        "sessionId": pa.array(shown.session),
        "userId": pa.array(shown.user, mask=~shown.known),
        "timeframe": pa.array(shown.time),
        "duration": pa.array(random.integers(50, 3_000, len(shown.query))),
        "eventdate": _dates(shown.day),
        "searchstring.tokens": pa.array(search, pa.string()),
        "categoryId": pa.array(random.integers(0, 1_200, len(shown.query)), mask=text),
        "items": pc.if_else(pa.array(empty), pa.scalar(None, pa.string()), pc.binary_join(lists, ",")),
        "is.test": pc.if_else(pa.array(shown.test), "TRUE", "FALSE"),
    }
    return {name: values.take(pa.array(order)) for name, values in columns.items()}


def _click_table(clicked: dict[str, Ints], ids: Ints) -> dict[str, pa.Array]:
    columns = {"queryId": clicked["query"], "timeframe": clicked["time"], "itemId": ids[clicked["item"]]}
    return {name: pa.array(values) for name, values in columns.items()}


def _view_table(random: np.random.Generator, first: int, count: int, ids: Ints) -> dict[str, pa.Array]:
    session = np.sort(random.integers(first, first + count, round(VIEWS * count)))
    return {
        "sessionId": pa.array(session),
        "userId": pa.array(random.integers(1, 60_000, len(session)), mask=random.random(len(session)) < 0.7),
        "itemId": pa.array(random.choice(ids, len(session))),
        "timeframe": pa.array(random.integers(1_000, 10_000_000, len(session))),
        "eventdate": _dates(random.integers(0, 150, len(session))),
    }


def _purchase_table(random: np.random.Generator, clicked: dict[str, Ints], ids: Ints) -> dict[str, pa.Array]:
    """Purchases of clicked items, and one in ten of an item that the session never clicked."""
    bought = np.flatnonzero(_some(random, len(clicked["item"]), PURCHASES))
    other = _some(random, len(bought), 0.1)
    item = np.where(other, random.integers(0, len(ids), len(bought)), clicked["item"][bought])
    return {
        "sessionId": pa.array(clicked["session"][bought]),
        "userId": pa.array(random.integers(1, 60_000, len(bought)), mask=random.random(len(bought)) < 0.5),
        "timeframe": pa.array(clicked["time"][bought] + 5_000),
        "eventdate": _dates(clicked["day"][bought]),
        "ordernumber": pa.array(random.integers(1, 40_000, len(bought))),
        "itemId": pa.array(ids[item]),
    }


def _write_products(directory: Path, ids: Ints, random: np.random.Generator) -> None:
    words = random.integers(1, 180_000, (2, len(ids))).tolist()
    with _Csv(directory / FILES[4]) as products:
        names = pa.array([f"{a},{b}" for a, b in zip(*words)])
        price = pa.array(random.integers(1, 13, len(ids)))
        products.write({"itemId": pa.array(ids), "pricelog2": price, "product.name.tokens": names})
    with _Csv(directory / FILES[5]) as categories:
        categories.write({"itemId": pa.array(ids), "categoryId": pa.array(random.integers(0, 1_200, len(ids)))})


def _twice(random: np.random.Generator, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """The rows with a few of them repeated exactly, elsewhere in the table."""
    count = len(next(iter(columns.values())))
    again = np.flatnonzero(_some(random, count, DUPLICATES))
    order = pa.array(random.permutation(np.append(np.arange(count), again)))
    return {name: values.take(order) for name, values in columns.items()}


def _some(random: np.random.Generator, count: int, share: float) -> NDArray[np.bool_]:
    """[count] true for a random `share`, and for one at least, so that small files have every fault too."""
    chosen = random.random(count) < share
    chosen[random.integers(0, count, min(count, 1))] = True
    return chosen


def _dates(days: Ints) -> pa.Array:
    return pc.strftime(pa.array(np.datetime64("2016-01-01") + days.astype("timedelta64[D]")), "%Y-%m-%d")

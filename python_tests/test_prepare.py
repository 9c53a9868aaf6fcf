"""The prepare command: every source to session files, its report, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pl = pytest.importorskip("polars", reason="polars is not installed (extra data): prepare cannot be tested")

from irecgan_ext import cli, prepare  # noqa: E402
from irecgan_ext.data.packed_log import read_catalogue, read_prepared  # noqa: E402
from irecgan_ext.data.sessions import read_sessions  # noqa: E402
from irecgan_ext.data.synthetic import FILES, write_synthetic  # noqa: E402
from irecgan_ext.types import END, PAD  # noqa: E402

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
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        options: Any = prepare.Sources
        status = cli.run_command(prepare.main, options, prog="prepare", args=[str(arg) for arg in args])
    return status, out.getvalue(), error.getvalue()


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


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A DIGINETICA by hand: three sessions of two clicks, and one of each quirk."""
    folder = tmp_path / "diginetica"
    folder.mkdir()
    head = "queryId;sessionId;userId;timeframe;duration;eventdate;searchstring.tokens;categoryId;items;is.test"
    write(
        folder / FILES[0],
        head,
        "12;1;NA;50;10;2016-05-02;NA;7;10,11,12,13;FALSE",  # the later day, whatever its timeframe
        "11;1;NA;900;10;2016-05-01;3,4;NA;10,11,12;FALSE",
        "13;1;5;60;10;2016-05-02;NA;7;13,12,99;FALSE",  # no click: the list on which session 1 leaves
        "21;2;NA;5;10;2016-05-01;NA;7;10,10,11;FALSE",  # an item twice
        "22;2;NA;6;10;2016-05-01;NA;7;NA;FALSE",  # no list
        "31;3;NA;5;10;2016-05-01;NA;7;13,11;FALSE",
        "41;4;NA;5;10;2016-05-01;NA;7;10,11;TRUE",
    )
    write(
        folder / FILES[1],
        "queryId;timeframe;itemId",
        "12;55;13",
        "11;905;12",
        "21;8;11",
        "21;7;10",
        "21;8;11",  # a repeat
        "22;9;10",
        "31;6;11",
        "31;7;13",
        "31;8;10",  # not in its list
        "77;1;10",  # no such query
    )
    write(
        folder / FILES[2], "sessionId;userId;itemId;timeframe;eventdate", "1;NA;13;4;2016-05-01", "1;NA;13;9;2016-05-01"
    )
    write(
        folder / FILES[3],
        "sessionId;userId;timeframe;eventdate;ordernumber;itemId",
        "1;NA;99;2016-05-02;1;13",
        "1;NA;99;2016-05-02;1;13",  # a repeat
        "3;NA;99;2016-05-02;2;12",  # never clicked
    )
    write(folder / FILES[4], "itemId;pricelog2;product.name.tokens", "13;4;1,2", "10;NA;1,2")
    write(folder / FILES[5], "itemId;categoryId", "13;700", "10;701")
    return folder


def test_diginetica_joins_and_quirks(raw: Path, tmp_path: Path) -> None:
    status, printed, error = prepare_here("diginetica", raw, "--out", tmp_path / "out")
    assert (status, error) == (0, "")
    found = sessions_of(tmp_path / "out")
    step = {"reward": 0.0, "position": None}
    assert found["1"] == [
        step | {"slate": ["10", "11", "12"], "click": "12", "position": 2},
        step | {"slate": ["10", "11", "12", "13"], "click": "13", "reward": 1.0, "position": 3},
        step | {"slate": ["13", "12"], "click": None},  # 99 is never clicked, so it is no item
    ]
    assert found["2"] == [
        step | {"slate": ["10", "11"], "click": "10", "position": 0},
        step | {"slate": ["10", "11"], "click": "11", "position": 1},
        step | {"slate": ["10", "11"], "click": None},
    ]
    assert [s["click"] for s in found["3"]] == ["11", "13", None]
    assert set(found) == {"1", "2", "3"}
    content = report(tmp_path / "out")
    assert list(content) == KEYS
    assert content["rows_read"] == 7 + 10 + 2 + 3 + 2 + 2
    assert content["sessions"] == {"train": 1, "valid": 1, "test": 1}
    assert (content["steps"], content["items"], content["mean_session_length"]) == (6, 4, 2.0)
    assert content["mean_list_length"] == (3 + 4 + 2 + 2 + 2 + 2) / 6
    assert content["purchase_share"] == pytest.approx(1 / 6)
    assert {rule: count for rule, count in content["dropped"].items() if count} == {
        "test queries": 1,
        "repeated clicks": 1,
        "clicks without a query": 1,
        "repeated purchases": 1,
        "purchases without a click": 1,
        "clicks on an empty list": 1,
        "clicks not in their list": 1,
        "list items outside the catalogue": 1,
        "items repeated in a list": 1,
    }
    assert "65,284" in printed
    items = pq.read_table(tmp_path / "out/items.parquet").to_pylist()
    thirteen = next(row for row in items if row["id"] == 13)
    assert (thirteen["price_log2"], thirteen["category"], thirteen["views"], thirteen["clicks"]) == (4, 700, 2, 2)


def test_repair_adds_the_click_to_its_list(raw: Path, tmp_path: Path) -> None:
    status, _, error = prepare_here("diginetica", raw, "--out", tmp_path / "out", "--repair", "add", "--end", "none")
    assert (status, error) == (0, "")
    assert sessions_of(tmp_path / "out")["3"][-1] == {
        "slate": ["13", "11", "10"],
        "click": "10",
        "reward": 0.0,
        "position": 2,
    }
    dropped = report(tmp_path / "out")["dropped"]
    assert dropped["clicks not in their list, added to it"] == 1


@pytest.mark.parametrize(("end", "clicks"), [("none", ["12", "13"]), ("unclicked", ["12", "13", None])])
def test_end_lists(raw: Path, tmp_path: Path, end: str, clicks: list[str | None]) -> None:
    assert prepare_here("diginetica", raw, "--out", tmp_path / "out", "--end", end)[0] == 0
    found = sessions_of(tmp_path / "out")
    assert [step["click"] for step in found["1"]] == clicks
    assert [step["click"] for step in found["2"]] == ["10", "11"]  # no list after the last click
    assert report(tmp_path / "out")["dropped"]["lists without a click"] == (1 if end == "none" else 0)


def test_a_purchase_rewards_the_last_click_on_its_item(raw: Path, tmp_path: Path) -> None:
    with open(raw / FILES[1], "a") as stream:
        stream.write("12;54;12\n")  # the second click on 12, between the other two
    with open(raw / FILES[3], "a") as stream:
        stream.write("1;NA;99;2016-05-02;1;12\n")
    assert prepare_here("diginetica", raw, "--out", tmp_path / "out")[0] == 0
    steps = sessions_of(tmp_path / "out")["1"]
    assert [(s["click"], s["reward"]) for s in steps] == [("12", 0.0), ("12", 1.0), ("13", 1.0), (None, 0.0)]


def replace_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    write(path, *lines)


BAD = {
    "missing file": (FILES[1], None, "", "train-clicks.csv: cannot be read: No such file or directory"),
    "missing column": (FILES[1], 1, "queryId;timeframe;item", "train-clicks.csv: column itemId is missing"),
    "wrong separator": (
        FILES[1],
        1,
        "queryId,timeframe,itemId",
        "train-clicks.csv: column queryId is missing; with the separator ';' the file has a single column",
    ),
    "NA as an id": (FILES[1], 4, "21;8;NA", "train-clicks.csv: row 4: itemId is missing"),
    "NA as a session": (FILES[0], 3, "11;NA;NA;9;1;2016-05-01;3;NA;10;FALSE", "row 3: sessionId is missing"),
    "text as an id": (FILES[3], 2, "1;NA;9;2016-05-02;1;abc", "row 2: itemId must be an integer, got 'abc'"),
    "bad list": (
        FILES[0],
        2,
        "12;1;NA;50;10;2016-05-02;NA;7;10,x;FALSE",
        "row 2: items must be integers separated by ,, got '10,x'",
    ),
    "long bad list": (
        FILES[0],
        2,
        f"12;1;NA;50;10;2016-05-02;NA;7;{'10|' * 300};FALSE",
        "row 2: items must be integers separated by ,, got '10|10|10|10|...|10|10|10|10|'\n",
    ),
    "too many fields": (FILES[1], 5, "21;7;10;4", "train-clicks.csv: row 5: must have 3 fields separated by ;, got 4"),
    "too few fields": (FILES[1], 5, "21;7", "train-clicks.csv: row 5: itemId is missing"),
}


@pytest.mark.parametrize(("name", "row", "line", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused_in_one_line(
    raw: Path, tmp_path: Path, name: str, row: int | None, line: str, message: str
) -> None:
    if row is None:
        (raw / name).unlink()
    else:
        replace_line(raw / name, row, line)
        if row == 1 and "," in line:
            write(raw / name, *((raw / name).read_text().replace(";", ",").splitlines()))
    status, printed, error = prepare_here("diginetica", raw, "--out", tmp_path / "out")
    assert (status, printed, error.count("\n")) == (2, "", 1)
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["diginetica"], "something half-written was left"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    status, _, error = prepare_here("csv", tmp_path, "--out", tmp_path / "out")
    assert (status, error) == (2, f"error: {tmp_path}: cannot be read: Is a directory\n")


def test_empty_after_filters(raw: Path, tmp_path: Path) -> None:
    status, _, error = prepare_here("diginetica", raw, "--out", tmp_path / "out", "--min-length", 3)
    assert (status, error.count("\n")) == (2, 1)
    assert "train-queries.csv: 0 sessions are left, at least 3 are needed" in error
    assert "3 sessions of fewer than 3" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min-length", 0), "--min-length must be at least 1, got 0"),
        (("--max-length", 1), "--max-length must be at least 2, got 1"),
        (("--items", 0), "--items must be at least 1, got 0"),
        (("--valid-share", 1), "--valid-share must be in (0, 1), got 1.0"),
        (("--seed", -1), "--seed must not be negative, got -1"),
    ],
)
def test_bad_flags(raw: Path, tmp_path: Path, flags: tuple[Any, ...], message: str) -> None:
    status, _, error = prepare_here("diginetica", raw, "--out", tmp_path / "out", *flags)
    assert (status, error) == (2, f"error: {message}\n")


def test_out_is_never_overwritten(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    status, _, error = prepare_here("diginetica", raw, "--out", tmp_path / "out")
    assert status == 2
    assert "exists already" in error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_without_polars_one_line_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'polars' else find(name, *a)\n"
        "from irecgan_ext import cli, prepare\n"
        f"args = ['ebnerd', 'x', '--out', {str(tmp_path / 'out')!r}]\n"
        "sys.exit(cli.run_command(prepare.main, prepare.Sources, prog='p', args=args))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: prepare needs polars, which is not installed: pip install 'irecgan_ext[data]'\n"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared directory of 300 synthetic sessions, made by the command as a process."""
    out = tmp_path_factory.mktemp("synthetic") / "out"
    args = ["diginetica", "--synthetic", "300", "--out", str(out), "--test-share", "0.2", "--valid-share", "0.1"]
    done = subprocess.run([sys.executable, "-m", "irecgan_ext.prepare", *args], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return out


def test_synthetic_files_have_every_quirk(synthetic: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "again", 300, 0)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (synthetic / "raw" / name).read_bytes(), name
    queries = pl.read_csv(tmp_path / "again" / FILES[0], separator=";", infer_schema=False)
    assert {"NA"} < set(queries["userId"]) and {"NA"} < set(queries["searchstring.tokens"])
    assert set(queries["is.test"]) == {"TRUE", "FALSE"}
    assert not queries["queryId"].cast(pl.Int64).is_sorted()
    widths = queries["items"].str.split(",").list.len()
    assert widths.n_unique() > 30
    clicks = pl.read_csv(tmp_path / "again" / FILES[1], separator=";")
    assert clicks.is_duplicated().any()
    dropped = report(synthetic)["dropped"]
    for rule in ("test queries", "repeated clicks", "clicks without a query", "list items outside the catalogue"):
        assert dropped[rule] > 0, rule


def test_prepared_files_are_logs_of_the_package(synthetic: Path) -> None:
    """Each split keeps the schema's rules, padded or not, and the splits are those of the manifest."""
    log = read_prepared(synthetic)
    manifest = pq.read_table(synthetic / "sessions.parquet").to_pydict()
    assert sorted(manifest["session"]) == list(range(len(manifest["session"])))
    seen = []
    for name in ("train", "valid", "test"):
        read = read_sessions(synthetic / f"{name}.parquet")
        read.trajectories.validate(log.items)
        assert len(read.trajectories) == report(synthetic)["sessions"][name] == manifest["split"].count(name)
        assert read.metadata["prepared_from"] == "diginetica"
        seen += read.session_ids.tolist()
    assert sorted(seen) == manifest["session"]
    packed, padded = log.test.sessions, read_sessions(synthetic / "test.parquet").trajectories
    import torch

    again = packed.select(torch.arange(len(packed)))
    for field in ("start", "slates", "clicks", "rewards", "lengths", "censored"):
        assert torch.equal(getattr(again, field), getattr(padded, field)), field
    clicks = (packed.clicks[packed.clicks != END]).tolist()
    assert log.test.positions is not None
    places = log.test.positions[packed.clicks != END]
    begins = (packed.widths.cumsum(0) - packed.widths)[packed.clicks != END]
    assert packed.items[begins + places].tolist() == clicks, "lists are not shuffled here: the position is the place"


def test_filters_hold_of_what_is_written(tmp_path: Path, synthetic: Path) -> None:
    flags = ("--min-length", 2, "--max-length", 4, "--items", 20, "--end", "none")
    assert prepare_here("diginetica", synthetic / "raw", "--out", tmp_path / "out", *flags)[0] == 0
    found = sessions_of(tmp_path / "out")
    assert {len(steps) for steps in found.values()} == {2, 3, 4}
    names = read_catalogue(tmp_path / "out")
    assert len(names) == 20
    counts = pq.read_table(tmp_path / "out/items.parquet")["clicks"].to_pylist()
    assert counts == sorted(counts, reverse=True)
    clicked = [step["click"] for steps in found.values() for step in steps]
    assert [clicked.count(name) for name in names] == counts


def test_the_split_depends_on_the_seed_alone(tmp_path: Path, synthetic: Path) -> None:
    splits = []
    for run, seed in enumerate((3, 3, 4)):
        out = tmp_path / str(run)
        assert prepare_here("diginetica", synthetic / "raw", "--out", out, "--seed", seed)[0] == 0
        splits.append(pq.read_table(out / "sessions.parquet")["split"].to_pylist())
    assert splits[0] == splits[1] != splits[2]


def trivago_file(path: Path, sessions: int = 40, text: bool = False) -> None:
    """Clicks on the first item of lists of 10, some of whose deals are looked at; and other actions."""
    rows = []
    for s in range(sessions):
        for step in (1, 2, 3):
            items = [f"{(s * 7 + step + i * 3) % 50}" for i in range(10)]
            rows.append((f"u{s}", f"s{s}", step * 2, "clickout item", items[0], "|".join(items)))
            if step == 3 and s % 2:
                rows.append((f"u{s}", f"s{s}", 7, "interaction item deals", items[0], None))
        rows.append((f"u{s}", f"s{s}", 1, "search for destination", "Paris, France", None))
    rows = [rows[i] for i in range(len(rows) - 1, -1, -1)]  # not in the order of steps
    names = ("user_id", "session_id", "step", "action_type", "reference", "impressions")
    columns = dict(zip(names, map(list, zip(*rows)))) | {"timestamp": [0] * len(rows)}
    table = pa.table(columns)
    if text:
        from pyarrow import csv

        csv.write_csv(table, path)
    else:
        pq.write_table(table, path)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_trivago(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.{suffix}"
    trivago_file(path, text=suffix == "csv")
    status, printed, error = prepare_here("trivago", path, "--out", tmp_path / "out")
    assert (status, error) == (0, "")
    assert "deal views (proxy)" in printed
    found = sessions_of(tmp_path / "out")
    steps = found["u3/s3"]
    assert [step["click"] for step in steps] == ["22", "23", "24", None]
    assert [step["reward"] for step in steps] == [0.0, 0.0, 1.0, 0.0]
    assert sum(step["reward"] for step in found["u2/s2"]) == 0
    clicked = [step for steps in found.values() for step in steps if step["click"] is not None]
    assert {step["position"] for step in clicked} == {0}
    places = [step["slate"].index(step["click"]) for step in clicked]
    spread = [places.count(place) for place in range(10)]
    assert sum((n - 12) ** 2 / 12 for n in spread) < 27.9, "shuffled lists: chi-squared with 9 degrees, p > 1e-3"
    assert pq.read_table(tmp_path / "out/items.parquet").num_rows == 50


def test_shuffling_does_not_depend_on_anything_but_the_seed(tmp_path: Path) -> None:
    trivago_file(tmp_path / "log.parquet")
    slates = []
    for run, seed in enumerate((1, 1, 2)):
        args = ("trivago", tmp_path / "log.parquet", "--out", tmp_path / str(run), "--seed", seed)
        assert prepare_here(*args)[0] == 0
        slates.append(
            [step["slate"] for steps in sorted(sessions_of(tmp_path / str(run)).items()) for step in steps[1]]
        )
    assert slates[0] == slates[1] != slates[2]


def test_ebnerd_has_several_clicks_on_a_list(tmp_path: Path) -> None:
    table = pa.table(
        {
            "session_id": [1, 2, 3, 1],
            "impression_time": pa.array([5, 1, 1, 2], pa.timestamp("us")),
            "article_ids_inview": [[7, 8], [7, 8, 9], [9, 8], [9, 7, 5, 6]],
            "article_ids_clicked": [[8], [7, 9], [8], [7]],
        }
    )
    pq.write_table(table, tmp_path / "behaviors.parquet")
    status, _, error = prepare_here("ebnerd", tmp_path / "behaviors.parquet", "--out", tmp_path / "out", *EVERYTHING)
    assert (status, error) == (0, "")
    found = sessions_of(tmp_path / "out")
    assert [step["click"] for step in found["1"]] == ["7", "8", None]
    assert found["1"][0]["slate"] == ["9", "7", "5", "6"]
    assert [step["click"] for step in found["2"]] == ["7", "9", None]
    content = report(tmp_path / "out")
    assert content["purchase_share"] is None
    assert content["items"] == 5


def own_rows() -> list[str]:
    return [
        "who;when;shown;chosen;paid",
        "b;10;x y z;y;0",
        "a;2;x y;x;1",
        "a;1;y z;z;0",
        "c;1;z;z;0",
        "c;2;x;;0",
        "a;1;y z;z;0",  # a repeat
    ]


OWN = ("--session", "who", "--list", "shown", "--click", "chosen", "--list-separator", " ", "--separator", ";")


def test_own_columns(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", *own_rows())
    names = (*OWN, "--order", "when", "--reward", "paid", "--no-clicked-only")
    status, _, error = prepare_here("csv", tmp_path / "log.csv", "--out", tmp_path / "out", *names, *EVERYTHING)
    assert (status, error) == (0, "")
    found = sessions_of(tmp_path / "out")
    assert [(step["click"], step["reward"]) for step in found["a"]] == [("z", 0), ("x", 1), (None, 0)]
    assert found["c"][-1]["slate"] == ["x"], "the list without a click is the one on which c leaves"
    assert report(tmp_path / "out")["dropped"]["repeated rows"] == 1


def test_own_parquet_file(tmp_path: Path) -> None:
    """Ids may be integers, those of the clicks with gaps (as floats); without an order, the file's."""
    table = pa.table(
        {
            "session": [5, 6, 5, 7, 7],
            "list": [[1, 2], [2, 3], [3, 1, 2], [9, 2], [9, 2]],
            "click": pa.array([2.0, 3.0, 1.0, None, 2.0]),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    status, _, error = prepare_here("parquet", tmp_path / "log.parquet", "--out", tmp_path / "out", *EVERYTHING)
    assert (status, error) == (0, "")
    found = sessions_of(tmp_path / "out")
    assert [step["click"] for step in found["5"]] == ["2", "1", None]
    assert [step["click"] for step in found["7"]] == ["2", None]
    assert report(tmp_path / "out")["purchase_share"] is None
    assert found["5"][0]["reward"] == 1.0, "without rewards, a click earns 1"
    pq.write_table(table.slice(0, 3), tmp_path / "log.parquet")
    status, _, error = prepare_here("parquet", tmp_path / "log.parquet", "--out", tmp_path / "two", *EVERYTHING)
    assert status == 2
    assert "2 sessions are left, at least 3 are needed" in error


@pytest.mark.parametrize(
    ("row", "line", "message"),
    [
        (2, ";10;x y z;y;0", "row 2: who is missing"),
        (3, "a;late;x y;x;1", "row 3: when must be a number, got 'late'"),
        (3, "a;2;x y;x;2", "row 3: paid must be 0 or 1, got '2'"),
        (3, "a;2;x NA;x;1", "row 3: shown must have an item between every two ' ', got 'x NA'"),
        (3, "a;2;x  y;x;1", "row 3: shown must have an item between every two ' ', got 'x  y'"),
        (1, "who;when;shown;chosen;price", "column paid is missing"),
    ],
)
def test_own_columns_that_break_a_rule(tmp_path: Path, row: int, line: str, message: str) -> None:
    write(tmp_path / "log.csv", *own_rows())
    replace_line(tmp_path / "log.csv", row, line)
    names = (*OWN, "--order", "when", "--reward", "paid")
    status, _, error = prepare_here("csv", tmp_path / "log.csv", "--out", tmp_path / "out", *names, *EVERYTHING)
    assert (status, error.count("\n")) == (2, 1)
    assert f"log.csv: {message}" in error


def test_too_many_fields_after_the_columns_named(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", *own_rows())
    replace_line(tmp_path / "log.csv", 4, "a;1;y z;z;0;7")
    status, _, error = prepare_here("csv", tmp_path / "log.csv", "--out", tmp_path / "out", *OWN, *EVERYTHING)
    assert (status, error) == (2, f"error: {tmp_path / 'log.csv'}: row 4: must have 5 fields separated by ;, got 6\n")


def test_a_file_of_a_header_alone(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", own_rows()[0])
    status, _, error = prepare_here("csv", tmp_path / "log.csv", "--out", tmp_path / "out", *OWN)
    assert (status, error) == (2, f"error: {tmp_path / 'log.csv'}: holds no row\n")
    assert not (tmp_path / "out").exists()


def test_trivago_lists_hold_no_na(tmp_path: Path) -> None:
    rows = ["u,s,1,clickout item,7,5|7", "u,s,2,clickout item,7,7|NA|5"]
    write(tmp_path / "log.csv", "user_id,session_id,step,action_type,reference,impressions", *rows)
    status, _, error = prepare_here("trivago", tmp_path / "log.csv", "--out", tmp_path / "out")
    assert (status, error.count("\n")) == (2, 1)
    assert "log.csv: row 3: impressions must have an item between every two '|', got '7|NA|5'" in error


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (pa.array([[1, 2], [1, None]]), "row 1: list must hold no null, got [1, None]"),
        (pa.array([[1.0], [2.0]]), "column list must hold text, or lists of integers or text, got List(Float64)"),
        (pa.array([1, 2]), "column list must hold text, or lists of integers or text, got Int64"),
    ],
)
def test_own_parquet_lists_that_break_a_rule(tmp_path: Path, lists: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"session": [1, 1], "list": lists, "click": [1, 1]}), tmp_path / "log.parquet")
    status, _, error = prepare_here("parquet", tmp_path / "log.parquet", "--out", tmp_path / "out")
    assert (status, error) == (2, f"error: {tmp_path / 'log.parquet'}: {message}\n")


def test_a_list_separator_is_no_empty_text(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", *own_rows())
    flags = (*OWN, "--list-separator", "")
    status, _, error = prepare_here("csv", tmp_path / "log.csv", "--out", tmp_path / "out", *flags)
    assert (status, error) == (2, "error: --list-separator must be at least one character, got ''\n")


def test_recbole_in_and_out(tmp_path: Path, synthetic: Path) -> None:
    """What is written as .inter files reads back as the same clicks on the same lists."""
    flags = ("--end", "none", "--inter")
    assert prepare_here("diginetica", synthetic / "raw", "--out", tmp_path / "digi", *flags)[0] == 0
    lines = (tmp_path / "digi/digi.train.inter").read_text().splitlines()
    assert lines[0].split("\t") == [
        "session_id:token",
        "item_id:token",
        "timestamp:float",
        "label:float",
        "item_list:token_seq",
    ]
    source = tmp_path / "digi/digi.train.inter"
    status, _, error = prepare_here("recbole", source, "--out", tmp_path / "back", "--end", "none")
    assert (status, error) == (0, "")
    ids = {str(i) for i in pq.read_table(tmp_path / "digi/sessions.parquet")["id"].to_pylist()}
    first = {key: steps for key, steps in sessions_of(tmp_path / "digi").items() if key in ids}
    back = sessions_of(tmp_path / "back")
    assert len(back) == report(tmp_path / "digi")["sessions"]["train"]
    clicked = {step["click"] for steps in back.values() for step in steps}
    for key, steps in back.items():
        for got, expected in zip(steps, first[key], strict=True):
            assert (got["click"], got["reward"]) == (expected["click"], expected["reward"])
            assert got["slate"] == [item for item in expected["slate"] if item in clicked]
    write(tmp_path / "plain.inter", "user_id:token\titem_id:token", "1\t2")
    status, _, error = prepare_here("recbole", tmp_path / "plain.inter", "--out", tmp_path / "x")
    assert status == 2
    assert "column session_id is missing; the fields are item_id, user_id" in error


def test_pad_is_no_item(synthetic: Path) -> None:
    log = read_prepared(synthetic)
    assert int(log.train.sessions.items.min()) == 0 > PAD
    assert int(log.train.sessions.items.max()) == log.items - 1

"""The prepare command on DIGINETICA and RecBole: session files, filters and split, its report, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pl = pytest.importorskip("polars", reason="polars is not installed (extra data): prepare cannot be tested")
from raw_logs import (  # noqa: E402
    KEYS,
    prepare_here,
    replace_line,
    report,
    sessions_of,
    write,
)

from irecgan_ext.data.packed_log import read_catalogue, read_prepared  # noqa: E402
from irecgan_ext.data.sessions import read_sessions  # noqa: E402
from irecgan_ext.data.synthetic import FILES, write_synthetic  # noqa: E402
from irecgan_ext.types import END, PAD  # noqa: E402


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

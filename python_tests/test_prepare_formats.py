"""The prepare command on trivago, EB-NeRD and a user's own columns: what it makes of them, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_logs import (
    EVERYTHING,
    prepare_here,
    replace_line,
    report,
    sessions_of,
    write,
)


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

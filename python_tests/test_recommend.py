"""The recommend command: formats, ids, unknown and seen items, draws, and what stops it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import rmtree
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ragged_logs import write_prepared_by_hand
from runs import FLAGS

from irecgan_ext import cli, recommend, train
from irecgan_ext.data.histories import read_histories
from irecgan_ext.data.sessions import read_sessions
from irecgan_ext.serving import Recommender
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.training.trained import load_trained
from irecgan_ext.types import BOS, END

ITEMS = 50


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the built-in simulator: C = 50, slates of 3."""
    directory = tmp_path_factory.mktemp("recommend") / "run"
    assert cli.run_command(train.main, TrainConfig, prog="train", args=[*FLAGS, "--out", str(directory)]) == 0
    return directory


@pytest.fixture
def command(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """The command in an empty directory: status, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str | int | Path, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        arguments = [str(run), *map(str, args)]
        status = cli.run_command(recommend.main, recommend.RecommendOptions, prog="recommend", args=arguments)
        sys.stdout.flush()
        shown = capfd.readouterr()
        return status, shown.out, shown.err

    return call


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def expected(run: Path, symbols: list[int], k: int, seen: list[int]) -> list[int]:
    """Greedy list by the encoder's own pass and a sort over all logits."""
    agent = load_trained(run).agent
    with torch.no_grad():
        logits = agent.head(agent.encoder(torch.tensor([symbols]))[0, -1])
    logits[seen] = -torch.inf
    return logits.topk(k).indices.tolist()


def test_json_lines_through_pipes(run: Path, command: Any) -> None:
    text = '[3, 17, 4]\n\n{"id": "u1", "history": [1, "5"]}\n{"history": []}\n'
    status, out, error = command("--k", 4, stdin=text)
    assert status == 0
    rows = lines(out)
    assert [row["id"] for row in rows] == [0, "u1", 2]
    assert rows[0]["items"] == expected(run, [BOS, 3, 17, 4], 4, [3, 17, 4])
    assert rows[1]["items"] == expected(run, [BOS, 1, 5], 4, [1, 5])
    assert rows[2]["items"] == expected(run, [BOS], 4, [])
    assert rows[2]["log_probs"] == sorted(rows[2]["log_probs"], reverse=True)
    assert error == "recommended for 3 histories\n"


def test_formats_agree(run: Path, command: Any, tmp_path: Path) -> None:
    histories = [[3, 17], [], [9, 9, 1, 30]]
    Path("h.jsonl").write_text(
        "".join(json.dumps({"id": i + 10, "history": h}) + "\n" for i, h in enumerate(histories))
    )
    with open("h.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(
            [["history", "id"], *([" ".join(map(str, h)), i + 10] for i, h in enumerate(histories))]
        )
    pq.write_table(pa.table({"history": histories, "id": [10, 11, 12]}), "h.parquet")
    got = {}
    for source in ("h.jsonl", "h.csv", "h.parquet"):
        status, out, _ = command("--histories", source, "--k", 5, "--batch", 2)
        assert status == 0
        got[source] = [(str(row["id"]), row["items"], row["log_probs"]) for row in lines(out)]
    assert got["h.jsonl"] == got["h.csv"] == got["h.parquet"]
    assert got["h.jsonl"][2][1] == expected(run, [BOS, 9, 9, 1, 30], 5, [9, 1, 30])
    for target in ("o.jsonl", "o.csv", "o.parquet"):
        assert command("--histories", "h.parquet", "--k", 5, "--batch", 2, "--out", target)[:2] == (0, "")
    assert [tuple(row.values())[1] for row in lines(Path("o.jsonl").read_text())] == [row[1] for row in got["h.jsonl"]]
    table = pq.read_table("o.parquet")
    assert table["items"].to_pylist() == [row[1] for row in got["h.jsonl"]]
    assert table["id"].to_pylist() == [10, 11, 12]
    with open("o.csv", newline="") as stream:
        assert [row["items"] for row in csv.DictReader(stream)] == [
            " ".join(map(str, row[1])) for row in got["h.jsonl"]
        ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "h.csv",
        "h.jsonl",
        "h.parquet",
        "o.csv",
        "o.jsonl",
        "o.parquet",
    ]


def test_a_session_log_is_a_file_of_histories(run: Path, command: Any) -> None:
    log = read_sessions(run / "log.parquet").trajectories
    status, out, _ = command("--histories", run / "log.parquet", "--k", 3, "--no-exclude-seen")
    assert status == 0
    rows = lines(out)
    assert len(rows) == len(log)
    for session in (0, 7):
        clicks = [item for item in log.clicks[session].tolist() if item >= 0]
        assert rows[session]["items"] == expected(run, [BOS, *clicks], 3, [])


def test_a_prepared_log_numbers_its_own_items(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Raw ids that are numbers too must not be taken for the items 0..C-1 that a session file holds."""
    for name, base in (("data", 10), ("other", 20)):
        write_prepared_by_hand(tmp_path / name)
        count = len(pq.read_table(tmp_path / name / "items.parquet"))
        ids = pa.table({"item": list(range(count)), "id": [str(base + item) for item in range(count)]})
        pq.write_table(ids, tmp_path / name / "items.parquet")
    args = [*FLAGS, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--method", "pg"]
    assert cli.run_command(train.main, TrainConfig, prog="train", args=args) == 0

    def recommended(path: Path) -> tuple[int, str, str]:
        capfd.readouterr()
        arguments = [str(tmp_path / "run"), "--histories", str(path), "--k", "4"]
        status = cli.run_command(recommend.main, recommend.RecommendOptions, prog="recommend", args=arguments)
        return status, *capfd.readouterr()

    status, out, error = recommended(tmp_path / "data" / "test.parquet")
    assert (status, "not in the catalogue" in error) == (0, False)
    clicks = [row for row in pq.read_table(tmp_path / "data" / "test.parquet").to_pylist() if row["click"] is not None]
    (tmp_path / "h.jsonl").write_text(
        "\n".join(
            json.dumps({"id": key, "history": [10 + row["click"] for row in clicks if row["session"] == key]})
            for key in dict.fromkeys(row["session"] for row in clicks)
        )
    )
    assert recommended(tmp_path / "h.jsonl") == (0, out, error)
    status, _, error = recommended(tmp_path / "other" / "test.parquet")
    assert (status, error) == (
        2,
        f"error: {tmp_path / 'other'}: item 0 is 20, the agent's is 10: another catalogue\n",
    )
    header = {b"irecgan_ext": json.dumps({"schema_version": 2, "items": 7, "slate_size": 25, "metadata": {}}).encode()}
    table = pq.read_table(tmp_path / "data" / "test.parquet").replace_schema_metadata(header)
    pq.write_table(table, tmp_path / "seven.parquet")
    status, _, error = recommended(tmp_path / "seven.parquet")
    assert status == 2
    assert "seven.parquet: has a catalogue of 7 items, the agent was trained on 30" in error


def test_unknown_items_are_counted(run: Path, command: Any) -> None:
    """And left out, as an agent that learnt from whole histories never met one."""
    text = "[3, 99, 4]\n[1]\n"
    status, out, error = command("--k", 4, stdin=text)
    assert status == 0
    assert lines(out)[0]["items"] == expected(run, [BOS, 3, 4], 4, [3, 4])
    assert error.endswith("1 items in 1 histories are not in the catalogue: left out\n")
    assert command("--k", 4, "--unknown", "drop", stdin=text) == (0, out, error)
    status, out, error = command("--k", 4, "--unknown", "hide", stdin=text)
    assert lines(out)[0]["items"] == expected(run, [BOS, 3, END, 4], 4, [3, 4])
    assert error.endswith(": read as clicks on something unknown\n")
    status, out, error = command("--k", 4, "--unknown", "error", "--out", "o.jsonl", stdin=text)
    assert (status, error) == (2, "error: -: history 0: item 99 is not in the catalogue\n")
    assert os.listdir() == []


def test_history_dropout_teaches_what_unknown_means(tmp_path: Path) -> None:
    flags = [*FLAGS, "--model.history-dropout", "0.2", "--out", str(tmp_path / "dropout")]
    assert cli.run_command(train.main, TrainConfig, prog="train", args=flags) == 0
    (tmp_path / "h.jsonl").write_text("[3, 99, 4]\n")
    arguments = [str(tmp_path / "dropout"), "--k", "4", "--histories", str(tmp_path / "h.jsonl")]
    arguments += ["--out", str(tmp_path / "lists.jsonl")]
    assert cli.run_command(recommend.main, recommend.RecommendOptions, prog="recommend", args=arguments) == 0
    found = lines((tmp_path / "lists.jsonl").read_text())[0]["items"]
    assert found == expected(tmp_path / "dropout", [BOS, 3, END, 4], 4, [3, 4])


def test_ids_of_the_outside_come_back(run: Path, command: Any) -> None:
    names = [f"item-{place}" for place in range(ITEMS)]
    path = run / "items.parquet"
    pq.write_table(pa.table({"item": list(range(ITEMS)), "id": names}), path)
    try:
        Path("c.txt").write_text("item-8\nitem-2\n\nitem-9\nnothing\n")
        status, out, error = command("--k", 4, "--candidates", "c.txt", stdin='["item-3", "item-9"]\n["3"]\n')
        pq.write_table(pa.table({"item": [0, 1], "id": ["a", "b"]}), path)
        short = command(stdin="[]\n")
    finally:
        path.unlink()
    assert status == 0
    assert sorted(lines(out)[0]["items"]) == ["item-2", "item-8"]
    assert sorted(lines(out)[1]["items"]) == ["item-2", "item-8", "item-9"]
    assert "c.txt: 1 lines name no item of the catalogue" in error
    assert "1 items in 1 histories" in error
    assert "2 lists have fewer than 4 items: no more were left" in error
    assert short[0] == 2
    assert "items.parquet has 2 items, the agent was trained on 50" in short[2]


def test_samples_depend_on_seed_and_place_alone(run: Path, command: Any) -> None:
    text = "".join(f"[{item}]\n" for item in range(20))
    one = command("--sample", "--k", 5, "--seed", 3, stdin=text)[1]
    assert one == command("--sample", "--k", 5, "--seed", 3, "--batch", 7, stdin=text)[1]
    assert one != command("--sample", "--k", 5, "--seed", 4, stdin=text)[1]
    assert all(len(set(row["items"])) == 5 and row["id"] not in row["items"] for row in lines(one))
    recommender = Recommender(load_trained(run).agent)
    state = recommender.replay([torch.tensor([BOS, item]) for item in range(20)])
    expected_items = recommender.sample(state, 5, exclude=torch.arange(20)[:, None], seed=3).items.tolist()
    assert [row["items"] for row in lines(one)] == expected_items


def test_samples_without_log_probabilities_depend_on_seed_and_place_alone(command: Any) -> None:
    text = "".join(f"[{item}]\n" for item in range(20))
    flags = ("--sample", "--no-log-probs", "--k", 5, "--seed", 3)
    one = command(*flags, stdin=text)[1]
    assert one == command(*flags, "--batch", 7, stdin=text)[1]
    for row in lines(one):
        assert len(set(row["items"])) == 5 and row["id"] not in row["items"] and row["log_probs"] == []


def test_histories_are_read_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"[1]\n[2]\n[3]\n[4]\n")  # and the other end stays open
    with open(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        batches = read_histories("-", "jsonl", 3)
        assert next(batches).clicks == [[1], [2], [3]]
        os.close(writing)
        assert [(batch.ids, batch.clicks) for batch in batches] == [([3], [[4]])]


def test_sessions_that_start_from_an_item_have_no_begin_symbol(run: Path) -> None:
    from irecgan_ext.serving.histories import Reader

    reader: Reader[int] = Reader(lambda item: item if item < ITEMS else None, starts_from_item=True, unknown="hide")
    symbols, seen = reader.read([[3, 4], [], [99, 4]])
    assert [row.tolist() for row in symbols] == [[3, 4], [BOS], [BOS, END, 4]]
    assert seen.tolist() == [[3, 4], [-1, -1], [4, -1]]
    assert not load_trained(run).starts_from_item


def test_bench_prints_both_ways(command: Any) -> None:
    status, out, error = command("--bench", "--k", 3)
    assert (status, error) == (0, "")
    head, ours, theirs = out.splitlines()
    assert "C = 50, k = 3, greedy" in head
    assert ours.startswith("irecgan_ext ")
    assert theirs.startswith("PyTorch ")
    assert all("histories/s" in line for line in (ours, theirs))
    assert command("--bench", "--sample", "--k", 3, "--histories", "h.csv")[0] == 2


BAD: dict[str, tuple[tuple[str | int, ...], str, str]] = {
    "missing file": (("--histories", "none.csv"), "", "none.csv: No such file or directory"),
    "missing parquet": (("--histories", "none.parquet"), "", "none.parquet: cannot be read as Parquet: "),
    "suffix": (
        ("--histories", "h.txt"),
        "",
        "h.txt: the suffix must be one of .jsonl, .ndjson, .csv, .parquet, got '.txt'",
    ),
    "not JSON": ((), "[1]\n[2\n", "standard input: line 2: not JSON"),
    "no history": ((), '{"items": [1]}\n', "standard input: line 1: history is missing"),
    "no list": ((), "7\n", "standard input: line 1: history must be a list of items, got 7"),
    "item type": ((), "[1, null]\n", "standard input: line 1: an item must be an integer or a string, got null"),
    "id type": ((), '{"id": [1], "history": []}\n', "line 1: id must be a number or a string, got [1]"),
    "separator": (
        ("--input-format", "csv"),
        "id;history\n1;2 3\n",
        "column history is missing; the columns are id;history",
    ),
    "fields": (("--input-format", "csv"), "id,history\n1,2,3\n", "standard input: line 2: must have 2 fields"),
    "empty csv": (("--input-format", "csv"), "", "column history is missing; the columns are none"),
    "k": (("--k", 51), "[]\n", "--k must be in 1..C (C = 50), got 51"),
    "no k": (("--k", 0), "[]\n", "--k must be at least 1, got 0"),
    "both": (("--greedy", "--sample"), "[]\n", "--greedy and --sample exclude each other"),
    "agent": (("--agent", "acu"), "[]\n", "--agent must be an agent of the run in"),
    "candidates": (("--candidates", "absent.txt"), "[]\n", "absent.txt: No such file or directory"),
    "no candidate": (("--candidates", "empty.txt"), "[]\n", "empty.txt: none of its 0 lines names an item"),
    "out": (("--out", "absent/o.csv"), "[]\n", "absent/o.csv: cannot write: No such file or directory"),
}


@pytest.mark.parametrize(("args", "stdin", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_ends_in_one_line(command: Any, args: tuple, stdin: str, message: str) -> None:
    Path("empty.txt").write_text("\n")
    out = () if "--out" in args else ("--out", "o.csv")
    status, shown, error = command(*out, *args, stdin=stdin)
    assert status == 2
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert shown == ""
    assert os.listdir() == ["empty.txt"]


PARQUET: dict[str, tuple[dict[str, list], str]] = {
    "no column": ({"items": [[1]]}, "column history is missing; the columns are items"),
    "type": ({"history": [1.5]}, "column history must hold a list of integers or strings, got double"),
    "null item": ({"history": [[1], [2, None]]}, "row 1: history holds a null"),
    "null": ({"history": [[1], None]}, "row 1: history is null"),
    "steps": (
        {"session": [1, 2, 1], "step": [0, 0, 1], "click": [3, 4, 5]},
        "row 2: the steps of session 1 must be adjacent, 0, 1, ... in order",
    ),
}


@pytest.mark.parametrize(("columns", "message"), PARQUET.values(), ids=PARQUET.keys())
def test_bad_parquet_ends_in_one_line(command: Any, columns: dict, message: str) -> None:
    pq.write_table(pa.table(columns), "h.parquet")
    status, _, error = command("--histories", "h.parquet", "--out", "o.csv")
    assert (status, error.count("\n")) == (2, 1)
    assert message in error
    assert os.listdir() == ["h.parquet"]


def test_damaged_parquet_ends_a_process_cleanly(run: Path, tmp_path: Path) -> None:
    (tmp_path / "h.parquet").write_bytes(b"PAR1 nothing PAR1")
    command = [sys.executable, "-m", "irecgan_ext.recommend", str(run), "--histories", str(tmp_path / "h.parquet")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'h.parquet'}: cannot be read as Parquet: ")
    assert done.stderr.count("\n") == 1


def test_a_directory_without_a_run(command: Any, tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--histories", "-"]
    assert cli.run_command(recommend.main, recommend.RecommendOptions, prog="recommend", args=arguments) == 2


def test_a_run_of_a_prepared_log_speaks_its_ids(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_prepared_by_hand(tmp_path / "data")
    args = [*FLAGS, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--method", "pg"]
    assert cli.run_command(train.main, TrainConfig, prog="train", args=args) == 0
    capfd.readouterr()
    catalogue = pq.read_table(tmp_path / "data" / "items.parquet")["id"].to_pylist()
    rmtree(tmp_path / "data")  # the run has a copy
    (tmp_path / "h.jsonl").write_text(json.dumps([catalogue[3], "none"]))
    arguments = [str(tmp_path / "run"), "--histories", str(tmp_path / "h.jsonl"), "--k", "4"]
    assert cli.run_command(recommend.main, recommend.RecommendOptions, prog="recommend", args=arguments) == 0
    shown = capfd.readouterr()
    items = lines(shown.out)[0]["items"]
    assert len(set(items)) == 4
    assert set(map(str, items)) <= set(map(str, catalogue)) - {str(catalogue[3])}
    assert "1 items in 1 histories are not in the catalogue" in shown.err
    bench = [str(tmp_path / "run"), "--bench", "--k", "4"]
    assert cli.run_command(recommend.main, recommend.RecommendOptions, prog="recommend", args=bench) == 0

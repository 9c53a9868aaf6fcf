"""Session logs: round trips, every bad input, atomic writing."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irecgan_ext.data.sessions import LogError, load_log, read_sessions, write_sessions
from irecgan_ext.types import BOS, END, PAD, Trajectories

FIELDS = ("start", "slates", "clicks", "rewards", "lengths", "censored", "states")


def make_sessions(sessions: int, seed: int, *, steps: int = 5, items: int = 13, slate: int = 4, states: bool = True):
    """Random valid sessions with ragged slates and lengths, some censored, some starting from an item."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, steps + 1, sessions)
    lengths[0] = steps
    censored = draw.random(sessions) < 0.4
    slates = np.full((sessions, steps, slate), PAD)
    clicks = np.full((sessions, steps), PAD)
    for b in range(sessions):
        for t in range(lengths[b]):
            width = slate if b == t == 0 else draw.integers(1, slate + 1)
            slates[b, t, :width] = draw.permutation(items)[:width]
            ends = t == lengths[b] - 1 and not censored[b]
            clicks[b, t] = END if ends else slates[b, t, draw.integers(width)]
    mask = clicks != PAD
    return Trajectories(
        start=torch.from_numpy(np.where(draw.random(sessions) < 0.5, BOS, draw.integers(0, items, sessions))),
        slates=torch.from_numpy(slates),
        clicks=torch.from_numpy(clicks),
        rewards=torch.from_numpy((draw.standard_normal(mask.shape) * mask).astype(np.float32)),
        lengths=torch.from_numpy(lengths),
        censored=torch.from_numpy(censored),
        states=torch.from_numpy(np.where(mask, draw.integers(0, 9, mask.shape), PAD)) if states else None,
    )


def assert_equal(got: Trajectories, expected: Trajectories) -> None:
    for name in FIELDS:
        a, b = getattr(got, name), getattr(expected, name)
        if a is None or b is None:
            assert a is b, name
        else:
            assert a.dtype == b.dtype, name
            assert torch.equal(a, b), name


def table(rows: list[dict], **types: pa.DataType) -> pa.Table:
    """A table of the log's columns, those of `types` with another type or (None) left out."""
    schema = {
        "session": pa.int64(),
        "step": pa.int64(),
        "slate": pa.list_(pa.int64()),
        "click": pa.int64(),
        "reward": pa.float32(),
    }
    schema |= {name: pa.int64() for name in ("state", "start") if name in rows[0]}
    schema |= types
    kept = {name: kind for name, kind in schema.items() if kind is not None}
    columns = {name: pa.array([row.get(name) for row in rows], type=kind) for name, kind in kept.items()}
    return pa.table(columns)


def good_rows(**extra) -> list[dict]:
    """Two sessions: 7 clicks item 3 and leaves, 9 clicks item 1 and is cut."""
    rows = [
        {"session": 7, "step": 0, "slate": [3, 4], "click": 3, "reward": 1.0},
        {"session": 7, "step": 1, "slate": [2, 0], "click": None, "reward": 0.0},
        {"session": 9, "step": 0, "slate": [1], "click": 1, "reward": 1.0},
    ]
    return [row | extra for row in rows]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sessions=st.sampled_from([1, 2, 3, 17]),
    steps=st.sampled_from([1, 2, 5]),
    slate=st.sampled_from([1, 3, 7]),
    seed=st.integers(0, 2**31),
    states=st.booleans(),
)
def test_round_trip(tmp_path: Path, sessions: int, steps: int, slate: int, seed: int, states: bool) -> None:
    log = make_sessions(sessions, seed, steps=steps, slate=slate, states=states)
    path = tmp_path / "log.parquet"
    write_sessions(path, log, 20, {"policy": "random", "seed": seed})
    read = read_sessions(path)
    assert_equal(read.trajectories, log)
    assert (read.items, read.metadata) == (20, {"policy": "random", "seed": seed})
    assert read.session_ids.tolist() == list(range(sessions))
    read.trajectories.validate(read.items)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31))
def test_rows_may_come_in_any_order_with_any_ids(tmp_path: Path, seed: int) -> None:
    log = make_sessions(11, seed)
    path = tmp_path / "log.parquet"
    write_sessions(path, log, 13)
    draw = np.random.default_rng(seed)
    ids = np.unique(draw.integers(-(2**62), 2**62, 50))[:11]
    written = pq.read_table(path)
    written = written.set_column(0, "session", pa.array(ids[written["session"].to_numpy()]))
    pq.write_table(written.take(draw.permutation(len(written))), path, row_group_size=3)
    read = read_sessions(path)
    assert_equal(read.trajectories, log)
    assert read.session_ids.tolist() == ids.tolist()


def test_file_of_other_origin(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    kinds = {"session": pa.int32(), "click": pa.uint16(), "slate": pa.large_list(pa.int32()), "reward": pa.float64()}
    pq.write_table(table(good_rows(), **kinds), path)
    log = load_log(path)
    assert log.items == 5
    assert log.metadata == {}
    assert log.session_ids.tolist() == [7, 9]
    assert log.trajectories.slates.tolist() == [[[3, 4], [2, 0]], [[1, PAD], [PAD, PAD]]]
    assert log.trajectories.clicks.tolist() == [[3, END], [1, PAD]]
    assert log.trajectories.censored.tolist() == [False, True]
    assert log.trajectories.start.tolist() == [BOS, BOS]
    assert log.trajectories.states is None
    assert read_sessions(path, items=8).items == 8


def test_column_of_nulls_without_a_type(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    rows = [row | {"click": None, "step": 0, "session": i} for i, row in enumerate(good_rows(start=None))]
    pq.write_table(table(rows, click=pa.null(), start=pa.null()), path)
    log = read_sessions(path).trajectories
    assert log.clicks.tolist() == [[END]] * 3
    assert log.start.tolist() == [BOS] * 3


def change(row: int, **values) -> list[dict]:
    rows = good_rows(**{name: 0 for name in values if name in ("state", "start")})
    rows[row] |= values
    return rows


BAD_ROWS = {
    "click outside slate": (change(2, click=12), "row 2: click 12 is not in its slate"),
    "empty slate": (change(1, slate=[]), "row 1: slate is empty"),
    "null slate": (change(1, slate=None), "row 1: slate is null"),
    "null in slate": (change(1, slate=[2, None]), "row 1: slate holds a null"),
    "null session": (change(0, session=None), "row 0: session is null"),
    "null step": (change(0, step=None), "row 0: step is null"),
    "null reward": (change(2, reward=None), "row 2: reward is null"),
    "null state": (change(2, state=None), "row 2: state is null"),
    "negative item": (change(1, slate=[2, -1]), "row 1: slate item -1 is negative"),
    "negative click": (change(0, click=-2), "row 0: click -2 is negative"),
    "negative start": (change(0, start=-3), "row 0: start -3 is negative"),
    "negative step": (change(0, step=-1), "row 0: step -1 is negative"),
    "negative state": (change(0, state=-1), "row 0: state -1 is negative"),
    "duplicate item": (change(0, slate=[3, 4, 3]), "row 0: item 3 is twice in the slate"),
    "nan reward": (change(1, reward=float("nan")), "row 1: reward must be a finite float32, got nan"),
    "infinite reward": (change(1, reward=float("inf")), "row 1: reward must be a finite float32, got inf"),
    "duplicate step": (change(1, step=0), "row 1: session 7 has step 0 twice"),
    "gap": (change(1, step=2), "row 1: session 7 has step 2 but no step 1"),
    "late start": (change(2, step=1), "row 2: session 9 has step 1 but no step 0"),
    "click after END": (change(0, click=None), "row 1: session 7 goes on after its END (null click)"),
    "start moves": (change(1, start=1), "row 1: start must be the same on every row of session 7"),
}


@pytest.mark.parametrize(("rows", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_row(tmp_path: Path, rows: list[dict], message: str) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(table(rows), path)
    with pytest.raises(LogError) as error:
        read_sessions(path)
    assert str(error.value) == f"{path}: {message}"


def test_row_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    rows = change(0, click=None)
    pq.write_table(table([rows[2], rows[1], rows[0]]), path)
    with pytest.raises(LogError, match="row 1: session 7 goes on after its END"):
        read_sessions(path)


BAD_TABLES = {
    "missing column": (table(good_rows(), slate=None), "column slate is missing"),
    "unknown column": (
        table(good_rows()).append_column("price", pa.array([1, 2, 3])),
        "unknown column price; the columns are session, step, slate, click, reward, state, start, position, pscore, "
        "pscore_item_position, pscore_cascade",
    ),
    "duplicate column": (table(good_rows()).append_column("step", pa.array([1, 2, 3])), "column step appears 2 times"),
    "text session": (
        table(good_rows()).set_column(0, "session", pa.array(["a", "b", "c"])),
        "column session must be int64, got string",
    ),
    "fractional click": (table(good_rows(), click=pa.float64()), "column click must be int64, got double"),
    "scalar slate": (
        table(good_rows()).set_column(2, "slate", pa.array([1, 2, 3])),
        "column slate must be list<int64>, got int64",
    ),
    "integer reward": (table(good_rows(), reward=pa.int64()), "column reward must be float32, got int64"),
    "too large": (
        table(good_rows()).set_column(0, "session", pa.array([2**63] * 3, pa.uint64())),
        "column session does not fit int64: Integer value 9223372036854775808 not in range: 0 to 9223372036854775807",
    ),
    "no rows": (table(good_rows()).slice(0, 0), "no rows"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_bad_table(tmp_path: Path, bad: pa.Table, message: str) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(bad, path)
    with pytest.raises(LogError) as error:
        read_sessions(path)
    assert str(error.value) == f"{path}: {message}"


HEADER = '{"schema_version": 1, "items": 5, "slate_size": 2, "metadata": {}}'
BAD_HEADERS = {
    "item beyond C": (HEADER.replace("5", "4"), r"row 0: slate item must be in 0..C-1 \(C = 4\), got 4"),
    "long slate": (HEADER.replace('size": 2', 'size": 1'), "row 0: slate has 2 items, more than slate_size 1"),
    "not JSON": ("{", "metadata irecgan_ext is damaged"),
    "not an object": ("[]", "metadata irecgan_ext is damaged"),
    "no items": (HEADER.replace("items", "n"), "metadata irecgan_ext is damaged: KeyError: 'items'"),
    "other version": (HEADER.replace("1", "3"), "schema version must be 1 or 2, got 3"),
    "text items": (HEADER.replace("5", '"5"'), "metadata items must be a positive integer, got '5'"),
    "listed metadata": (HEADER.replace("{}", "[]"), "metadata must be a JSON object, got list"),
}


@pytest.mark.parametrize(("header", "message"), BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_bad_header(tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(table(good_rows()).replace_schema_metadata({"irecgan_ext": header}), path)
    with pytest.raises(LogError, match=message):
        read_sessions(path)


def test_start_beyond_the_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(table(good_rows(start=6)), path)
    assert read_sessions(path).items == 7
    with pytest.raises(LogError, match=r"row 0: start must be in 0..C-1 \(C = 5\), got 6"):
        read_sessions(path, items=5)


def test_file_that_is_not_a_log(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"absent\.parquet: No such file or directory$"):
        load_log(tmp_path / "absent.parquet")
    with pytest.raises(LogError, match="Is a directory"):
        load_log(tmp_path)
    for content in (b"", b"session,step\n", b"PAR1", b"PAR1" + bytes(100)):
        (tmp_path / "log.csv").write_bytes(content)
        with pytest.raises(LogError, match=r"^[^\n]*log\.csv: [^\n]*Parquet[^\n]*$"):
            load_log(tmp_path / "log.csv")


def test_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    write_sessions(path, make_sessions(31, 0), 13)
    good = path.read_bytes()
    draw = np.random.default_rng(0)
    for length in draw.integers(0, len(good), 40):
        path.write_bytes(good[:length])
        with pytest.raises(LogError):
            read_sessions(path)
    messages = []
    for place in draw.integers(0, len(good), 300):
        path.write_bytes(good[:place] + bytes([good[place] ^ int(draw.integers(1, 256))]) + good[place + 1 :])
        try:
            read_sessions(path)
        except LogError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


def test_writer_refuses_what_the_reader_would(tmp_path: Path) -> None:
    log = make_sessions(3, 1, states=False)
    path = tmp_path / "log.parquet"
    with pytest.raises(ValueError, match="start must be BOS or an item"):
        write_sessions(path, log, 2)
    log.slates[0, 0, :2] = log.slates[0, 0, 0]
    log.clicks[0, 0] = log.slates[0, 0, 0]
    with pytest.raises(LogError, match=r"row 0: item \d+ is twice in the slate"):
        write_sessions(path, log, 13)
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.parquet"
    write_sessions(path, make_sessions(3, 0), 13)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(LogError, match=r"log\.parquet: cannot write: No space left on device"):
                write_sessions(path, make_sessions(5, 1), 13)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_write_follows_links_and_spares_devices(tmp_path: Path) -> None:
    (tmp_path / "real.parquet").touch()
    (tmp_path / "link.parquet").symlink_to("real.parquet")
    write_sessions(tmp_path / "link.parquet", make_sessions(3, 0), 13)
    assert (tmp_path / "link.parquet").is_symlink()
    assert read_sessions(tmp_path / "real.parquet").items == 13
    write_sessions(os.devnull, make_sessions(3, 0), 13)
    assert not Path(os.devnull).is_file()
    with pytest.raises(LogError, match=r"absent/log\.parquet: cannot write: No such file or directory"):
        write_sessions(tmp_path / "absent/log.parquet", make_sessions(3, 0), 13)


def test_a_rejected_log_ends_the_process_cleanly(tmp_path: Path) -> None:
    """Nothing of the file may still be in the hands of another thread when the interpreter exits."""
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"nothing": pa.array([], pa.int64())}), path)
    code = "import sys; from irecgan_ext.data import *\ntry: read_sessions(sys.argv[1])\nexcept LogError: sys.exit(2)"
    for _ in range(4):
        result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stderr) == (2, "")


def test_item_ids_have_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    columns = {"session": [0], "step": [0], "slate": [[2**40]], "click": [2**40]}
    pq.write_table(pa.table({**columns, "reward": pa.array([1.0], pa.float32())}), path)
    with pytest.raises(LogError, match="item ids must be below 1073741824, got 1099511627776"):
        read_sessions(path)


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_sessions(5, 3)
    write_sessions(tmp_path / "log.parquet", log, 13)
    data = (tmp_path / "log.parquet").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert_equal(load_log("-").trajectories, log)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(LogError, match="standard input: not a Parquet file"):
        load_log("-")
    program = "from irecgan_ext.data import load_log; print(len(load_log('/dev/stdin').trajectories))"
    piped = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True)
    assert piped.stdout.split() == [b"5"]


def test_authors_text_by_suffix(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("0;0;4;;1\n0;1;5;5,2;3\n")
    log = load_log(path)
    assert log.items == 6
    assert log.trajectories.clicks.tolist() == [[5, END]]
    assert load_log(path, items=9).items == 9
    with pytest.raises(LogError, match=r"log\.txt: items must be in 0..C-1 \(C = 5\), got 5"):
        load_log(path, items=5)

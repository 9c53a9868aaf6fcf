"""Checkpoints: exact round trips, atomic writing, rotation, damage."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irecgan_ext.training.checkpoint import (
    CheckpointError,
    check_writable,
    checkpoint_path,
    flatten_state,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    unflatten_state,
)

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
KEYS = st.one_of(st.text(max_size=5).filter(lambda key: "/" not in key), st.integers(), st.booleans(), st.none())
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(state=STATES)
def test_state_survives_json(state: object) -> None:
    tensors, rest = flatten_state(state)
    back = unflatten_state(tensors, json.loads(json.dumps(rest)))
    assert back == state
    assert repr(back) == repr(state)


def test_special_numbers_and_tensors_survive(tmp_path: Path) -> None:
    state = {
        "best": math.inf,
        "nan": math.nan,
        "pair": (1, [torch.tensor(2.5), {3: torch.arange(3)}]),
        "$tensor": torch.ones(2, 3).t(),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "rng": torch.get_rng_state(),
    }
    path = save_checkpoint(tmp_path, "best", *flatten_state(state))
    back = unflatten_state(*load_checkpoint(path))
    assert list(back) == list(state)
    assert back["best"] == math.inf
    assert math.isnan(back["nan"])
    assert isinstance(back["pair"], tuple)
    assert back["pair"][1][0].shape == ()
    pairs = [(back["pair"][1][1][3], torch.arange(3)), *((back[k], state[k]) for k in list(state)[3:])]
    for got, expected in pairs:
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)


def test_shared_tensors_are_saved_apart(tmp_path: Path) -> None:
    weight = torch.arange(6.0)
    tensors, _ = load_checkpoint(save_checkpoint(tmp_path, 0, {"a": weight, "b": weight[2:4], "c": weight}, None))
    assert tensors["b"].tolist() == [2, 3]
    assert torch.equal(tensors["a"], tensors["c"])
    tensors["a"].zero_()
    assert torch.equal(load_checkpoint(tmp_path / "step-00000000.safetensors")[0]["a"], weight)


def test_state_of_other_types_is_refused() -> None:
    with pytest.raises(TypeError, match="a/0 must be a tensor, number, string, bool or None, got object"):
        flatten_state({"a": [object()]})
    with pytest.raises(TypeError, match=r"key of a must be .* got tuple"):
        flatten_state({"a": {(1, 2): 0}})
    with pytest.raises(ValueError, match="two tensors of the state have the same path 'a/b'"):
        flatten_state({"a": {"b": torch.ones(1)}, "a/b": torch.ones(1)})


def make_training(seed: int, amsgrad: bool = False):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))
    groups = [{"params": model[0].parameters(), "lr": 1e-2}, {"params": model[2].parameters(), "betas": (0.8, 0.97)}]
    return model, torch.optim.Adam(groups, lr=3e-3, amsgrad=amsgrad)


def train(model: torch.nn.Module, optimiser: torch.optim.Optimizer, units: range) -> None:
    for unit in units:
        x = torch.randn(11, 5, generator=torch.Generator().manual_seed(unit))
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("amsgrad", [False, True])
def test_resumed_training_equals_uninterrupted_training(tmp_path: Path, amsgrad: bool) -> None:
    model, optimiser = make_training(0, amsgrad)
    train(model, optimiser, range(5))
    path = save_checkpoint(
        tmp_path, 5, *flatten_state({"model": model.state_dict(), "optimiser": optimiser.state_dict()})
    )
    saved = optimiser.state_dict()
    train(model, optimiser, range(5, 12))

    other, other_optimiser = make_training(1, amsgrad)
    state = unflatten_state(*load_checkpoint(path))
    assert state["optimiser"]["param_groups"] == saved["param_groups"]
    other.load_state_dict(state["model"])
    other_optimiser.load_state_dict(state["optimiser"])
    train(other, other_optimiser, range(5, 12))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    for index, moments in optimiser.state_dict()["state"].items():
        for name, value in moments.items():
            got = other_optimiser.state_dict()["state"][index][name]
            assert got.dtype == value.dtype, name
            assert torch.equal(got, value), name


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_rotation_keeps_the_newest_and_the_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "best", {}, 1)
    for step in (1, 9, 10, 123_456_789):
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)}, {"step": step})
    save_checkpoint(tmp_path, "best", {}, 2)
    assert names(tmp_path) == ["best.safetensors", "step-00000010.safetensors", "step-123456789.safetensors"]
    assert load_checkpoint(checkpoint_path(tmp_path, "best")) == ({}, 2)
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert load_checkpoint(latest)[1] == {"step": 123_456_789}
    save_checkpoint(tmp_path, 123_456_790, {}, 0, keep=1)
    assert names(tmp_path) == ["best.safetensors", "step-123456790.safetensors"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    for value in (1, 2):
        save_checkpoint(tmp_path, 3, {}, value)
    assert load_checkpoint(checkpoint_path(tmp_path, 3)) == ({}, 2)


def test_step_before_those_of_another_run_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 50, {}, 0)
    with pytest.raises(CheckpointError, match="holds step 50 of an earlier run, cannot add step 1"):
        save_checkpoint(tmp_path, 1, {}, 0)
    assert names(tmp_path) == ["step-00000050.safetensors"]


def test_latest_ignores_half_written_files_and_the_next_save_removes_them(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "absent") is None
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 1, {}, 0)
    stale = tmp_path / ".step-00000002.safetensors.0123abcd.tmp"
    stale.write_bytes(b"half")
    (tmp_path / "step-notes.txt").touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000001.safetensors"
    save_checkpoint(tmp_path, 2, {}, 0)
    assert not stale.exists()
    assert (tmp_path / "step-notes.txt").exists()


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_failed_write_keeps_the_checkpoints_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)}, step)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if name == "write":
            patch.setattr("irecgan_ext.files.open", lambda *_: io.FileIO("/dev/full", "wb"), raising=False)
        else:
            patch.setattr(os, name, full)
        with pytest.raises(CheckpointError, match=r"step-00000003\.safetensors: cannot write: No space left on device"):
            save_checkpoint(tmp_path, 3, {"x": torch.zeros(100_000)}, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_killed_process_leaves_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    program = (
        "import itertools, sys, torch\n"
        "from irecgan_ext.training.checkpoint import save_checkpoint\n"
        "for step in itertools.count():\n"
        "    save_checkpoint(sys.argv[1], step, {'x': torch.full((300_000,), float(step))}, step)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    deadline = time.monotonic() + 60
    while latest_checkpoint(tmp_path) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    tensors, step = load_checkpoint(latest)
    assert bool((tensors["x"] == step).all())


def test_damage_is_detected(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, {"x": torch.arange(1000.0)}, {"step": 7})
    good = path.read_bytes()
    size = int.from_bytes(good[:8], "little")
    path.write_bytes(good[:-100])
    with pytest.raises(CheckpointError, match=r"^[^\n]*step-00000007\.safetensors: damaged or truncated checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_checkpoint(path)
    for damaged in (
        good[:-100] + bytes([good[-100] ^ 1]) + good[-99:],
        good[:8] + good[8 : 8 + size].replace(b'step\\": 7', b'step\\": 8') + good[8 + size :],
    ):
        assert damaged != good
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"step-00000007\.safetensors: checksum does not match"):
            load_checkpoint(path)
    path.write_bytes(good)
    assert load_checkpoint(path)[1] == {"step": 7}


def test_other_files_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of this package"):
        load_checkpoint(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"absent: cannot read: No such file or directory"):
        load_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="cannot read: Is a directory"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["", "../best", "a/b", ".hidden", "step-00000001", -1])
def test_bad_names(tmp_path: Path, name: int | str) -> None:
    with pytest.raises(ValueError, match="must"):
        checkpoint_path(tmp_path, name)


def test_bad_keep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        save_checkpoint(tmp_path, 1, {}, 0, keep=0)


def test_check_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new/run", 1000)
    assert (tmp_path / "new/run").is_dir()
    assert not list((tmp_path / "new/run").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file: cannot write: File exists"):
        check_writable(tmp_path / "file", 0)
    with pytest.raises(CheckpointError, match=r"file/run: cannot write: Not a directory"):
        check_writable(tmp_path / "file/run", 0)
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 3_200_000, 3_200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"needs 120\.0 MB of free space, has 3\.2 MB"):
        check_writable(tmp_path, 120_000_000)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_directory_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="cannot write: Permission denied"):
        check_writable(tmp_path, 0)

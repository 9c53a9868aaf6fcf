"""The train and evaluate commands on a prepared log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import evaluate_here, here
from ragged_logs import ITEMS, write_prepared_by_hand
from runs import FLAGS

from irecgan_ext import train
from irecgan_ext.training.config import TrainConfig

METRICS = ["p@1", "p@10", "mrr", "ndcg@10", "longer"]
ROWS = ["popularity", "position", "chance", "lstm", "pg", "lstmd", "irecgan"]


def train_here(*args: Any) -> tuple[int, str, str]:
    return here(train, TrainConfig, *args)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "data"
    write_prepared_by_hand(folder)
    return folder


@pytest.fixture(scope="module")
def finished(data: Path) -> tuple[Path, str]:
    """A finished run and what it printed."""
    out = data.parent / "run"
    before = torch.get_num_threads()
    status, printed, error = train_here("--data", data, "--out", out, *FLAGS)
    torch.set_num_threads(before)
    assert (status, error) == (0, "")
    return out, printed


def test_a_run_prints_and_keeps_the_rerank_table(finished: tuple[Path, str], data: Path) -> None:
    out, printed = finished
    found = json.loads((out / "summary.json").read_text())["rerank"]
    assert list(found["methods"]) == ROWS
    assert all(list(row) == METRICS for row in found["methods"].values())
    for title in ("popularity", "logged position", "LSTM", "PG", "LSTMD", "IRecGAN"):
        assert f"\n{title} " in printed
    for name in ("train", "valid", "test", "items"):  # the run stands on its own
        assert (out / f"data/{name}.parquet").read_bytes() == (data / f"{name}.parquet").read_bytes()


def test_evaluate_repeats_the_table(finished: tuple[Path, str]) -> None:
    out, printed = finished
    assert evaluate_here(out) == (0, printed, "")
    status, found, _ = evaluate_here(out, "--json")
    assert (status, json.loads(found)) == (0, json.loads((out / "summary.json").read_text())["rerank"])


def test_evaluate_on_other_data(finished: tuple[Path, str], tmp_path: Path) -> None:
    out, printed = finished
    write_prepared_by_hand(tmp_path / "more", sessions=(5, 5, 21))
    status, other, error = evaluate_here(out, "--data", tmp_path / "more")
    assert (status, error) == (0, "")
    assert other != printed
    write_prepared_by_hand(tmp_path / "renamed", names="other")
    status, _, error = evaluate_here(out, "--data", tmp_path / "renamed")
    message = "renamed: the checkpoint has item0 as item 0, the data other0: they must have the same catalogue\n"
    assert status == 2
    assert error.endswith(message)
    assert evaluate_here(out, "--data", tmp_path)[::2] == (
        2,
        f"error: --data: {tmp_path} is not a directory that irecgan_ext.prepare wrote\n",
    )


def test_a_checkpoint_of_another_catalogue_is_refused(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that was exchanged in the run's directory."""
    out, _ = finished
    import shutil

    import ragged_logs

    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "data")
    monkeypatch.setattr(ragged_logs, "ITEMS", ITEMS + 1)
    write_prepared_by_hand(copy / "data")
    status, _, error = evaluate_here(copy)
    assert status == 2
    assert error.endswith("was trained on a catalogue of 30 items, the data has 31\n")


@pytest.mark.parametrize("method", ["pgis", "ac", "acu", "pgu"])
def test_other_methods_rerank_too(data: Path, tmp_path: Path, method: str) -> None:
    status, printed, error = train_here("--data", data, "--out", tmp_path / "run", "--method", method, *FLAGS)
    assert (status, error) == (0, "")
    found = json.loads((tmp_path / "run/summary.json").read_text())["rerank"]["methods"]
    assert method in found


def test_bad_options(data: Path, tmp_path: Path) -> None:
    args = ("--data", data, "--out", tmp_path / "run", *FLAGS)
    status, _, error = train_here(*args, "--slate-size", 31)
    assert (status, error) == (2, "error: --slate-size must be in 1..C (C = 30), got 31\n")
    status, _, error = train_here(*args, "--mdp", tmp_path)
    assert (status, error) == (2, "error: --mdp: a prepared log has real users; drop the flag\n")
    assert not (tmp_path / "run").exists()


def test_a_damaged_directory(data: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/test.parquet").unlink()
    status, _, error = train_here("--data", tmp_path / "data", "--out", tmp_path / "run", *FLAGS)
    assert (status, error) == (2, f"error: {tmp_path}/data/test.parquet: No such file or directory\n")

"""The commands, as processes and in this process, and what they leave."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from irecgan_ext import cli, evaluate, simulate, train
from irecgan_ext.training.checkpoint import load_checkpoint
from irecgan_ext.training.config import TrainConfig

MARKS = ("random", "log", "counts", "belief", "oracle")  # rows of the results that need no learning
LEARNT = ("lstm", "pg", "lstmd", "irecgan")


def command(module: str, *args: str | Path) -> list[str]:
    return [sys.executable, "-m", f"irecgan_ext.{module}", *map(str, args)]


def run(module: str, *args: str | Path, **options: Any) -> subprocess.CompletedProcess:
    return subprocess.run(command(module, *args), capture_output=True, **options)


def train_here(*args: str | Path | float) -> int:
    return cli.run_command(train.main, TrainConfig, prog="train", args=[str(arg) for arg in args])


def here(module: Any, options: Any, *args: Any) -> tuple[int, str, str]:
    """A command in this process: exit status, standard output, standard error."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        status = cli.run_command(module.main, options, prog=module.__name__, args=[str(arg) for arg in args])
    return status, out.getvalue(), error.getvalue()


def evaluate_here(*args: str | Path | float) -> tuple[int, str, str]:
    return here(evaluate, evaluate.EvaluateOptions, *args)


def summary(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "summary.json").read_text())


def final_tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(directory / "checkpoints/final.safetensors")[0]


def simulate_here(*args: str | Path | float) -> None:
    options = simulate.SimulateOptions
    assert cli.run_command(simulate.main, options, prog="simulate", args=[str(arg) for arg in args]) == 0


def one_line(error: str, message: str) -> None:
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert message in error

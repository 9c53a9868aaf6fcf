"""Export a trained agent: `python -m irecgan_ext.export DIR --out agent.pt2`."""

from __future__ import annotations

import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch.export import ExportedProgram

from irecgan_ext.cli import run_command
from irecgan_ext.data.item_ids import read_item_ids
from irecgan_ext.errors import UsageError
from irecgan_ext.files import atomic_write, reason
from irecgan_ext.serving.programs import export_programs
from irecgan_ext.serving.recommender import Recommender
from irecgan_ext.serving.verify import verify
from irecgan_ext.training.trained import Trained, item_id_places, load_trained
from irecgan_ext.types import END, PAD

NOTES_FILE = "irecgan_ext.json"


@dataclass(frozen=True)
class ExportOptions:
    """Write a trained agent as torch.export programs, which need torch but not this package.

    Two files: OUT takes whole histories, OUT's name with .step before the suffix takes a state and one click. In Python:

    program = torch.export.load("agent.pt2").module(); items, log_probs, state = program(histories, exclude)

    histories [B, T] int64: items 0..C-1, -2 for an item that is not in the catalogue, -1 after the end (a row of -1 is an empty
    history); exclude [B, X] int64: items not to show, -1 for none; T and X at least 1. The step program takes (state, clicks [B],
    exclude). Both are checked against the model before they are written. The notes in the file (irecgan_ext.json) tell k, C and,
    where the run or its data keep a map of ids, the id of each item.
    """

    directory: tyro.conf.Positional[Path]
    """Directory of a finished run of irecgan_ext.train."""
    out: Path
    """File to write, with the suffix .pt2."""
    k: int = 10
    """Items per list."""
    agent: str | None = None
    """Which agent of the run, by its row in the run's table: irecgan, pg, ... None: that of the run's method."""
    aot: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compile both programs for this machine's processor instead (AOTInductor packages, which need a C++ compiler now and
    torch's libraries later): load with torch._inductor.aoti_load_package("agent.pt2"). The notes go to agent.json
    beside them."""


def main(options: ExportOptions) -> None:
    """Export, check, write.

    Raises:
        UserError: the run or an option; the machine cannot compile.
    """
    if options.out.suffix != ".pt2":
        raise UsageError(f"--out must have the suffix .pt2, got {options.out}")
    if not options.out.parent.is_dir():
        raise UsageError(f"--out: {options.out.parent} is not a directory")
    trained = load_trained(options.directory, options.agent)
    if not 1 <= options.k <= trained.items:
        raise UsageError(f"--k must be in 1..C (C = {trained.items}), got {options.k}")
    notes = _notes(options, trained)
    print("exporting", file=sys.stderr)
    programs = export_programs(trained.agent, options.k, starts_from_item=trained.starts_from_item)
    made: dict[str, tuple[Callable[..., Any], bytes]] = {}
    for name, program in programs.items():
        if options.aot:
            print(f"compiling the {name} program", file=sys.stderr)
            made[name] = _compiled(program)
        else:
            made[name] = _saved(program, notes)
    difference = verify(
        Recommender(trained.agent),
        made["history"][0],
        made["step"][0],
        options.k,
        starts_from_item=trained.starts_from_item,
    )
    print(f"equal to the model: log-probabilities within {difference:.1e}")
    for name, (_, content) in made.items():
        path = options.out if name == "history" else options.out.with_suffix(f".{name}.pt2")
        with atomic_write(path) as stream:
            stream.write(content)
        print(f"{path}: the {name} program, {len(content) / 1e6:.1f} MB")
    if options.aot:  # whose packages have no room for notes
        with atomic_write(options.out.with_suffix(".json")) as stream:
            stream.write(notes.encode())


def _notes(options: ExportOptions, trained: Trained) -> str:
    """What a user of the programs must know, as JSON."""
    ids = read_item_ids(trained.items, item_id_places(options.directory, trained.config))
    notes = {
        "agent": trained.name,
        "k": options.k,
        "items": trained.items,
        "starts_from_item": trained.starts_from_item,
        "pad": PAD,
        "unknown": END,
        "ids": None if ids.outside is None else list(ids.outside),
    }
    return json.dumps(notes)


def _saved(program: ExportedProgram, notes: str) -> tuple[Callable[..., Any], bytes]:
    """The program as read back from its file's content, and that content."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={NOTES_FILE: notes})
    content = buffer.getvalue()
    return torch.export.load(io.BytesIO(content)).module(), content


def _compiled(program: ExportedProgram) -> tuple[Callable[..., Any], bytes]:
    """The program as loaded from its compiled package, and that package.

    Raises:
        UsageError: it cannot be compiled here.
    """
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # torch's own use of what it deprecates
            warnings.simplefilter("ignore", category)
        path = str(Path(directory) / "program.pt2")
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=path)
            run = torch._inductor.aoti_load_package(path)
        except Exception as error:  # whatever the compiler's driver raises: there is no common base
            raise UsageError(
                f"--aot: AOTInductor cannot compile here ({reason(error)}); it needs a C++ compiler and Python's headers, "
                "or leave --aot out"
            ) from error
        return run, Path(path).read_bytes()


if __name__ == "__main__":
    sys.exit(run_command(main, ExportOptions, prog="python -m irecgan_ext.export"))

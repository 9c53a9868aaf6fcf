"""The process of one cell: reads its task from standard input, leaves its result in a file.

It ends when standard input is closed, so that no worker outlives the runner, however that one ended.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

from irecgan_ext.errors import UserError
from irecgan_ext.experiments.cells import Cell, CellResult, result_path, work_directory
from irecgan_ext.experiments.machine import commit, machine

ABANDONED, REFUSED = 3, 2  # exit statuses: the runner is gone; the cell met a UserError


def main() -> int:
    """Do the cell that standard input describes: {"function", "out", "cell"}."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_watch_runner, daemon=True).start()
    cell, out = Cell(**request["cell"]), Path(request["out"])
    module, _, name = request["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    directory = work_directory(out, cell)
    directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        rows = tuple(function(cell, directory))
    except UserError as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        return REFUSED
    CellResult(cell, rows, time.monotonic() - started, commit(), machine()).save(result_path(out, cell))
    shutil.rmtree(directory)
    return 0


def _watch_runner() -> None:
    # The descriptor itself: the main thread may still hold the lock of sys.stdin's buffer.
    while os.read(0, 4096):
        pass
    os._exit(ABANDONED)


if __name__ == "__main__":
    sys.exit(main())

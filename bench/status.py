"""Which kernels a GPU has verified: `python -m bench status`, and how `bench/gpu.sh` records it.

`results/verified.json` holds, by op, the hash of the sources that passed their tests on a GPU. A kernel's sources are its files
here and every file of csrc that they include.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

import irecgan_ext
from bench import harness

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "bench" / "results" / "verified.json"

# Op -> the sources that are its own.
SOURCES = {
    "gumbel_topk": ["cuda/gumbel_topk.cu", "torch/gumbel_topk_cuda.cpp"],
    "linear_gumbel_topk": [
        "cuda/linear_gumbel_topk.cu",
        "cuda/linear_stats.cu",
        "torch/linear_gumbel_topk_cuda.cpp",
    ],
    "linear_log_prob": [
        "cuda/linear_log_prob.cu",
        "cuda/linear_log_prob_backward.cu",
        "cuda/linear_stats.cu",
        "torch/linear_log_prob_cuda.cpp",
    ],
    "rollout": ["cuda/rollout.cu", "cuda/rollout_small.cu", "cuda/rollout_steps.cu", "torch/rollout_cuda.cpp"],
}
_INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)


def sources(op: str, root: Path = ROOT) -> list[Path]:
    """The files behind an op's kernels, each once, in the order of their names. Sources not written yet are left out."""
    waiting = [root / "csrc" / name for name in SOURCES[op]]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop().resolve()
        if path in found or not path.exists():
            continue
        found.add(path)
        waiting += [path.parent / name for name in _INCLUDE.findall(path.read_text())]
    return sorted(found)


def source_hash(op: str, root: Path = ROOT) -> str:
    """SHA-256 over the names and contents of an op's sources."""
    digest = hashlib.sha256()
    for path in sources(op, root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root.resolve())} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def read_record(path: Path = RECORD) -> dict[str, dict[str, Any]]:
    """What a GPU has verified, by op; empty if there is no record yet."""
    return json.loads(path.read_text()) if path.exists() else {}


def rows(record: dict[str, dict[str, Any]], root: Path = ROOT) -> list[dict[str, str]]:
    """One row per op: verified, changed since, or unverified."""
    table = []
    for op in SOURCES:
        entry = record.get(op)
        state = "unverified"
        if entry is not None:
            state = "verified" if entry["hash"] == source_hash(op, root) else "changed since"
        entry = entry or {"device": "", "date": "", "commit": ""}
        commit = entry["commit"][:12]
        table.append({"kernels": op, "state": state, "on": entry["device"], "date": entry["date"], "commit": commit})
    return table


def passed(junit: Path) -> int:
    """Tests that passed in a pytest report. ValueError unless some did and none failed."""
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    counts = [{name: int(s.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")} for s in suites]
    total = {name: sum(count[name] for count in counts) for name in ("tests", "failures", "errors", "skipped")}
    good = total["tests"] - total["failures"] - total["errors"] - total["skipped"]
    if total["failures"] or total["errors"] or good <= 0:
        raise ValueError(f"{junit} must hold passed tests and no failed one, got {good} and {total}")
    return good


def verify(op: str, junit: Path, path: Path, sanitizer: str) -> None:
    """Record that an op's kernels, as they are now, passed the tests of a pytest report on this GPU.

    Raises:
        ValueError: there is no CUDA device, or the report does not say so.
    """
    if not torch.cuda.is_available():
        raise ValueError("a record must come from a machine with a CUDA device, got none")
    entry = {
        "hash": source_hash(op),
        "device": torch.cuda.get_device_name(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": irecgan_ext.build_info()["commit"],
        "torch": torch.__version__,
        "tests_passed": passed(junit),
        "sanitizer": sanitizer,
    }
    path.write_text(json.dumps({**read_record(path), op: entry}, indent=1, sort_keys=True) + "\n")


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.status", description=__doc__.splitlines()[0])
    parser.add_argument("--verify", choices=SOURCES, metavar="OP", help="record that this op's tests passed here")
    parser.add_argument("--tests", type=Path, metavar="XML", help="pytest's report of those tests (--junit-xml)")
    parser.add_argument("--sanitizer", default="not run", metavar="TEXT", help="which of its checks passed as well")
    parser.add_argument(
        "--record", type=Path, default=RECORD, metavar="JSON", help="default bench/results/verified.json"
    )
    options = parser.parse_args(args)
    if options.verify is None:
        print(harness.table(rows(read_record(options.record))))
        return 0
    if options.tests is None:
        parser.error("--verify needs --tests")
    try:
        verify(options.verify, options.tests, options.record, options.sanitizer)
    except (ValueError, OSError, ElementTree.ParseError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench`: run benchmarks, print their tables, keep them as JSON."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import (
    gumbel_topk,
    harness,
    linear_gumbel_topk,
    linear_log_prob,
    prepare,
    recommend,
    rollout,
    scaling,
    train_epoch,
)

BENCHMARKS: dict[str, Callable[[Sequence[int], bool], list[dict[str, Any]]]] = {
    "gumbel_topk": gumbel_topk.run,
    "linear_gumbel_topk": linear_gumbel_topk.run,
    "linear_log_prob": linear_log_prob.run,
    "rollout": rollout.run,
    "train_epoch": train_epoch.run,
    "prepare": prepare.run,
    "recommend": recommend.run,
    "scaling": scaling.run,
}


def main(args: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(args)
    names = list(BENCHMARKS) if options.name == "all" else [options.name]
    environment = harness.environment()
    machine = environment["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, load {environment['load_average_before']}; ", end="")
    print(f"torch {environment['versions']['torch']}, {environment['build']['cpu_capability']}, ", end="")
    print(f"commit {environment['commit'][:12]}, {environment['date']}")
    results = {}
    for name in names:
        results[name] = BENCHMARKS[name](options.threads, options.quick)
        print(f"\n{name}\n\n{harness.table(results[name])}", flush=True)
    if options.plot is not None and "scaling" in results:
        scaling.plot(results["scaling"], options.plot)
    if options.json is not None:
        command = f"python -m bench {options.name} --threads {','.join(map(str, options.threads))}"
        command += " --quick" * options.quick
        harness.write_json(options.json, {"command": command, **environment, "results": results})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time the native ops against PyTorch. Results are checked for correctness first; each row is the median of "
        "interleaved rounds, with quartiles, next to its peers and to a ceiling measured in the same run.",
    )
    parser.add_argument("name", choices=[*BENCHMARKS, "all"], help="which benchmark")
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds: that it works, not how fast it is")
    cores = os.cpu_count() or 1
    every = [1, cores] if cores > 1 else [1]
    text = ",".join(map(str, every))
    parser.add_argument(
        "--threads", type=_threads, default=every, metavar="N,N", help=f"numbers of threads, in turn (default {text})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results, machine, versions and commit there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves of scaling there (PNG)")
    return parser


def _threads(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"threads must be numbers such as 1,2, got {text!r}") from None
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"threads must be at least 1, got {text}")
    return numbers


if __name__ == "__main__":
    sys.exit(main())

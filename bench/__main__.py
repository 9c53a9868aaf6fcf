"""`python -m bench`: run benchmarks, print their tables, keep them as JSON; or say which kernels a GPU has verified."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import (
    catalogue_sample,
    device,
    gumbel_topk,
    harness,
    linear_gumbel_topk,
    linear_log_prob,
    prepare,
    recommend,
    rollout,
    scaling,
    status,
    train_catalogue,
    train_epoch,
)

BENCHMARKS: dict[str, Callable[[Sequence[int], bool], list[dict[str, Any]]]] = {
    "gumbel_topk": gumbel_topk.run,
    "linear_gumbel_topk": linear_gumbel_topk.run,
    "catalogue_sample": catalogue_sample.run,
    "linear_log_prob": linear_log_prob.run,
    "rollout": rollout.run,
    "rollout_catalogue": rollout.run_catalogue,
    "train_epoch": train_epoch.run,
    "train_catalogue": train_catalogue.run,
    "prepare": prepare.run,
    "recommend": recommend.run,
    "scaling": scaling.run,
}
PLOTS = {"scaling": scaling.plot, "catalogue_sample": catalogue_sample.plot}
OF_THE_CPU = ("catalogue_sample", "prepare", "recommend")  # what they time runs nowhere else


def main(args: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(args)
    if options.name == "status":
        return status.main([])
    if options.device == "cuda" and options.name in OF_THE_CPU:
        parser.error(f"argument --device: {options.name} runs on the CPU alone; use --device cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no CUDA device; use --device cpu")
    if options.threads is None:
        options.threads = [torch.get_num_threads()] if options.device == "cuda" else _every()
    with device.on(torch.device(options.device)):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    every = [name for name in BENCHMARKS if not (device.is_cuda() and name in OF_THE_CPU)]
    names = every if options.name == "all" else [options.name]
    environment = harness.environment()
    machine = environment["machine"]
    print("".join(f"{machine[key]}, " for key in ("device",) if key in machine), end="")
    print(f"{machine['cpu']}, {machine['cores']} cores, load {environment['load_average_before']}; ", end="")
    print(f"torch {environment['versions']['torch']}, {environment['build']['cpu_capability']}, ", end="")
    print(f"commit {environment['commit'][:12]}, {environment['date']}")
    command = f"python -m bench {options.name} --threads {','.join(map(str, options.threads))}"
    command += f" --device {options.device}" * device.is_cuda() + " --quick" * options.quick
    results, failed = {}, False
    for name in names:
        try:
            results[name] = BENCHMARKS[name](options.threads, options.quick)
        except Exception:
            if len(names) == 1:
                raise
            traceback.print_exc()
            failed = True
            continue
        print(f"\n{name}\n\n{harness.table(results[name])}", flush=True)
        if options.json is not None:  # after every question: a run that is cut short leaves what it has
            harness.write_json(options.json, {"command": command, **environment, "results": results})
    drawn = next((name for name in PLOTS if name in results), None)
    if options.plot is not None and drawn is not None:
        PLOTS[drawn](results[drawn], options.plot)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time the native ops against PyTorch. Results are checked for correctness first; each row is the median of "
        "interleaved rounds, with quartiles, next to its peers and to a ceiling measured in the same run.",
    )
    parser.add_argument(
        "name",
        choices=[*BENCHMARKS, "all", "status"],
        help="which benchmark; status: which CUDA kernels a GPU has verified",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (default cpu)")
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds: that it works, not how fast it is")
    text = ",".join(map(str, _every()))
    parser.add_argument(
        "--threads", type=_threads, metavar="N,N", help=f"numbers of threads, in turn (default {text}; one on cuda)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results, machine, versions and commit there")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the curves of scaling or catalogue_sample there (PNG)"
    )
    return parser


def _every() -> list[int]:
    cores = os.cpu_count() or 1
    return [1, cores] if cores > 1 else [1]


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

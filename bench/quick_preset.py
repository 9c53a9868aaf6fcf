"""What the quick preset learns, over several seeds: `python -m bench.quick_preset`.

Each seed has its own users, log, weights and samples. Runs that are already in the directory are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from irecgan_ext.experiments.statistics import t95

METHODS = ("random", "counts", "lstm", "pg", "irecgan", "belief", "oracle")
NAMES = {"lstm": "LSTM", "pg": "PG", "irecgan": "**IRecGAN**"}

Floats = NDArray[np.float64]


def main() -> None:
    """Train, then print the table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.quick_preset", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds to run, at least 2")
    parser.add_argument("--out", type=Path, default=Path("runs/quick_preset"), help="directory for the runs")
    parser.add_argument("flags", nargs="*", help="flags for irecgan_ext.train, after --")
    options = parser.parse_args()
    if len(options.seeds) < 2:
        parser.error(f"--seeds must be at least 2 numbers, got {len(options.seeds)}")
    summaries = [_run(seed, options.out / f"seed{seed}", options.flags) for seed in options.seeds]
    print(table(summaries))


def _run(seed: int, directory: Path, flags: list[str]) -> dict[str, object]:
    summary = directory / "summary.json"
    if not summary.exists():
        command = [sys.executable, "-m", "irecgan_ext.train", "--seed", str(seed), "--out", str(directory), *flags]
        subprocess.run(command, check=True)
    return json.loads(summary.read_text())


def table(summaries: list[dict[str, object]]) -> str:
    """Rewards by seed, their mean, and IRecGAN's paired differences with 95% intervals over seeds."""
    greedy = {name: _rewards(summaries, name, False) for name in METHODS}
    sampled = {name: _rewards(summaries, name, True) for name in ("lstm", "pg", "irecgan")}
    seeds = [summary["seed"] for summary in summaries]
    lines = [
        "| reward | "
        + " | ".join(f"seed {seed}" for seed in seeds)
        + " | mean | coverage@1 | coverage@10 | sampled, mean |",
        "|---|" + "---|" * (len(seeds) + 4),
    ]
    for name in METHODS:
        rows = [summary["results"][name]["coverage"] for summary in summaries]  # type: ignore[index]
        cells = [f"{value:.2f}" for value in greedy[name]] + [f"{greedy[name].mean():.3f}"]
        cells += [f"{np.mean([row[depth] for row in rows]):.2f}" for depth in ("1", "10")]
        cells.append(f"{sampled[name].mean():.3f}" if name in sampled else "")
        lines.append(f"| {NAMES.get(name, name)} | " + " | ".join(cells) + " |")
    way = (greedy["irecgan"] - greedy["random"]) / (greedy["belief"] - greedy["random"])
    counted = (greedy["counts"] - greedy["random"]) / (greedy["belief"] - greedy["random"])
    lines += [
        "",
        f"Way from random to belief, mean over seeds: IRecGAN {way.mean():.1%}, counts {counted.mean():.1%}.",
        "IRecGAN minus (mean and 95% interval over seeds, paired):",
    ]
    for name in ("lstm", "pg", "counts"):
        lines.append(f"- {NAMES.get(name, name)}, greedy: {_interval(greedy['irecgan'] - greedy[name])}")
    for name in ("lstm", "pg"):
        lines.append(f"- {NAMES[name]}, sampled: {_interval(sampled['irecgan'] - sampled[name])}")
    seconds = [summary["seconds"]["total"] for summary in summaries]  # type: ignore[index]
    lines.append(f"\nSeconds per run: {min(seconds):.0f} to {max(seconds):.0f}; commit {summaries[0]['commit']}.")
    return "\n".join(lines)


def _rewards(summaries: list[dict[str, object]], name: str, sampled: bool) -> Floats:
    rows = [summary["results"][name] for summary in summaries]  # type: ignore[index]
    return np.array([(row["sampled"] if sampled else row)["reward"]["mean"] for row in rows])


def _interval(differences: Floats) -> str:
    half = t95(len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return f"{differences.mean():+.3f} +- {half:.3f}"


if __name__ == "__main__":
    main()

"""Compile every CUDA source for each architecture and print what ptxas says of the kernels; a register spill fails.

python .ci/ptxas.py [--nvcc nvcc] [--architectures sm_80 sm_90] [sources...]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

KERNEL = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def readable(symbols: list[str]) -> list[str]:
    """Demangled kernel names without their parameters and namespaces."""
    if shutil.which("c++filt") is None or not symbols:
        return symbols
    done = subprocess.run(["c++filt", *symbols], capture_output=True, text=True, check=True)
    names = [line.replace("(anonymous namespace)::", "").split("(")[0] for line in done.stdout.splitlines()]
    return [re.sub(r"^void |\w+::", "", name) for name in names]


def kernels(nvcc: str, source: Path, architecture: str) -> list[dict[str, object]]:
    """One row per kernel of a source."""
    command = [nvcc, "-std=c++20", "-O3", "-DNDEBUG", f"-arch={architecture}", "-cubin", "-Xptxas=-v", "-Werror"]
    done = subprocess.run([*command, "all-warnings", str(source), "-o", "/dev/null"], capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode != 0:
        sys.exit(f"{source} does not compile for {architecture}:\n{output}")
    rows: list[dict[str, object]] = []
    for line in output.splitlines():
        if found := KERNEL.search(line):
            rows.append({"kernel": found[1], "architecture": found[2], "shared": 0})
        elif rows and (found := SPILL.search(line)):
            rows[-1] |= {"stack": int(found[1]), "spilled": int(found[2]) + int(found[3])}
        elif rows and (found := USED.search(line)):
            shared = SHARED.search(line)
            rows[-1] |= {"registers": int(found[1]), "shared": int(shared[1]) if shared else 0}
    if any("registers" not in row or "spilled" not in row for row in rows) or not rows:
        sys.exit(f"{source}: no kernels found in what ptxas printed for {architecture}:\n{output}")
    for row, name in zip(rows, readable([str(row["kernel"]) for row in rows])):
        row |= {"kernel": name, "source": source.name}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, default=sorted(Path("csrc/cuda").glob("*.cu")))
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--architectures", nargs="+", default=["sm_80", "sm_90"])
    args = parser.parse_args()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(kernels, args.nvcc, source, arch) for arch, source in product(args.architectures, args.sources)
        ]
        rows = [row for job in jobs for row in job.result()]
    columns = ["source", "kernel", "architecture", "registers", "shared", "stack", "spilled"]
    table = [columns] + [[str(row[c]) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    spilling = [f"{row['kernel']} ({row['architecture']})" for row in rows if row["spilled"]]
    if spilling:
        sys.exit(f"registers spill in {', '.join(spilling)}")


if __name__ == "__main__":
    main()

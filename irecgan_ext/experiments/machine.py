"""Which code ran, and where."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """Commit of the checkout that the package is imported from, "-dirty" with local changes; otherwise of the build."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        try:
            return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    from irecgan_ext import ops  # here: it loads torch, which the runner does without

    return str(ops.build_info()["commit"])


def machine() -> str:
    """Processor, cores that this process may use, and system."""
    return f"{_processor()}, {cores()} cores, {platform.system()} {platform.machine()}"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

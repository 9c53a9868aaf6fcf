"""How the tests compile and call csrc/simt's entry points."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor

ROOT = Path(__file__).parent.parent
FLAGS = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{ROOT}/csrc/simt"]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
ORDERS = pytest.mark.parametrize("reversed_lanes", [False, True], ids=["forward", "reversed"])

needs_compiler = pytest.mark.skipif(
    COMPILER is None or not sys.platform.startswith("linux"), reason="csrc/simt needs a C++20 compiler and Linux"
)


def compiled(source: str, target: Path, *flags: str) -> Path:
    command = [str(COMPILER), *FLAGS, *flags, "-x", "c++", str(ROOT / source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def pointer(t: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def needs_address_sanitizer(folder: Path) -> None:
    """Skip the test where the compiler cannot link with -fsanitize=address."""
    (folder / "empty.cpp").write_text("int main() {}\n")
    probe = [str(COMPILER), "-fsanitize=address", str(folder / "empty.cpp"), "-o", str(folder / "empty")]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("the compiler has no AddressSanitizer")

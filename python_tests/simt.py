"""Compiles the CUDA sources for the host (csrc/simt), for the tests that run them there."""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
FLAGS = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{ROOT}/csrc/simt"]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
ORDERS = pytest.mark.parametrize("reversed_lanes", [False, True], ids=["forward", "reversed"])
NEEDS_COMPILER = pytest.mark.skipif(
    COMPILER is None or not sys.platform.startswith("linux"), reason="csrc/simt needs a C++20 compiler and Linux"
)


_built = tempfile.TemporaryDirectory(prefix="simt-")


@functools.cache
def compiled(sources: tuple[str, ...], *flags: str) -> Path:
    """Path of the compiled sources; each combination is compiled once."""
    target = Path(tempfile.mkdtemp(dir=_built.name)) / Path(sources[0]).stem
    command = [str(COMPILER), *FLAGS, *flags, "-x", "c++", *(str(ROOT / source) for source in sources)]
    done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def library(*sources: str, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The C functions of sources in csrc."""
    return ctypes.CDLL(str(compiled(sources, "-fPIC", "-shared", *flags)))


def with_address_check(*sources: str) -> Path:
    """The program compiled under AddressSanitizer; skips the test where the compiler has none."""
    probe = [str(COMPILER), "-fsanitize=address", "-x", "c++", "-", "-o", f"{_built.name}/empty"]
    if subprocess.run(probe, input=b"int main() {}\n", capture_output=True).returncode != 0:
        pytest.skip("the compiler has no AddressSanitizer")
    return compiled(sources, "-fsanitize=address")


def pointer(t: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if t is None else t.data_ptr())


def run(entry, *arguments) -> None:
    """Call a C function that returns null or what went wrong."""
    entry.restype = ctypes.c_char_p
    error = entry(*arguments)
    assert error is None, error.decode()


def assert_same_draws(drawn, expected, tolerance: float) -> None:
    """Values within `tolerance`, and the same items but where arrivals are closer than that."""
    values, indices = (x.cpu() for x in drawn[:2])
    expected_values, expected_indices = (x.cpu() for x in expected[:2])
    torch.testing.assert_close(values, expected_values, rtol=0, atol=tolerance)
    gaps = torch.nn.functional.pad(-expected_values.diff(dim=1), (1, 1), value=torch.inf)
    tied = torch.minimum(gaps[:, 1:], gaps[:, :-1]) < tolerance
    assert bool(((indices == expected_indices) | tied).all())
    assert tied.double().mean() < 0.01

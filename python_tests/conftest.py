"""Fixtures of all tests: the number of PyTorch's threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    """Commands that a test calls in this process may set the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> None:
    """Small tensors, many of them: more threads only wait for each other."""
    torch.set_num_threads(1)

"""Which device the benchmarks run on, and how time and memory are taken there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

Work = Callable[[], Any]

_device = torch.device("cpu")


def current() -> torch.device:
    """The device of the benchmark under way."""
    return _device


def is_cuda() -> bool:
    return _device.type == "cuda"


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Benchmarks on `device`: also where tensors are made that name no other.

    On the CPU, where they are made anyway, torch's mode is not entered: it adds microseconds to every call.
    """
    global _device
    before, _device = _device, device
    try:
        with nullcontext() if device == before else device:
            yield
    finally:
        _device = before


def generator(seed: int) -> torch.Generator:
    """A generator for tensors that are made on the benchmark's device."""
    return torch.Generator(_device).manual_seed(seed)


def synchronize() -> None:
    """Wait for what the device has been given to do."""
    if is_cuda():
        torch.cuda.synchronize()


def seconds(work: Work, calls: int = 1) -> float:
    """Time of a call, the mean of `calls`. On CUDA of one call between two events on the stream, on a second-level cache
    that holds none of its data."""
    if is_cuda():
        return _between_events(work)
    begin = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - begin) / calls


def peak_extra_mb(work: Work) -> float:
    """MB of CUDA memory that one call of `work` allocates at its peak."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def describe() -> dict[str, Any]:
    """Name and versions of the CUDA device; nothing for the CPU."""
    if not is_cuda():
        return {}
    properties = torch.cuda.get_device_properties(_device)
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9),
        "cuda": torch.version.cuda,
    }


def _between_events(work: Work) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    _cache_filler().zero_()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


@cache
def _cache_filler() -> Tensor:
    size = max(2 * torch.cuda.get_device_properties(_device).L2_cache_size, 1 << 26)
    return torch.empty(size, dtype=torch.int8, device=_device)

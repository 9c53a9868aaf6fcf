"""Ctrl-C between two units of work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt(note: Callable[[], bool]) -> Iterator[None]:
    """Let Ctrl-C end a run after the current unit of work, whose state can be saved; a second one ends it at once.

    Args:
        note: takes note of a Ctrl-C; False if it was the second one.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if not note():
            raise KeyboardInterrupt
        # Not print: the signal may have come in the middle of a write to the same stream.
        os.write(2, b"\nstopping after this unit of work; press Ctrl-C again to stop at the last checkpoint\n")

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: whoever runs us handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)

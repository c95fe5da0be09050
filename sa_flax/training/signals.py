"""Ctrl-C and SIGTERM, noted by a run that saves before it ends."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM only note themselves in the list that is yielded.

    The loop looks at it after every step. A second Ctrl-C interrupts at once.
    """
    caught: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        print("\nstopping: saving a checkpoint after this step", file=sys.stderr, flush=True)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

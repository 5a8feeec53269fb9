"""Ctrl-C and SIGTERM: the first asks the work to finish what it has in hand, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType

#: Exit status when a signal cut the work short.
SIGNALLED = 130


class Stop:
    """Asks long work to end. Set from a signal handler or another thread, looked at between batches."""

    def __init__(self) -> None:
        self._requested = False
        # Not an Event: its set() in a signal handler waits for ever when the signal came in the midst of its wait().
        self._words: SimpleQueue[None] = SimpleQueue()

    @property
    def requested(self) -> bool:
        """Whether the work should end after the batch in hand."""
        return self._requested

    def request(self) -> None:
        """Ask the work to end. Safe to repeat."""
        self._requested = True
        self._words.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait, but no longer than until a stop is requested; returns whether it is."""
        if not self._requested:
            try:
                self._words.get(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX)))
            except Empty:
                return self._requested
            self._words.put(None)  # for others who wait
        return True


@contextmanager
def stop_on_signals(on_first: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """A Stop that INT and TERM request; old handlers come back at the end. Main thread only.

    A second signal ends the process at once with status 130; what was in hand is finished by the next run.
    """
    stop = Stop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            os._exit(SIGNALLED)
        stop.request()
        on_first()

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

"""Ctrl-C in the demo: everything that it started is ended and removed, once, undisturbed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from migrate.errors import Interrupted


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """INT, TERM and HUP raise Interrupted where the main thread is; further ones are ignored until the block ends.

    So the clean-up that the first one starts is never cut short. Main thread only; old handlers come back at the end.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted("the demo was stopped; nothing of it runs any more")

    old = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

"""Signals as flags and a descriptor that wakes whoever waits: handlers do nothing else."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Collection, Iterable
from types import FrameType

#: What a process of ours may have been told to ignore or to handle.
ALL = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGCHLD,
)


def hold_back() -> set[int]:
    """Let signals wait until `Signals` handles them: between a fork and that, one would be lost, or end the process.

    Returns what was held back before.
    """
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ALL))


def let_come(but: Collection[int] = ()) -> None:
    """End that, but for these."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number for number in ALL if number not in but])


class Signals:
    """Calls `on(number)` for each signal, and makes `wake_fd` readable until `drain`. Main thread only."""

    def __init__(self, numbers: Iterable[signal.Signals], on: Callable[[signal.Signals], None]) -> None:
        self._on = on
        self.wake_fd, self._write_fd = os.pipe()
        for fd in (self.wake_fd, self._write_fd):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._handle)
        let_come()  # over a fork or an exec they may have waited

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._on(signal.Signals(number))

    def drain(self) -> None:
        """Make `wake_fd` wait for the next signal."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake_fd, 512):
                pass

    def wait(self, seconds: float) -> None:
        """Until a signal comes, or the time is over."""
        select.select([self.wake_fd], [], [], seconds)
        self.drain()

    def forget(self) -> None:
        """After a fork: the parent hears nothing of the child's signals; what waits does what it does by default."""
        signal.set_wakeup_fd(-1)
        for number in ALL:
            signal.signal(number, signal.SIG_DFL)
        os.close(self.wake_fd)
        os.close(self._write_fd)

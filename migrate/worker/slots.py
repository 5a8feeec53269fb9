"""The places of a pool, each with a process or about to get one. Starts and reaps; decides nothing of when to stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from migrate.worker.signals import hold_back, let_come
from migrate.worker.telling import Heard, Telling

#: Seconds: a process that lives longer than this is replaced at once, others after growing pauses.
SHORT_LIFE_SECONDS = 10.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0


class Slot:
    """One place."""

    def __init__(self, name: str, body: Callable[[Telling], int]) -> None:
        """`body` runs in the child and returns its exit status."""
        self.name = name
        self._body = body
        self.pid = 0  #: 0: nobody is there
        self.heard: Heard | None = None
        self.done = self.failed = 0  #: attempts, of those that were here before
        self._started_at = 0.0
        self.next_start = 0.0  #: of the monotonic clock
        self._pause = FIRST_PAUSE_SECONDS

    @property
    def ready(self) -> bool:
        """Whether its process takes jobs."""
        return self.heard is not None and self.heard.ready

    def start(self) -> None:
        """Fork. Returns in the parent only; the child's signals wait until it handles them."""
        read_fd, write_fd = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        held = hold_back()
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                os.close(read_fd)
                status = self._body(Telling(write_fd))
            finally:
                os._exit(status)
        let_come(held)  # not more than before: a pool's own may still be held back
        os.close(write_fd)
        self.pid, self.heard, self._started_at = pid, Heard(read_fd), time.monotonic()

    def send(self, number: signal.Signals) -> None:
        """Send its process a signal; it is our child and not reaped, so the pid is still its own."""
        if self.pid:
            os.kill(self.pid, number)

    def reap(self) -> str | None:
        """If its process has ended: how, and the place is free."""
        if not self.pid:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        if self.heard is not None:
            self.heard.read()
            self.done, self.failed = self.done + self.heard.done, self.failed + self.heard.failed
            self.heard.close()
        self.pid, self.heard = 0, None
        now = time.monotonic()
        if now - self._started_at >= SHORT_LIFE_SECONDS:
            self._pause, self.next_start = FIRST_PAUSE_SECONDS, now
        else:
            self.next_start = now + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        return how_it_ended(os.waitstatus_to_exitcode(status))

    def counts(self) -> tuple[int, int]:
        """Attempts that went well and that failed, since the pool began."""
        heard = self.heard
        return self.done + (heard.done if heard else 0), self.failed + (heard.failed if heard else 0)


def how_it_ended(status: int) -> str:
    """For people."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"

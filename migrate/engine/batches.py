"""Where identities come from: each process draws a random batch and counts up in it."""

from __future__ import annotations

import os
import secrets

#: Jobs under one batch: a ledger bitmap of 8 KiB.
BATCH_JOBS = 65_536


class Batches:
    """Identities of one drain. Never gives one twice; a fork gets batches of its own."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self.batch = secrets.randbits(63)
        self._next = 0

    def renew(self) -> None:
        """Begin a new batch: after any fault that leaves open what was written under the old one."""
        self._start()

    def room(self) -> int:
        """How many seqs this batch has left; begins a new batch when it has none."""
        if self._pid != os.getpid() or self._next >= BATCH_JOBS:
            self._start()
        return BATCH_JOBS - self._next

    def take(self) -> int:
        """The next seq. The caller has asked for `room`."""
        seq = self._next
        self._next += 1
        return seq

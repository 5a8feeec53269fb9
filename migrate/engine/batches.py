"""Where identities come from: each process draws a random batch and counts up in it."""

from __future__ import annotations

import os
import secrets

from migrate.jobs import Identity

#: Jobs under one batch: a ledger bitmap of 8 KiB.
BATCH_JOBS = 65_536

_forks = 0  # how often this process is a child's child: asking for the process id once a job costs a tenth of a run


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class Batches:
    """Identities of one drain. Never gives one twice; a fork gets batches of its own."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin a new batch: after any fault that leaves open what was written under the old one."""
        self._fork = _forks
        self.batch = secrets.randbits(63)
        self._next = 0

    def take(self) -> Identity:
        """The next identity; the first of a new batch when the old one is full."""
        if self._next >= BATCH_JOBS or self._fork != _forks:
            self.renew()
        seq = self._next
        self._next += 1
        return Identity(self.batch, seq)

"""Moves of one source that overlap, each on a connection of its own: their order is kept.

Each begins once the one before it has its chunk on record, and commits after that one; so chunk records are as old as
their order, and no chunk leaves `job` before the one in front of it. Knows nothing of servers.
"""

from __future__ import annotations

import threading
import time

from migrate.errors import Contention


class Turn:
    """One move's place in the line; used by its own thread, and looked at by the next one's."""

    def __init__(self, before: Turn | None = None) -> None:
        """`before`: the move in front of it, when that one may still be under way."""
        self._before = before
        self._recorded = threading.Event()
        self._ended = threading.Event()
        self._committed = False
        self.let_down = False  #: it couldn't commit only because the one in front has not
        self.waited_seconds = 0.0  #: that it was ready to commit before it might

    def begin(self) -> None:
        """Wait until the move in front has locked and recorded what it takes, or has ended."""
        if self._before is not None:
            self._before._recorded.wait()

    def recorded(self) -> None:
        """Locks and record stand: the next move may begin."""
        self._recorded.set()

    def before_commit(self) -> None:
        """Wait for the end of the move in front. Raises Contention where that one has not moved its rows."""
        if self._before is None:
            return
        ready = time.monotonic()
        self._before._ended.wait()
        self.waited_seconds = time.monotonic() - ready
        if not self._before._committed:
            self.let_down = True
            raise Contention("the chunk in front of this one did not move")
        self._before = None

    def committed(self) -> None:
        """The rows have left `job`; `ended` follows."""
        self._committed = True

    def ended(self) -> None:
        """The move is over, whatever became of it."""
        self._recorded.set()
        self._ended.set()

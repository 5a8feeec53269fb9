"""What one process knows of the pauses: read at most twice a second, read anew when the hand-off script says so."""

from __future__ import annotations

import threading
import time

from migrate.resque import pauses
from migrate.resque.pauses import NOTHING, Pauses
from migrate.resque.target import Target

#: Seconds for which a reading counts: a pause reaches all migrators within a second.
FRESH_SECONDS = 0.5


class PauseWatch:
    """The pauses of one target. Usable from several threads."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._known: Pauses = NOTHING
        self._read_at = -FRESH_SECONDS

    def now(self) -> Pauses:
        """What is paused, half a second old at most. Raises Unavailable."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH_SECONDS:
                self._read()
            return self._known

    def anew(self) -> Pauses:
        """What is paused at this moment. Raises Unavailable."""
        with self._lock:
            self._read()
            return self._known

    def _read(self) -> None:
        self._known = pauses.read(self._target)
        self._read_at = time.monotonic()

    def reason(self, func: str) -> str | None:
        """Why a func is paused, for people; None: it isn't."""
        known = self.now()
        glob = known.covering(func)
        if glob is None:
            return None
        note = known.notes[glob]
        return f"{glob} is paused by {note.user}@{note.host} since {note.at:%H:%M:%S} UTC: qudo-migrate resume"

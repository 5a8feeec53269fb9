"""Order within queues: the jobs of one batch were pushed in ascending seq. Pure."""

from __future__ import annotations

from migrate.jobs import Identity
from migrate.verify.sightings import LAST_SEQ, Batch, Sightings

#: Jobs out of order that are remembered; further ones are only counted.
MOST_LATE = 10_000


class Order:
    """Watches queues that are read from the tail."""

    def __init__(self, sightings: Sightings) -> None:
        self._sightings = sightings
        self._queue = ""
        self._last: dict[int, int] = {}  #: seq met last, by batch

    def meets(self, queue: str, batch: Batch, seq: int) -> None:
        """The next entry towards the head. A job behind a younger one of its batch is late."""
        if queue != self._queue:
            self._queue, self._last = queue, {}
        number = batch.number
        last = self._last.get(number, LAST_SEQ)
        self._last[number] = seq
        if seq > last:
            late = self._sightings.late
            self._sightings.late_count += 1
            if len(late) < MOST_LATE:
                late[Identity(number, last)] = queue

"""Entries without an identity, known by content alone: delayed in dialects whose schedulers drop it, retried by a
plugin, or born in Resque. Pure. 12 bytes for each; each accounts for one job.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from typing import NamedTuple

from migrate.jobs import Identity
from migrate.resque.looking import Place
from migrate.verify.sightings import PLACE_CODES, PLACES

#: Beside the 64 bits of class and args: 12 bits of the queue, 16 of the second, 3 of the place.
_PLACE_BITS, _SECOND_BITS, _QUEUE_BITS = 3, 16, 12
_SECOND_SHIFT = _PLACE_BITS
_QUEUE_SHIFT = _PLACE_BITS + _SECOND_BITS
_DELAYED = PLACE_CODES[Place.DELAYED]


def _detail(queue_number: int, second: int, place: int) -> int:
    return (
        (queue_number & (1 << _QUEUE_BITS) - 1) << _QUEUE_SHIFT
        | (second & (1 << _SECOND_BITS) - 1) << _SECOND_SHIFT
        | place
    )


class Taken(NamedTuple):
    """An entry that accounts for a job."""

    place: Place
    other_queue: bool  #: the same job at the same second, but for another queue


class Doubled(NamedTuple):
    """Further entries of the same job at the same second."""

    like: Identity  #: one of the jobs that an equal entry accounts for
    entries: int


class Alike:
    """All entries without an identity. Filled first, then `ready`, then taken from; safe for several threads."""

    def __init__(self) -> None:
        self._work = array("Q")
        self._details = array("I")
        self._taken = bytearray()
        self._cursors: dict[tuple[int, int], int] = {}
        self._by: dict[int, Identity] = {}  #: place of a taken entry that has a twin -> the job that it accounts for
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._work)

    def add(self, work_number: int, queue_number: int, second: int, place: Place) -> None:
        """Enter an entry; `second` is 0 but for delayed ones."""
        self._work.append(work_number)
        self._details.append(_detail(queue_number, second, PLACE_CODES[place]))

    def ready(self) -> None:
        """Sort what was entered."""
        order = sorted(work << 32 | detail for work, detail in zip(self._work, self._details, strict=True))
        self._work = array("Q", (value >> 32 for value in order))
        self._details = array("I", (value & 0xFFFFFFFF for value in order))
        self._taken = bytearray(len(order))

    def count(self, work_number: int) -> int:
        """How many entries have this class and these args."""
        return self._end(work_number) - bisect_left(self._work, work_number)

    def taken(self, work_number: int) -> int:
        """How many of them account for jobs."""
        return self._taken[bisect_left(self._work, work_number) : self._end(work_number)].count(1)

    def places(self, work_number: int) -> list[Place]:
        """Where they are."""
        return [self._place(at) for at in range(bisect_left(self._work, work_number), self._end(work_number))]

    def take(self, work_number: int, queue_number: int, second: int, identity: Identity) -> Taken | None:
        """Let an entry account for this job, the likeliest one; None: no entry is left that could be it."""
        with self._lock:
            first = bisect_left(self._work, work_number)
            end = self._end(work_number)
            if first == end:
                return None
            exact = _detail(queue_number, second, _DELAYED)
            place = self._next(first, end, exact, exact + 1)
            if place is not None:
                self._remember(place, identity)
                return Taken(Place.DELAYED, other_queue=False)
            lowest = _detail(queue_number, 0, 0)
            place = self._next(first, end, lowest, lowest + (1 << _QUEUE_SHIFT))
            if place is not None:
                return Taken(self._place(place), other_queue=False)
            for place in range(first, min(end, first + 1000)):
                details = self._details[place]
                same_second = details & ((1 << _QUEUE_SHIFT) - 1) == exact & ((1 << _QUEUE_SHIFT) - 1)
                if same_second and not self._taken[place]:
                    self._taken[place] = 1
                    return Taken(Place.DELAYED, other_queue=True)
            return None

    def _next(self, first: int, end: int, lowest: int, beyond: int) -> int | None:
        """Take the first entry whose details are from `lowest` to below `beyond`."""
        key = (first, lowest << 1 | (beyond - lowest > 1))
        at = self._cursors.get(key)
        if at is None:
            at = bisect_left(self._details, lowest, first, end)
        while at < end and self._details[at] < beyond:
            if not self._taken[at]:
                self._taken[at] = 1
                self._cursors[key] = at + 1
                return at
            at += 1
        return None

    def _remember(self, place: int, identity: Identity) -> None:
        following = place + 1
        if (
            following < len(self._work)
            and self._work[following] == self._work[place]
            and self._details[following] == self._details[place]
        ):
            self._by[following] = identity

    def _place(self, at: int) -> Place:
        return PLACES[(self._details[at] & 7) - 1]

    def _end(self, work_number: int) -> int:
        return bisect_left(self._work, work_number + 1)

    def doubled(self) -> list[Doubled]:
        """Delayed entries that are left beside equal ones which account for jobs. Those are taken now."""
        result = []
        for at, identity in sorted(self._by.items()):
            if self._taken[at]:
                continue
            entries = 0
            work, details = self._work[at], self._details[at]
            while at < len(self._work) and self._work[at] == work and self._details[at] == details:
                entries += not self._taken[at]
                self._taken[at] = 1
                at += 1
            if entries:
                result.append(Doubled(identity, entries))
        return result

    @property
    def unaccounted(self) -> int:
        """Entries that account for no job: born in Resque."""
        return self._taken.count(0)

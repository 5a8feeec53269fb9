"""How many jobs left Qudo when: the times at which outbox rows moved, in equal spans. Pure; safe for several threads.

Purged rows are not in it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

import msgspec

#: Seconds that a span may have.
WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 604800)
#: Spans that a report has at most, unless it covers more than a year.
MOST_SPANS = 60
#: Counters that are kept while rows come: a `follow` of some weeks has a million seconds.
_MOST_COUNTERS = 20_000


class Span(msgspec.Struct, frozen=True):
    """Jobs that moved within one span."""

    at: int  #: Unix second of its beginning, by the sources' clocks
    seconds: int
    moved: int


class Throughput:
    """Counts moves by their time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moved: Counter[int] = Counter()
        self._place = 0  #: in WIDTHS

    def add(self, moved_at: Iterable[int]) -> None:
        """Note the Unix seconds at which jobs moved."""
        counted = Counter(moved_at)
        with self._lock:
            width = WIDTHS[self._place]
            for second, jobs in counted.items():
                self._moved[second // width * width] += jobs
            while len(self._moved) > _MOST_COUNTERS and self._place < len(WIDTHS) - 1:
                self._place += 1
                self._moved = Counter(_in_spans(self._moved, WIDTHS[self._place]))

    def spans(self) -> list[Span]:
        """From the first move to the last, without gaps: a span in which nothing moved has 0."""
        if not self._moved:
            return []
        first, last = min(self._moved), max(self._moved)
        fitting = (each for each in WIDTHS[self._place :] if last // each - first // each < MOST_SPANS)
        width = next(fitting, WIDTHS[-1])
        moved = _in_spans(self._moved, width)
        return [Span(at, width, moved[at]) for at in range(first // width * width, last + 1, width)]


def _in_spans(moved: Counter[int], width: int) -> Counter[int]:
    found: Counter[int] = Counter()
    for second, jobs in moved.items():
        found[second // width * width] += jobs
    return found

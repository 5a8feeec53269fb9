"""How often repeated work may be done: at an interval, and for a share of the time at most."""

from __future__ import annotations

import time
from collections.abc import Callable


class Interval:
    """One kind of work. Not shared between threads, but for `hurry`."""

    def __init__(self, every_seconds: float, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`share`: of the time that the work may take, e.g. 0.05."""
        self._every = every_seconds
        self._share = share
        self._clock = clock
        self._next = clock()

    @property
    def is_due(self) -> bool:
        """Whether the work may be done again."""
        return self._clock() >= self._next

    @property
    def seconds_left(self) -> float:
        """Until it may be done again."""
        return max(0.0, self._next - self._clock())

    def did(self, began_at: float, idle_seconds: float = 0.0) -> None:
        """The work was done just now. `began_at` by the clock; `idle_seconds` of it were spent asleep."""
        now = self._clock()
        cost = max(0.0, now - began_at - idle_seconds)
        self._next = max(began_at + self._every, now + cost * (1 / self._share - 1))

    def hurry(self) -> None:
        """There is a reason to do it at once."""
        self._next = self._clock()

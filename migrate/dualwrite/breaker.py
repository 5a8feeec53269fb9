"""Not asking a Redis that doesn't answer: one enqueue pays its time-out, the others go on without."""

from __future__ import annotations

import time

#: Seconds for which nothing is asked after a failure; doubled by each further one, up to the second value.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 10.0


class Breaker:
    """Whether to ask. Usable from several threads: a race costs one time-out more."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE_SECONDS
        self._until = 0.0

    @property
    def open(self) -> bool:
        """Whether Redis is known not to answer."""
        return bool(self._until) and time.monotonic() < self._until

    @property
    def closed(self) -> bool:
        """Whether Redis may be asked. After a pause one caller is let through to try."""
        if not self._until:
            return True
        now = time.monotonic()
        if now < self._until:
            return False
        self._until = now + self._pause
        return True

    def failed(self) -> None:
        """Redis did not answer."""
        self._until = time.monotonic() + self._pause
        self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause)

    def succeeded(self) -> None:
        """Redis has answered."""
        if self._until:
            self._until = 0.0
            self._pause = FIRST_PAUSE_SECONDS

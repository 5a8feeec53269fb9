"""How long a run waits for a server that fails: with growing pauses, up to `--retry-for`, with a visible reason."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from migrate.engine.stopping import Stop
from migrate.errors import Contention, Interrupted, Unavailable

#: Seconds: the first pause, and the longest.
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
#: Seconds without success for which a deadlock is tried again without a word; a wait for locks lasts longer.
SILENT_SECONDS = 1.0


class Patience:
    """Counts the time since the last success. One for each source; not shared between threads."""

    def __init__(
        self,
        retry_for_seconds: float,
        stop: Stop,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retry_for = retry_for_seconds
        self._stop = stop
        self._say = say
        self._clock = clock
        self._failing_since: float | None = None
        self._succeeded_at = clock()
        self._pause = FIRST_PAUSE_SECONDS

    def succeeded(self) -> None:
        """Something worked: the next failure starts a new count."""
        if self._failing_since is not None:
            self._say("")
        self._failing_since = None
        self._succeeded_at = self._clock()
        self._pause = FIRST_PAUSE_SECONDS

    def failed(self, error: Unavailable) -> None:
        """Wait before the next try. Raises `error` once `retry_for` is over, Interrupted when a stop is requested."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        waited = now - self._failing_since
        if waited >= self._retry_for:
            raise error
        if not isinstance(error, Contention) or now - self._succeeded_at >= SILENT_SECONDS:
            left = "" if self._retry_for == math.inf else f", {self._retry_for - waited:.0f} s left"
            self._say(f"{error.message}; waiting{left}")
        # A little randomness keeps several migrators from returning at the same instant.
        pause = min(self._pause, self._retry_for - waited + 0.01) * random.uniform(0.7, 1.0)  # noqa: S311
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        if self._stop.wait(pause):
            raise Interrupted("stopped while waiting") from error

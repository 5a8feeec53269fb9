"""What one migrator knows of the steps: read at most twice a second."""

from __future__ import annotations

import threading
import time

from migrate.resque import steps
from migrate.resque.steps import FRESH_SECONDS, NO_STEPS, Steps
from migrate.resque.target import Target


class StepWatch:
    """The steps of one target. Usable from several threads."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._known: Steps = NO_STEPS
        self._read_at = -FRESH_SECONDS

    def now(self) -> Steps:
        """All steps, half a second old at most. Raises Unavailable."""
        if time.monotonic() - self._read_at >= FRESH_SECONDS:
            with self._lock:
                if time.monotonic() - self._read_at >= FRESH_SECONDS:
                    self._known = steps.read(self._target)
                    self._read_at = time.monotonic()
        return self._known

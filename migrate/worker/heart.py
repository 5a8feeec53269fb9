"""Heartbeats from a thread, for a worker whose own thread performs jobs."""

from __future__ import annotations

import contextlib
import threading

from migrate.errors import MigrateError
from migrate.resque.dialects import Dialect
from migrate.resque.target import Target
from migrate.resque.workers import Seat


class Heart:
    """Beats until it is stopped."""

    def __init__(self, target: Target, worker_id: str, dialect: Dialect, every_seconds: float) -> None:
        self._seat = Seat(target, worker_id, dialect)
        self._every = every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for a beat under way."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(self._every)

    def _beat(self) -> None:
        while not self._over.wait(self._every):
            with contextlib.suppress(MigrateError):
                self._seat.beat()

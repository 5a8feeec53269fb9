"""What a process that enqueues knows of Redis: steps, pauses, target id. A thread of its own keeps it fresh.

Reads our own keys twice a second, reports the process, and keeps the last known step while Redis is away. An enqueue
that finds the knowledge old (the process was stopped, or has just forked) reads by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from migrate.dualwrite.breaker import Breaker
from migrate.errors import MigrateError
from migrate.resque import pauses, steps
from migrate.resque.pauses import Pauses
from migrate.resque.steps import FRESH_SECONDS, REPORT_SECONDS, Process, Steps
from migrate.resque.target import Target

#: Seconds after which an enqueue reads by itself: a process that disagrees may do so for a second.
OLD_SECONDS = 0.9

log = logging.getLogger("migrate.dualwrite")


class Known(msgspec.Struct, frozen=True):
    """One reading."""

    steps: Steps
    pauses: Pauses
    target_id: str | None


class Watch:
    """The knowledge of one process. Usable from several threads; begins anew in a fork by `forget_inherited`."""

    def __init__(self, target: Target, fallback: Callable[[], Steps | None]) -> None:
        """`fallback`: what to go by when Redis was away since the process began."""
        self._target = target
        self._fallback = fallback
        self._known: Known | None = None
        self.forget_inherited()

    def forget_inherited(self) -> None:
        """In a forked child: its own thread, its own report, and a fresh reading."""
        self.breaker = Breaker()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._read_at = float("-inf")
        self._reported: tuple[int, float] = (-1, 0.0)
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def now(self) -> Known:
        """What is known; not older than a second where Redis answers."""
        known = self._known
        if known is None or time.monotonic() - self._read_at > OLD_SECONDS:
            known = self._catch_up()
        return known

    def anew(self) -> Known:
        """Read at once, if Redis may be asked."""
        with self._lock:
            self._read()
        return self._known or self._guess()

    def _catch_up(self) -> Known:
        if self._thread is None:
            self._start()
        if not self.breaker.open or self._known is None:
            with self._lock:  # who waits here waits for one answer, or one time-out
                if time.monotonic() - self._read_at > OLD_SECONDS and self.breaker.closed:
                    self._read()
        return self._known or self._guess()

    def _guess(self) -> Known:
        """Redis was away since this process began."""
        found = self._fallback()
        self._known = Known(found or steps.NO_STEPS, pauses.NOTHING, None)
        return self._known

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="qudo-migrate steps", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        end = self._end
        while not end.wait(FRESH_SECONDS):
            with self._lock:
                if self.breaker.closed:
                    self._read()

    def _read(self) -> None:
        """One reading; whatever fails, the last known holds. The lock is held."""
        try:
            versions = self._versions()
            if self._known is None or versions != self._versions_of(self._known):
                known = Known(steps.read(self._target), pauses.read(self._target), versions[2])
                if self._accept(known):
                    self._known = known
            self._read_at = time.monotonic()
            self.breaker.succeeded()
            self._report()
        except MigrateError as error:
            self.breaker.failed()
            log.warning("redis can't be asked, the last known steps hold: %s", error.message)

    def _versions(self) -> tuple[int, int, str | None]:
        keys = self._target.keys
        with self._target.commands() as client:
            held: list[Any] = client.mget(keys.step_version, keys.pause_version, keys.target_id)
        return int(held[0] or 0), int(held[1] or 0), None if held[2] is None else held[2].decode()

    @staticmethod
    def _versions_of(known: Known) -> tuple[int, int, str | None]:
        return known.steps.version, known.pauses.version, known.target_id

    def _accept(self, known: Known) -> bool:
        """A Redis that knows less than was known is emptied, replaced or old: nothing is learnt from it."""
        last = self._known
        if last is None or known.steps.version >= last.steps.version:
            return True
        log.error("redis has forgotten steps: version %d after %d", known.steps.version, last.steps.version)
        return False

    def _report(self) -> None:
        version = self._known.steps.version if self._known else 0
        if version == self._reported[0] and time.monotonic() - self._reported[1] < REPORT_SECONDS:
            return
        steps.report(self._target, self._name, Process(socket.gethostname(), os.getpid(), _program(), version))
        self._reported = version, time.monotonic()

    def close(self) -> None:
        """End the thread, and strike this process off."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * FRESH_SECONDS)
            self._thread = None
            with contextlib.suppress(MigrateError):
                if self.breaker.closed:
                    steps.forget(self._target, [self._name])


def _program() -> str:
    """What this process is, for people."""
    return Path(sys.argv[0]).name[:60] if sys.argv and sys.argv[0] else "python"

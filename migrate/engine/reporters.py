"""Whom the engine tells what it does. The base does nothing; bars, lines and silence differ by what they override."""

from __future__ import annotations

import re
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TextIO

import msgspec

_DIGITS = re.compile(r"\d")


class Reporter:
    """Hears of progress; methods may be called from several threads. This one keeps silent."""

    def source_started(self, source: str, expected: int) -> None:
        """Work on a source begins; about `expected` jobs are to be done (0: unknown)."""

    def advanced(self, source: str, jobs: int) -> None:
        """So many more jobs are done."""

    def waits(self, source: str, reason: str) -> None:
        """The source waits for this reason; an empty one: it goes on."""

    def says(self, message: str, **fields: object) -> None:
        """A line worth reading. `fields` are for machines: `level` is info unless given."""

    def source_ended(self, source: str) -> None:
        """Work on a source is over."""

    def close(self) -> None:
        """Nothing will be said any more."""


class LineReporter(Reporter):
    """Plain lines, for logs and pipes: messages, reasons for waiting, and progress now and then."""

    #: Seconds between two lines of progress of one source.
    EVERY_SECONDS = 10.0
    #: Seconds of a wait whose end is told.
    LONG_WAIT_SECONDS = 2.0

    def __init__(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._as_json = as_json
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}
        self._expected: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._said: dict[str, tuple[str, float]] = {}  # kind of the last reason, and when
        self._waits_since: dict[str, float] = {}

    def source_started(self, source: str, expected: int) -> None:
        """Remember what is expected."""
        self._done[source], self._expected[source] = 0, expected
        self._last[source] = time.monotonic()

    def advanced(self, source: str, jobs: int) -> None:
        """Print a line when the last one is old enough."""
        self._done[source] = self._done.get(source, 0) + jobs
        if time.monotonic() - self._last.get(source, 0.0) >= self.EVERY_SECONDS:
            self._last[source] = time.monotonic()
            done, expected = self._done[source], self._expected.get(source, 0)
            of_all = f" of about {expected:,}" if expected else ""
            self.says(f"{source}: {done:,}{of_all} jobs", source=source, jobs=done)

    def waits(self, source: str, reason: str) -> None:
        """Print each new kind of reason, the same one now and then, and the end of a wait that was long."""
        now = time.monotonic()
        if not reason:
            waited = now - self._waits_since.pop(source, now)
            if waited >= self.LONG_WAIT_SECONDS:
                self.says(f"{source}: goes on after {waited:.0f} s", source=source)
            return
        self._waits_since.setdefault(source, now)
        kind = _DIGITS.sub("", reason)
        said_kind, said_at = self._said.get(source, ("", 0.0))
        if kind != said_kind or now - said_at >= self.EVERY_SECONDS:
            self._said[source] = kind, now
            self.says(f"{source}: {reason}", source=source, level="warning")

    def says(self, message: str, **fields: object) -> None:
        """Print the line, with time, level and fields where machines read it."""
        line = message
        if self._as_json:
            document = {"time": datetime.now(UTC), "level": "info", "message": message, **fields}
            line = msgspec.json.encode(document).decode()
        with self._lock:
            print(line, file=self._stream, flush=True)

"""How many rows one move carries: as many as fit the time that its locks may last."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

_Row = TypeVar("_Row")

#: Seconds of work that one move's transaction should hold; it may wait as long again for the one before it.
TARGET_SECONDS = 0.1
#: Rows: where a drain starts, and what it never goes below.
FIRST_ROWS = 500
FEWEST_ROWS = 20
#: Rows: the cap when `--batch-size` is not given, and where moves must stay small.
DEFAULT_CAP = 5000
SMALL_CAP = 100
#: Bytes of args that one chunk may hold (one larger job goes alone).
CHUNK_BYTES = 4 * 1024 * 1024


class ChunkSize:
    """Grows while moves are quick, shrinks at once when one was slow."""

    def __init__(self, cap: int, target_seconds: float = TARGET_SECONDS) -> None:
        self._cap = max(1, cap)
        self._target = target_seconds
        self.rows = min(FIRST_ROWS, self._cap)

    def took(self, rows: int, seconds: float) -> None:
        """Learn from a move of this many rows."""
        if seconds > self._target * 1.5:
            self.rows = max(min(FEWEST_ROWS, self._cap), int(self.rows * max(0.25, self._target / seconds)))
        elif seconds < self._target * 0.7 and rows >= self.rows * 0.9:
            self.rows = min(self._cap, self.rows + max(50, self.rows // 4))

    def parts(self, rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
        """All of these rows, as many at a time as fit; learns from how long the caller takes with each part."""
        start = 0
        while start < len(rows):
            part = rows[start : start + self.rows]
            start += len(part)
            began = time.monotonic()
            yield part
            self.took(len(part), time.monotonic() - began)

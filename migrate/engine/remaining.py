"""What a migrator that stays remembers of rows that stay in `job`: why, and when each is next of interest.

Pure bookkeeping in memory, about 300 bytes a row; nothing is decided by it but when to look again. A row counts as
known only as long as its header is what it was: each grab, retry and failure changes that.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter, defaultdict
from collections.abc import Collection
from typing import NamedTuple

from migrate.engine.routing import RowState
from migrate.jobs import Identity
from migrate.qudo.reading import Row


class _Known(NamedTuple):
    mark: int  #: a hash of the row's header
    state: RowState
    until: int | None  #: the server's second from which on it is of interest; None: not until something changes
    holder: Identity | None  #: of the uniqkey that it waits for
    sweep: int  #: the last sweep that met it


class Remaining:
    """The rows of one source that stay. Usable from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[int, _Known] = {}
        self._due: dict[int, list[int]] = {}  # row ids by second; some may have changed since
        self._seconds: list[int] = []  # a heap of the keys of _due
        self._waiters: dict[Identity, set[int]] = defaultdict(set)
        self._states: Counter[RowState] = Counter()
        self._sweep = 0

    def knows(self, row: Row, now: int) -> bool:
        """Whether the row is as it was when it was remembered, and not yet of interest; else it is forgotten."""
        with self._lock:
            known = self._rows.get(row.id)
            if known is None:
                return False
            if known.mark == _mark(row) and (known.until is None or now < known.until):
                if known.sweep != self._sweep:
                    self._rows[row.id] = known._replace(sweep=self._sweep)
                return True
            self._forget(row.id)
            return False

    def has_id(self, job_id: int) -> bool:
        """Whether a row with this id is remembered, changed since or not."""
        return job_id in self._rows

    def stays(self, row: Row, state: RowState, until: int | None = None, holder: Identity | None = None) -> None:
        """Remember a row. `until`: see `_Known`; `holder`: of the uniqkey that it waits for."""
        with self._lock:
            self._forget(row.id)
            self._rows[row.id] = _Known(_mark(row), state, until, holder, self._sweep)
            self._states[state] += 1
            if until is not None:
                if until not in self._due:
                    self._due[until] = []
                    heapq.heappush(self._seconds, until)
                self._due[until].append(row.id)
            if holder is not None:
                self._waiters[holder].add(row.id)

    def take_due(self, now: int) -> list[int]:
        """The ids of rows whose time has come; they are forgotten."""
        taken: list[int] = []
        with self._lock:
            while self._seconds and self._seconds[0] <= now:
                second = heapq.heappop(self._seconds)
                for job_id in self._due.pop(second):
                    known = self._rows.get(job_id)
                    if known is not None and known.until == second:
                        self._forget(job_id)
                        taken.append(job_id)
        return taken

    def holders(self, most: int) -> list[Identity]:
        """Whose uniqkeys are waited for, at most so many."""
        with self._lock:
            return [holder for holder, _ in zip(self._waiters, range(most), strict=False)]

    def take_waiters(self, holders: Collection[Identity]) -> list[int]:
        """The ids of rows that waited for these; they are forgotten."""
        with self._lock:
            taken = [job_id for holder in holders for job_id in self._waiters.get(holder, ())]
            for job_id in taken:
                self._forget(job_id)
        return taken

    def begin_sweep(self) -> None:
        """From now on all rows are read once."""
        with self._lock:
            self._sweep += 1

    def end_sweep(self) -> None:
        """All rows were read: forget those that weren't met since, for they are gone."""
        with self._lock:
            for job_id in [key for key, known in self._rows.items() if known.sweep < self._sweep]:
                self._forget(job_id)

    def counts(self) -> Counter[RowState]:
        """How many rows are remembered, by state."""
        with self._lock:
            return +self._states

    def _forget(self, job_id: int) -> None:
        known = self._rows.pop(job_id, None)
        if known is None:
            return
        self._states[known.state] -= 1
        if known.holder is not None:
            waiters = self._waiters[known.holder]
            waiters.discard(job_id)
            if not waiters:
                del self._waiters[known.holder]


def _mark(row: Row) -> int:
    """Of all but the arg, which Qudo never changes."""
    return hash((row.header, row.arg_bytes))

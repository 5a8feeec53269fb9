"""Finding what nothing announces, beside a loop that must not wait for it: a thread for each source of `follow`.

Reads the headers of all rows of `job`, page by page, for retries, leases that are over and transactions that were late;
looks in Redis for jobs that are over, and frees their uniqkeys. What is found is left to the loop, by id.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from migrate.engine import over
from migrate.engine.choosing import remember
from migrate.engine.follow_state import FollowState
from migrate.engine.intervals import Interval
from migrate.engine.routing import Routing
from migrate.errors import MigrateError, Unavailable
from migrate.qudo import watching
from migrate.qudo.reading import Row
from migrate.qudo.source import Source
from migrate.resque.looking import SECOND_LOOK_SECONDS
from migrate.resque.target import Target

#: Seconds between two sweeps at least, and between two looks for uniqkeys that are free.
SWEEP_SECONDS = 2.0
WAITERS_SECONDS = 1.0
#: The share of the time that either may take.
SHARE = 0.05
#: Rows that are found one by one; when there are more, a walk through all free rows is cheaper.
MOST_FOUND = 5000
#: Seconds before the next try after a fault, which the loop meets as well.
AFTER_FAULT_SECONDS = 1.0


class Found(NamedTuple):
    """What sweeps have found since the last time."""

    ids: list[int]  #: rows that may move
    lowest_unseen: int | None  #: of these, the lowest that nobody had ever seen
    too_many: bool  #: there are more: walk through all free rows


class Sweeper:
    """One source's sweeps. A context manager: they go on until the end of the block."""

    def __init__(self, source: Source, target: Target, routing: Routing, state: FollowState) -> None:
        """`routing`: of its own, since it reads the funcs anew."""
        self._source = source
        self._target = target
        self._routing = routing
        self._state = state
        self._remaining = state.remaining
        self._sweeps = Interval(SWEEP_SECONDS, SHARE)
        self._waiters = Interval(WAITERS_SECONDS, SHARE)
        self._wake = threading.Event()
        self._ending = False
        self._lock = threading.Lock()
        self._found: set[int] = set()
        self._unseen: int | None = None
        self._too_many = False
        self._after: int | None = None  # how far this sweep has come; None: between two sweeps
        self._began_at = 0.0
        self.left_out: frozenset[int] = frozenset()  #: func ids that needn't be looked at
        self.end = 0  #: rows with higher ids are met by the loop itself
        self.swept_from = 0.0  #: when the last complete sweep began, by the monotonic clock
        self.error: Exception | None = None  #: why it has ended, if it has
        self._thread = threading.Thread(target=self._run, name=f"sweep {source.name}", daemon=True)

    def __enter__(self) -> Sweeper:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ending = True
        self._wake.set()
        self._thread.join(timeout=5)

    def take(self) -> Found:
        """What was found since the last time."""
        with self._lock:
            found = Found(sorted(self._found), self._unseen, self._too_many)
            self._found, self._unseen, self._too_many = set(), None, False
        return found

    def _run(self) -> None:
        while not self._ending:
            try:
                self._turn()
            except Unavailable:
                self._after = None
                self._wake.wait(AFTER_FAULT_SECONDS)
            except MigrateError as error:
                self.error = error
                return
            except Exception as error:  # noqa: BLE001  a bug: raised again by the loop
                self.error = error
                return

    def _turn(self) -> None:
        if self._waiters.is_due:
            self._look_for_free_keys()
        if self._sweeps.is_due:
            self._sweep_page()
        self._wake.wait(max(0.01, min(self._sweeps.seconds_left, self._waiters.seconds_left)))

    def _look_for_free_keys(self) -> None:
        """One look serves all that wait."""
        began = time.monotonic()
        holders = self._remaining.holders(over.MOST_HOLDERS)
        if holders:
            released = over.release_over(self._source, self._target, self._routing, holders)
            self._add(self._remaining.take_waiters(released))
        took = time.monotonic() - began
        self._waiters.did(began, SECOND_LOOK_SECONDS if took > SECOND_LOOK_SECONDS else 0.0)

    def _sweep_page(self) -> None:
        began = time.monotonic()
        if self._after is None:
            self._routing.refresh()
            self._remaining.begin_sweep()
            self._after, self._began_at = 0, began
        left_out = self.left_out.union(self._routing.selection.kept)
        page = watching.sweep_page(self._source, self._after, left_out)
        self._state.clock.read(page.now)
        for row in page.rows:
            self._judge(row, page.now)
        if not page.is_last:
            self._after = page.rows[-1].id
            self._sweeps.did(began - SWEEP_SECONDS)  # no pause but the share's: the sweep goes on
            return
        self._remaining.end_sweep()
        self._after = None
        self.swept_from = self._began_at
        self._sweeps.did(began)

    def _judge(self, row: Row, now: int) -> None:
        unseen = not self._remaining.has_id(row.id)
        if self._remaining.knows(row, now) or row.id > self.end:
            return
        if row.func_id in self._routing.funcs:
            state = self._routing.held_state(row, now)
            if state is not None:
                remember(self._remaining, self._routing, row, state)
                return
        self._add([row.id], unseen=unseen)

    def _add(self, ids: list[int], *, unseen: bool = False) -> None:
        with self._lock:
            if len(self._found) + len(ids) > MOST_FOUND:
                self._too_many = True
                return
            self._found.update(ids)
            if unseen and ids:
                self._unseen = min(ids) if self._unseen is None else min(self._unseen, *ids)

"""A look at every row that is in `job`: what state each is in, without moving any.

The last look of a run (then with locks), a dry run and a rehearsal all judge with these eyes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection

from migrate.engine.batches import Batches
from migrate.engine.results import Tally, UntranslatableJob
from migrate.engine.routing import Routing, RowState
from migrate.engine.stopping import Stop
from migrate.errors import Contention, Interrupted, OpenTransactions, Untranslatable
from migrate.qudo import pending, reading
from migrate.qudo.picking import id_lists
from migrate.qudo.reading import Row
from migrate.qudo.source import LAST_LOOK_WAIT_SECONDS, Source
from migrate.translate import Translation

#: Rows that one statement of a survey reads.
PAGE_ROWS = 1000
#: How often a locked page is read again after a deadlock.
DEADLOCK_TRIES = 5


class Seen(NamedTuple):
    """One row, and what it is; `translation` only where the row would move or waits."""

    row: Row
    state: RowState
    arg: bytes | None = None
    translation: Translation | None = None
    waiter: pending.Waiter | None = None


class Survey:
    """One look at one source. Iterate over it once; the counts are in the tally afterwards."""

    def __init__(
        self,
        source: Source,
        routing: Routing,
        tally: Tally,
        stop: Stop,
        *,
        locking: bool = False,
        has_our_tables: bool = True,
        only_id: int | None = None,
    ) -> None:
        """`locking`: wait for rows that open transactions wrote, and raise OpenTransactions when they stay open.

        `only_id`: look at this row alone.
        """
        self._source = source
        self._routing = routing
        self._tally = tally
        self._stop = stop
        self._locking = locking and source.facts().transactional
        self._has_our_tables = has_our_tables
        self._only_id = only_id
        self._batches = Batches()

    def __iter__(self) -> Iterator[Seen]:
        """Each row of `job`, by id. Raises Interrupted between pages."""
        self._tally.forget_left()
        after = 0 if self._only_id is None else self._only_id - 1
        page_rows = PAGE_ROWS if self._only_id is None else 1
        while True:
            if self._stop.requested:
                raise Interrupted("stopped while looking")
            page = self._page(after, page_rows)
            for row in page.rows:
                if self._only_id not in (None, row.id):
                    return
                seen = self._judge(row, page)
                if seen.state is not RowState.UNTRANSLATABLE:
                    self._tally.left[seen.state.value] += 1
                yield seen
            if len(page.rows) < page_rows or self._only_id is not None:
                self._tally.counted = True
                return
            after = page.rows[-1].id

    def _page(self, after: int, limit: int) -> _Page:
        if not self._locking:
            with self._source.reading() as connection:
                return self._read(connection, after, limit)
        for _ in range(DEADLOCK_TRIES):
            started = time.monotonic()
            try:
                with self._source.last_look() as connection:
                    return self._read(connection, after, limit)
            except Contention as error:
                cause = error
                if time.monotonic() - started > LAST_LOOK_WAIT_SECONDS * 0.9:
                    break  # a wait that timed out; a deadlock with a worker comes back at once and is tried again
        raise OpenTransactions(
            f"source {self._source.name}: open transactions hold jobs that may still come",
            advice="run again, or follow",
        ) from cause

    def _read(self, connection: Connection, after: int, limit: int) -> _Page:
        now = self._source.now(connection)
        rows = reading.remaining_rows(self._source, connection, after, limit, locking=self._locking)
        keyed = [row.id for row in rows if self._routing.keeps_unique(row)] if self._has_our_tables else []
        waiters = {
            waiter.job_id: waiter
            for part in id_lists(self._source, keyed)
            for waiter in pending.waiters(connection, part)
        }
        return _Page(rows, now, waiters)

    def _judge(self, row: Row, page: _Page) -> Seen:
        state = self._routing.held_state(row, page.now)
        if state is not None:
            return Seen(row, state)
        arg = reading.whole_arg(self._source, row)
        identity = self._batches.take()
        try:
            _, translation = self._routing.translate(row, arg, identity, page.now)
        except Untranslatable as error:
            name = self._routing.name(row.func_id)
            self._tally.list_untranslatable(UntranslatableJob(self._source.name, row.id, name, error.message))
            return Seen(row, RowState.UNTRANSLATABLE)
        waiter = page.waiters.get(row.id)
        return Seen(row, RowState.WAITING if waiter else RowState.NOT_MOVED, arg, translation, waiter)


class _Page(NamedTuple):
    rows: list[Row]
    now: int
    waiters: dict[int, pending.Waiter]

"""Looking at `job` again and again, for migrators that stay: its end, single rows, and all that is in it. Reads only.

Qudo has no index that tells what is new or has changed. New rows stand at the primary key's end; retries, leases that
ran out and what committed late are found by reading the headers of all rows, a page at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, select

from migrate.qudo.picking import UNCACHED, among, id_lists
from migrate.qudo.reading import Row, columns, header_with_length, job, row_of
from migrate.qudo.source import Source

#: Rows of which one statement of a sweep reads the headers.
SWEEP_ROWS = 1000


class TableEnd:
    """From which id on rows count as new: the highest that was met a second or two ago.

    The lag is for transactions that overlap: their rows appear in any order. What commits later is left to sweeps.
    """

    #: Seconds of lag at least; twice that at most.
    LAG_SECONDS = 1.0

    def __init__(self, highest: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.after = highest
        self._next = self._met = highest
        self._clock = clock
        self._stepped_at = clock()

    @property
    def may_step(self) -> bool:
        """Whether the last step is a lag's time ago."""
        return self._clock() - self._stepped_at >= self.LAG_SECONDS

    def met(self, job_id: int) -> None:
        """A row with this id is there, or was."""
        self._met = max(self._met, job_id)

    def step(self) -> None:
        """Count as old what was met before the last step."""
        self.after, self._next, self._stepped_at = self._next, self._met, self._clock()

    def back_to(self, job_id: int) -> None:
        """A row has appeared below the end: ids have begun again, or a transaction was late. Look from there on."""
        self.after = self._next = self._met = min(self.after, job_id - 1)


def highest_id(connection: Connection) -> int:
    """The highest id in the table; 0 when it is empty. A look into the primary key."""
    return int(connection.execute(select(func.max(job.id))).scalar_one() or 0)


class NewRows:
    """A walk through the rows behind an id, whoever holds them; those of a page in Qudo's order."""

    def __init__(self, source: Source, connection: Connection, after: int, kept: Collection[int]) -> None:
        """`kept`: func ids whose rows are left out."""
        self._source = source
        self._connection = connection
        self._after = after
        self._kept = kept
        self._ended = False
        self.now = 0  #: the server's Unix second at the last page
        self.highest = after  #: the highest id met

    def page(self, limit: int) -> list[Row]:
        """The next rows, at most `limit`; empty at the end. A page that isn't full is the last one."""
        if self._ended:
            return []
        query = new_rows_query(self._source, self._after, self._kept, limit)
        found = self._connection.execute(query).all()
        self._ended = len(found) < limit
        if not found:
            return []
        self.now = int(found[-1][0])
        rows = [row_of(*row[1:]) for row in found]
        self._after = self.highest = rows[-1].id
        return in_qudos_order(rows)


def new_rows_query(source: Source, after: int, kept: Collection[int], limit: int) -> Select[Any]:
    """A range of the primary key."""
    query = select(source.clock, *columns(source, limit)).where(job.id > after).order_by(job.id).limit(limit)
    return query.where(job.func_id.not_in(sorted(kept))) if kept else query


class RowsById:
    """A walk through certain rows, those that are still there; those of a page in Qudo's order."""

    def __init__(self, source: Source, ids: Sequence[int]) -> None:
        self._source = source
        self._lists = id_lists(source, sorted(ids))
        self.now = 0  #: the server's Unix second at the last page

    def page(self, _limit: int) -> list[Row]:
        """The rows of the next hundreds of ids; empty at the end."""
        for ids in self._lists:
            with self._source.reading() as connection:
                query = select(self._source.clock, *columns(self._source, len(ids))).where(among(ids))
                found = connection.execute(query, execution_options=UNCACHED).all()
            if found:
                self.now = int(found[0][0])
                return in_qudos_order([row_of(*row[1:]) for row in found])
        return []


class SweptPage(NamedTuple):
    """Headers of some rows, by id: `arg` is None in each."""

    rows: list[Row]
    now: int  #: the server's Unix second
    is_last: bool


def sweep_page(source: Source, after: int, kept: Collection[int]) -> SweptPage:
    """The headers of the next rows behind an id, whoever holds them, but for those of `kept` funcs."""
    with source.reading() as connection:
        now = source.now(connection)
        rows = connection.execute(sweep_query(source, after, kept)).scalars().all()
    return SweptPage([row_of(text, None) for text in rows], now, len(rows) < SWEEP_ROWS)


def sweep_query(source: Source, after: int, kept: Collection[int]) -> Select[Any]:
    """A range of the primary key."""
    query = select(header_with_length(source)).where(job.id > after).order_by(job.id).limit(SWEEP_ROWS)
    return query.where(job.func_id.not_in(sorted(kept))) if kept else query


def in_qudos_order(rows: list[Row]) -> list[Row]:
    """Higher priority first, then by id."""
    return sorted(rows, key=lambda row: (-row.priority, row.id))

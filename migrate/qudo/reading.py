"""Reading Qudo's tables without locks, in Qudo's order: priority descending, then id.

Pages are key ranges (no OFFSET), each statement its own snapshot, bounded in rows and bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, LargeBinary, Select, and_, case, cast, func, null, or_, select, text

from migrate.jobs import QudoJob
from migrate.qudo import packing, tables
from migrate.qudo.source import Source

job = tables.job.c

#: Bytes of args that one page may bring along. An arg larger than its row's share is read by itself.
PAGE_BYTES = 4 * 1024 * 1024

#: Rows of a page, at most and at least, where the args' sizes decide.
MOST_PAGE_ROWS = 10_000
FEWEST_PAGE_ROWS = 50

_arg_bytes = func.coalesce(func.length(job.arg), 0)


class Position(NamedTuple):
    """How far a walk through the free rows has come: everything up to this row, in Qudo's order, was seen."""

    priority: int
    id: int


class Shape(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What many rows have in common: all but id, enqueue time and arg. Compares as what it is, not by its values."""

    func_id: int
    grabbed_until: int
    run_after: int
    retry_cnt: int
    priority: int
    uniqkey: bytes | None


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row as a page holds it. `arg` is None for NULL, and for an arg too large to come along (`is_large`)."""

    id: int
    enqueue_time: int | None
    arg_bytes: int
    arg: bytes | None
    header: str  #: the text that `header` selects, for this row
    shape: Shape

    @property
    def func_id(self) -> int:
        """Into `func`."""
        return self.shape.func_id

    @property
    def grabbed_until(self) -> int:
        """End of the lease."""
        return self.shape.grabbed_until

    @property
    def run_after(self) -> int:
        """Unix second from which it is due."""
        return self.shape.run_after

    @property
    def retry_cnt(self) -> int:
        """How often it has failed."""
        return self.shape.retry_cnt

    @property
    def priority(self) -> int:
        """Higher runs first."""
        return self.shape.priority

    @property
    def uniqkey(self) -> bytes | None:
        """As stored."""
        return self.shape.uniqkey

    @property
    def is_large(self) -> bool:
        """Whether `arg` must be read by `read_arg`."""
        return self.arg is None and self.arg_bytes > 0

    def header_under(self, grabbed_until: int) -> str:
        """What its header would be under this lease."""
        words = self.header.split(" ")
        words[_LEASE] = str(grabbed_until)
        return " ".join(words)

    def job(self, source: str, func_name: str, arg: bytes | None) -> QudoJob:
        """The record that goes on its way."""
        return QudoJob(
            source,
            self.id,
            self.func_id,
            func_name,
            arg,
            self.uniqkey,
            self.enqueue_time,
            self.grabbed_until,
            self.run_after,
            self.retry_cnt,
            self.priority,
        )


class Selection(NamedTuple):
    """Which funcs a walk leaves out: `kept` always, `held` until they are due."""

    kept: Collection[int]
    held: Collection[int]


def func_names(connection: Connection) -> dict[int, bytes]:
    """Func id -> name, as stored."""
    query = select(tables.func.c.id, cast(tables.func.c.name, LargeBinary))
    return {int(row[0]): bytes(row[1]) for row in connection.execute(query)}


def is_free(now: int) -> ColumnElement[bool]:
    """Qudo's own condition: no lease, or one that is over by the server's clock."""
    return job.grabbed_until <= now


#: Which word of a header is the lease.
_LEASE = 3


def header(source: Source, *more: ColumnElement[Any]) -> ColumnElement[Any]:
    """SQL for all that tells whether a row changed (its arg never does), as one text; what rows share comes last."""
    return packing.words(source, *_header, *more)


_header = (
    job.id,
    packing.number(job.enqueue_time),
    job.func_id,
    job.grabbed_until,
    job.run_after,
    job.retry_cnt,
    job.priority,
    packing.bytes_as_hex(job.uniqkey),
)


def header_with_length(source: Source) -> ColumnElement[Any]:
    """SQL for the bytes of the arg, and a header."""
    return packing.words(source, _arg_bytes, *_header)


def columns(source: Source, limit: int) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """The two columns of a page of `limit` rows: large args stay out, so that a page is bounded in bytes."""
    # SQLite stores what it is given: an arg may be TEXT there.
    column: ColumnElement[Any] = cast(job.arg, LargeBinary) if source.is_sqlite else job.arg
    share = max(1024, PAGE_BYTES // limit)
    return header_with_length(source), case((func.length(job.arg) <= share, column), else_=null()).label("arg")


def row_of(text: str, arg: bytes | None) -> Row:
    """The row of a header with its length, and of what came along as arg."""
    arg_bytes, job_id, enqueue_time, rest = text.split(" ", 3)
    return Row(
        int(job_id),
        None if enqueue_time == packing.NULL else int(enqueue_time),
        int(arg_bytes),
        arg,
        text[len(arg_bytes) + 1 :],
        _shape(rest),
    )


@lru_cache(1024)
def _shape(text: str) -> Shape:
    func_id, grabbed_until, run_after, retry_cnt, priority, uniqkey = text.split(" ")
    return Shape(
        int(func_id),
        int(grabbed_until),
        int(run_after),
        int(retry_cnt),
        int(priority),
        None if uniqkey == packing.NULL else bytes.fromhex(uniqkey),
    )


def rows_of(found: Iterable[Any]) -> list[Row]:
    """The rows of a query of `columns`."""
    return [row_of(*each) for each in found]


def highest_priority(connection: Connection, below: int | None) -> int | None:
    """The highest priority in the table, or the highest under `below`; None when there is none. An index look-up."""
    query = select(func.max(job.priority))
    if below is not None:
        query = query.where(job.priority < below)
    value = connection.execute(query).scalar_one()
    return None if value is None else int(value)


def free_rows(
    source: Source, connection: Connection, position: Position, selection: Selection, now: int, limit: int
) -> list[Row]:
    """The next free rows of one priority behind `position`, by id; at most `limit` rows."""
    query = free_rows_query(source, position, selection, now, limit)
    return rows_of(connection.execute(query))


def free_rows_query(source: Source, position: Position, selection: Selection, now: int, limit: int) -> Select[Any]:
    """InnoDB's secondary keys carry the primary key, so this is a pure range scan there."""
    return (
        select(*columns(source, limit))
        .where(job.priority == position.priority, job.id > position.id, is_free(now), wanted(selection, now))
        .order_by(job.id)
        .limit(limit)
    )


def wanted(selection: Selection, now: int) -> ColumnElement[bool]:
    """That a row is none of those which a walk leaves out."""
    kept = job.func_id.not_in(sorted(selection.kept)) if selection.kept else None
    held = or_(job.func_id.not_in(sorted(selection.held)), job.run_after <= now) if selection.held else None
    return and_(True, *(condition for condition in (kept, held) if condition is not None))


def read_arg(source: Source, connection: Connection, job_id: int) -> bytes | None:
    """One row's arg; None also when the row is gone, which the move will find out."""
    column = cast(job.arg, LargeBinary) if source.is_sqlite else job.arg
    value = connection.execute(select(column).where(job.id == job_id)).scalar_one_or_none()
    return None if value is None else bytes(value)


def whole_arg(source: Source, row: Row) -> bytes | None:
    """A row's arg, read by itself where it was too large to come along."""
    if not row.is_large:
        return row.arg
    with source.reading() as connection:
        return read_arg(source, connection, row.id)


def remaining_rows(source: Source, connection: Connection, after_id: int, limit: int, *, locking: bool) -> list[Row]:
    """Rows behind `after_id` by id, whoever holds them; `locking`: wait for rows that open transactions wrote.

    A plain read misses what an app has inserted and not committed yet (seen).
    """
    query = select(*columns(source, limit)).where(job.id > after_id).order_by(job.id).limit(limit)
    if locking:
        query = query.with_for_update(read=True)
    return rows_of(connection.execute(query))


def row_estimate(source: Source, connection: Connection) -> int:
    """About how many rows `job` has: the catalogue's estimate (MySQL), the count (SQLite)."""
    if source.is_sqlite:
        return int(connection.execute(select(func.count()).select_from(tables.job)).scalar_one())
    query = text(
        "SELECT table_rows FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'job'"
    )
    return int(connection.execute(query).scalar_one() or 0)


def oldest_enqueue_time(connection: Connection) -> int | None:
    """When the job with the lowest id was enqueued or last touched, Unix second; a look into the primary key."""
    query = select(job.enqueue_time).order_by(job.id).limit(1)
    value = connection.execute(query).scalar_one_or_none()
    return None if value is None else int(value)


def samples(source: Source, connection: Connection, func_id: int, limit: int) -> list[Row]:
    """Some of a func's rows: half from each end of its uniqkeys, by id where there are none. Large args stay out."""
    found: dict[int, Row] = {}
    for newest in (False, True):
        query = samples_query(source, func_id, max(1, limit // 2), newest=newest)
        found.update((row.id, row) for row in rows_of(connection.execute(query)))
    return [found[key] for key in sorted(found)]


def samples_query(source: Source, func_id: int, limit: int, *, newest: bool) -> Select[Any]:
    """One end of the func's part of the index (func_id, uniqkey); rows without a key stand there by id.

    Not by id: for that the optimizer reads the whole table, or sorts all of the func's rows (seen).
    """
    order = job.uniqkey.desc() if newest else job.uniqkey.asc()
    return select(*columns(source, limit)).where(job.func_id == func_id).order_by(order).limit(limit)


def recent_funcs(connection: Connection, now: int, *, seconds: int = 60, look_at: int = 1000) -> set[int]:
    """Funcs that apps still enqueue: seen among the newest rows with an enqueue time of the last `seconds`."""
    newest = select(job.func_id, job.enqueue_time).order_by(job.id.desc()).limit(look_at).subquery()
    query = select(newest.c.func_id).distinct().where(newest.c.enqueue_time >= now - seconds)
    return {int(value) for value in connection.execute(query).scalars()}


class FreeRows:
    """A walk through the free rows in Qudo's order, a page at a time; rows may leave and join the table meanwhile.

    Rows that join behind the walk are left to the next one.
    """

    def __init__(self, source: Source, selection: Selection) -> None:
        self._source = source
        self._selection = selection
        self._position: Position | None = None
        self._fitting = MOST_PAGE_ROWS  #: rows whose args a page can bring along, by the size of the last page's
        self.now = 0  #: the server's Unix second at the last page

    def page(self, limit: int) -> list[Row]:
        """The next rows, at most `limit`, all of one priority; empty at the end."""
        with self._source.reading() as connection:
            self.now = self._source.now(connection)
            if self._position is None:
                self._step_down(connection, None)
            while (position := self._position) is not None:
                rows = free_rows(
                    self._source, connection, position, self._selection, self.now, min(limit, self._fitting)
                )
                if rows:
                    self._position = Position(position.priority, rows[-1].id)
                    mean = sum(row.arg_bytes for row in rows) // len(rows)
                    self._fitting = max(FEWEST_PAGE_ROWS, min(MOST_PAGE_ROWS, PAGE_BYTES // (2 * mean + 1)))
                    return rows
                self._step_down(connection, position.priority)
        return []

    def _step_down(self, connection: Connection, below: int | None) -> None:
        priority = highest_priority(connection, below)
        self._position = None if priority is None else Position(priority, 0)

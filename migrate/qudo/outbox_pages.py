"""The whole outbox by primary key, in pages bounded in rows and bytes; and rows of `job` that stand beside it.

Reads only. Each page is a statement of its own, so no snapshot outlives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, LargeBinary, Select, and_, case, cast, func, null, or_, select
from sqlalchemy.types import NullType

from migrate.jobs import Identity, QudoJob
from migrate.qudo import packing, tables
from migrate.qudo.packing import NULL, bytes_as_hex, number
from migrate.qudo.picking import UNCACHED, among, id_lists
from migrate.qudo.source import Source

outbox = tables.outbox.c
job = tables.job.c

#: Bytes of args that one page may bring, and the rows that it may have.
PAGE_BYTES = 4 * 1024 * 1024
FIRST_PAGE_ROWS = 200
MOST_PAGE_ROWS = 5000
FEWEST_PAGE_ROWS = 50
#: Bytes of an arg that comes along with its row: CONCAT gives NULL beyond `max_allowed_packet` (1 MiB in MySQL 5.5).
MOST_ARG_BYTES = 128 * 1024


class MovedRow(NamedTuple):
    """A row of the outbox. `arg` is None for NULL, and for an arg too large to come along (`arg_bytes` above 0)."""

    batch: int
    seq: int
    decision: int
    moved_at: int  #: Unix second by the server's clock
    func_id: int
    run_after: int
    retry_cnt: int
    priority: int
    arg_bytes: int
    job_id: int | None
    enqueue_time: int | None
    uniqkey: bytes | None
    arg: bytes | None

    @property
    def identity(self) -> Identity:
        """What names the crossing."""
        return Identity(self.batch, self.seq)

    def job(self, source: str, func: str, arg: bytes | None) -> QudoJob:
        """The record that moved, but for its lease."""
        return QudoJob(
            source,
            self.job_id,
            self.func_id,
            func,
            arg,
            self.uniqkey,
            self.enqueue_time,
            0,
            self.run_after,
            self.retry_cnt,
            self.priority,
        )


class Twin(NamedTuple):
    """A row of `job` under the id of a row that has moved."""

    id: int
    func_id: int
    enqueue_time: int | None
    arg: bytes | None


def pages(source: Source) -> Iterator[list[MovedRow]]:
    """All rows by (batch, seq)."""
    rows_wanted = FIRST_PAGE_ROWS
    after = Identity(-1, -1)
    while True:
        rows = _read(source, page_query(source, after, rows_wanted))
        if rows:
            yield rows
        if len(rows) < rows_wanted:
            return
        after = rows[-1].identity
        mean = sum(row.arg_bytes for row in rows) // len(rows)
        rows_wanted = max(FEWEST_PAGE_ROWS, min(MOST_PAGE_ROWS, PAGE_BYTES // (2 * mean + 1)))


def page_query(source: Source, after: Identity, limit: int) -> Select[Any]:
    """The next rows behind an identity: a range of the primary key."""
    behind = or_(outbox.batch > after.batch, and_(outbox.batch == after.batch, outbox.seq > after.seq))
    return _select(source, limit).where(behind).order_by(outbox.batch, outbox.seq).limit(limit)


#: Words before the arg.
_WORDS = 13


def _select(source: Source, rows: int) -> Select[Any]:
    """A page of so many rows, each one text: words, a blank, the arg. Large args stay out: a page is bounded in bytes.

    One column, because PyMySQL took half a verification for thirteen.
    """
    share = max(1024, min(MOST_ARG_BYTES, PAGE_BYTES // rows))
    length = func.length(outbox.arg)
    words: list[Any] = [
        outbox.batch,
        outbox.seq,
        outbox.decision,
        outbox.moved_at,
        outbox.func_id,
        outbox.run_after,
        outbox.retry_cnt,
        outbox.priority,
        func.coalesce(length, 0),
        number(outbox.job_id),
        number(outbox.enqueue_time),
        bytes_as_hex(outbox.uniqkey),
        case((length <= share, "A"), else_=NULL),  # A: the arg comes along
    ]
    if source.is_sqlite:
        # It joins no text with bytes: the page is put together by `_read`.
        return select(packing.words(source, *words), _arg_within(share))
    whole = func.concat(packing.words(source, *words), " ", func.coalesce(_arg_within(share), ""), type_=NullType())
    return select(whole)


def _arg_within(share: int) -> ColumnElement[Any]:
    return case((func.length(outbox.arg) <= share, outbox.arg), else_=null())


def _read(source: Source, query: Select[Any]) -> list[MovedRow]:
    with source.reading() as connection:
        found = connection.execute(query, execution_options=UNCACHED)
        if source.is_sqlite:
            return [_row(b"%b %b" % (words.encode(), arg or b"")) for words, arg in found]
        return list(map(_row, found.scalars()))


def _row(text: bytes) -> MovedRow:
    *numbers, job_id, enqueue_time, uniqkey, has_arg, arg = text.split(b" ", _WORDS)
    return MovedRow._make(
        (
            *map(int, numbers),
            None if job_id == b"N" else int(job_id),
            None if enqueue_time == b"N" else int(enqueue_time),
            None if uniqkey == b"N" else bytes.fromhex(uniqkey.decode()),
            arg if has_arg == b"A" else None,
        )
    )


def rows(source: Source, identities: Sequence[Identity]) -> list[MovedRow]:
    """The rows of these identities, those that are (still) there. At most some hundreds at a time."""
    if not identities:
        return []
    wanted = or_(*(and_(outbox.batch == each.batch, outbox.seq == each.seq) for each in identities))
    return _read(source, _select(source, len(identities)).where(wanted))


def whole_arg(source: Source, row: MovedRow) -> bytes | None:
    """A row's arg, read by itself where it was too large to come along."""
    if row.arg is not None or not row.arg_bytes:
        return row.arg
    with source.reading() as connection:
        query = select(outbox.arg).where(outbox.batch == row.batch, outbox.seq == row.seq)
        value = connection.execute(query).scalar_one_or_none()
    return None if value is None else bytes(value)


def twins(source: Source, job_ids: Sequence[int]) -> list[Twin]:
    """Rows that are in `job` now under these ids (sorted). Args are read: the caller keeps the list short."""
    arg = cast(job.arg, LargeBinary) if source.is_sqlite else job.arg
    found: list[Twin] = []
    for part in id_lists(source, job_ids):
        query = select(job.id, job.func_id, job.enqueue_time, arg).where(among(part))
        with source.reading() as connection:
            found += [Twin._make(row) for row in connection.execute(query, execution_options=UNCACHED)]
    return found

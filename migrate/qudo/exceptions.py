"""Qudo's `exception_log`: its rows, and what else is known of the jobs they tell of. Writes only the mark `retried`.

Every failure writes a row there, retried or not, without a job id: what belongs together is told by func, uniqkey and
arg. Their fingerprints are made by the server, so that no arg travels only to be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    String,
    Table,
    case,
    cast,
    func,
    literal,
    select,
    update,
)

from migrate.failpoints import reach
from migrate.jobs import QudoFailure
from migrate.qudo import tables
from migrate.qudo.source import Source

log = tables.exception_log.c
status = tables.job_status.c

#: Ids of one bucket.
BUCKET_ROWS = 4096
#: Rows whose fingerprints one statement reads.
MARKS_PER_PAGE = 5000
#: Fingerprints that one statement names, so that the server sends only rows that have one of them.
FINGERPRINTS_SENT = 100
#: Seconds by which rows of one batch may have moved in another order than their seqs': an enqueue may wait for a lock.
OUT_OF_ORDER_SECONDS = 300
#: Rows that one transaction marks.
MARKED_TOGETHER = 200


class Mark(NamedTuple):
    """One row by its fingerprint. Two rows with the same one tell of the same job, or of jobs nobody can tell apart."""

    id: int
    fingerprint: int  #: 224 bits
    time: int  #: Unix second; what it means is the query's matter
    retried: bool
    put_back: int = 0  #: when a worker had put the job back after a failure, by that worker's clock; 0: never


class Bucket(NamedTuple):
    """Rows of `exception_log` whose ids are neighbours."""

    first: int  #: the lowest id that it can have
    rows: int
    unmarked: int  #: nobody has put them back, and they aren't imported
    digest: str  #: another one where a row came, went, got its mark or lost it


def _fingerprint(table: Table) -> ColumnElement[str]:
    """SQL for a digest of func, uniqkey and arg, NULLs apart from empty ones.

    MySQL 9.6 has no MD5() any more (seen); SHA2() is everywhere since 5.5.
    """
    # SQLite's hex() of NULL is the empty text.
    key = case((table.c.uniqkey.is_(None), literal("-")), else_=func.hex(cast(table.c.uniqkey, LargeBinary)))
    arg = func.coalesce(func.sha2(cast(table.c.arg, LargeBinary), 224), literal("-"))
    return func.sha2(cast(table.c.func_id, String(20)) + literal(":") + key + literal(":") + arg, 224)


def failures(
    source: Source, func_ids: Collection[int], part: int, parts: int, since: int = 0, also: Sequence[int] = ()
) -> Iterator[Mark]:
    """The marks of rows of these funcs, by id: of those from the id `since` on, and of some others.

    `time`: when it failed.
    """
    table = tables.exception_log
    if also:
        chosen = log.id.in_(also)
        yield from _marks(source, table, log.exception_time, log.retried, func_ids, part, parts, chosen)
    yield from _marks(source, table, log.exception_time, log.retried, func_ids, part, parts, first=since)


def of_unknown_funcs(source: Source, names: Collection[int]) -> int:
    """How many rows that nobody has put back name a func that isn't in `func`."""
    unknown = log.func_id.not_in(sorted(names))
    query = select(func.count()).select_from(tables.exception_log).where(unknown, log.retried == 0)
    with source.reading() as connection:
        return int(connection.execute(query).scalar_one())


def waiting_jobs(source: Source, func_ids: Collection[int], part: int, parts: int) -> Iterator[Mark]:
    """The marks of all rows in `job`, whoever holds them."""
    yield from _marks(source, tables.job, tables.job.c.enqueue_time, None, func_ids, part, parts)


def retried_jobs(source: Source, func_ids: Collection[int], part: int, parts: int) -> Iterator[Mark]:
    """The marks of those rows in `job` that have failed before."""
    job = tables.job.c
    yield from _marks(source, tables.job, job.enqueue_time, None, func_ids, part, parts, job.retry_cnt > 0)


def completed_jobs(source: Source, func_ids: Collection[int], part: int, parts: int) -> Iterator[Mark]:
    """The marks of jobs that worker classes with `set_job_status` reported as completed. `time`: when they started."""
    condition = status.status == "completed"
    yield from _marks(source, tables.job_status, status.job_start_time, None, func_ids, part, parts, condition)


def buckets(source: Source) -> list[Bucket]:
    """The whole table, digested by the server: no row travels, and no arg is looked at."""
    first = log.id - log.id % BUCKET_ROWS
    mixed = (log.id % 65521 + 1) * (log.exception_time % 1000003 + 1)
    unmarked = func.sum(case((log.retried == 0, 1), else_=0))
    query = select(first, func.count(), unmarked, func.sum(mixed)).group_by(first).order_by(first)
    with source.reading() as connection:
        return [
            Bucket(int(row[0]), int(row[1]), int(row[2]), f"{row[1]}:{row[2]}:{row[3]}")
            for row in connection.execute(query)
        ]


def failed_between(source: Source, mark: Mark, since: int) -> bool:
    """Whether the same job, or one like it, has an older row from that second on, up to this one's."""
    query = (
        select(log.id)
        .where(log.exception_time.between(since, mark.time), log.id < mark.id)
        .where(_fingerprint(tables.exception_log) == f"{mark.fingerprint:056x}")
        .limit(1)
    )
    with source.reading() as connection:
        return connection.execute(query).first() is not None


def moved_jobs(source: Source, func_ids: Collection[int], fingerprints: Collection[int], since: int) -> Iterator[Mark]:
    """The marks of outbox rows that moved in the second `since` or later; the id is Qudo's. `time`: when they moved.

    The outbox has no index that tells when a row moved: each would make moves dearer. But seqs of a batch were given
    one after the other, so each batch is read backwards, down to what is too old. Older ones among them are no fault.
    """
    outbox = tables.outbox.c
    for batch, newest in _batches_since(source, since - OUT_OF_ORDER_SECONDS):
        last: int | None = newest
        while last is not None:
            first = max(0, last - MARKS_PER_PAGE + 1)
            within = (outbox.batch == batch) & outbox.seq.between(first, last)
            with source.reading() as connection:
                yield from _moved_marks(connection, within, func_ids, fingerprints)
                last = _last_seq(connection, batch, first, since - OUT_OF_ORDER_SECONDS)


def _batches_since(source: Source, since: int) -> list[tuple[int, int]]:
    """Each batch whose last row isn't older, and that row's seq: some look-ups in the primary key for each batch."""
    outbox = tables.outbox.c
    newest = select(outbox.batch, func.max(outbox.seq).label("seq")).group_by(outbox.batch).subquery("newest")
    query = (
        select(outbox.batch, outbox.seq)
        .select_from(newest.join(tables.outbox, (outbox.batch == newest.c.batch) & (outbox.seq == newest.c.seq)))
        .where(outbox.moved_at >= since)
    )
    with source.reading() as connection:
        return [(int(row[0]), int(row[1])) for row in connection.execute(query)]


def _last_seq(connection: Connection, batch: int, before: int, since: int) -> int | None:
    """The seq of the last row before one, if there is one that isn't older than `since`."""
    outbox = tables.outbox.c
    query = (
        select(outbox.seq, outbox.moved_at)
        .where(outbox.batch == batch, outbox.seq < before)
        .order_by(outbox.seq.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return int(row[0]) if row is not None and int(row[1]) >= since else None


def _moved_marks(
    connection: Connection, within: ColumnElement[bool], func_ids: Collection[int], fingerprints: Collection[int]
) -> Iterator[Mark]:
    outbox = tables.outbox.c
    put_back = case((outbox.retry_cnt > 0, func.coalesce(outbox.enqueue_time, 0)), else_=0)
    digest = _fingerprint(tables.outbox)
    query = select(outbox.job_id, digest, outbox.moved_at, put_back).where(within, outbox.func_id.in_(sorted(func_ids)))
    if len(fingerprints) <= FINGERPRINTS_SENT:
        query = query.where(digest.in_([f"{each:056x}" for each in fingerprints]))
    for row in connection.execute(query).all():
        fingerprint = int(row[1], 16)
        if fingerprint in fingerprints:
            yield Mark(int(row[0] or 0), fingerprint, int(row[2]), retried=False, put_back=int(row[3]))


def _marks(
    source: Source,
    table: Table,
    time: ColumnElement[Any],
    retried: ColumnElement[Any] | None,
    func_ids: Collection[int],
    part: int,
    parts: int,
    condition: ColumnElement[bool] | None = None,
    first: int = 0,
) -> Iterator[Mark]:
    after = first - 1
    flag = literal(0) if retried is None else retried
    while True:
        query = (
            select(table.c.id, _fingerprint(table), func.coalesce(time, 0), flag)
            .where(table.c.id > after, table.c.func_id.in_(sorted(func_ids)))
            .order_by(table.c.id)
            .limit(MARKS_PER_PAGE)
        )
        if condition is not None:
            query = query.where(condition)
        with source.reading() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            fingerprint = int(row[1], 16)
            if fingerprint % parts == part:
                yield Mark(int(row[0]), fingerprint, int(row[2]), bool(row[3]))
        if len(rows) < MARKS_PER_PAGE:
            return
        after = int(rows[-1][0])


def rows(source: Source, names: Mapping[int, str], ids: Sequence[int]) -> list[QudoFailure]:
    """Whole rows by id, those that are (still) there. The caller keeps the list short: args may be large."""
    arg = cast(log.arg, LargeBinary) if source.is_sqlite else log.arg
    message = cast(log.message, LargeBinary) if source.is_sqlite else log.message
    columns = (log.id, log.func_id, log.exception_time, message, cast(log.uniqkey, LargeBinary), arg)
    with source.reading() as connection:
        found = connection.execute(select(*columns).where(log.id.in_(ids)).order_by(log.id)).all()
    return [
        QudoFailure(source.name, int(row[0]), int(row[1]), names.get(int(row[1]), ""), int(row[2]), *row[3:])
        for row in found
    ]


def sizes(source: Source, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Id and bytes of rows, by id."""
    length = func.length(log.message) + func.coalesce(func.length(log.arg), 0)
    with source.reading() as connection:
        found = connection.execute(select(log.id, length).where(log.id.in_(ids)).order_by(log.id))
        return [(int(row[0]), int(row[1])) for row in found]


def mark_retried(source: Source, marks: Sequence[tuple[int, int]]) -> None:
    """Set Qudo's own mark on rows, each given by id and time (ids come back). Safe to repeat."""
    for start in range(0, len(marks), MARKED_TOGETHER):
        with source.writing() as connection:
            _mark(connection, marks[start : start + MARKED_TOGETHER])
        reach("failures.marked")


def _mark(connection: Connection, marks: Sequence[tuple[int, int]]) -> None:
    for row_id, time in marks:
        connection.execute(
            update(tables.exception_log).where(log.id == row_id, log.exception_time == time).values(retried=1)
        )

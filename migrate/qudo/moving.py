"""The move: free rows leave `job` for the outbox in one short transaction. For InnoDB and SQLite.

Reads and writes `job` and our own tables. Engines without transactions move as `leasing.py` says.

A crash leaves nothing half done: the transaction is there or it isn't. A lost answer to COMMIT is settled by the next
recovery, which reads the chunk records on a new connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    Connection,
    Delete,
    Insert,
    LargeBinary,
    Select,
    TextClause,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
)

from migrate.errors import Contention
from migrate.failpoints import reach
from migrate.qudo import binding, pending, reading, tables
from migrate.qudo.binding import Binding
from migrate.qudo.outbox import Chunk, ChunkState, record_chunk, record_decisions
from migrate.qudo.picking import among_copied, by_id_text, by_primary_key, id_lists, listed
from migrate.qudo.reading import Row, job
from migrate.qudo.source import Source
from migrate.qudo.templates import among_place, condition_place, place, template
from migrate.qudo.turns import Turn

outbox = tables.outbox.c

#: Between the headers of a list, and at the end of each.
_LINE_END, _COMPLETE = "\n", "."


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A free row that translates, and where it would go."""

    row: Row
    seq: int
    decision: int
    unique: bool  #: its uniqkey is to be kept unique across the crossing


class Moved(NamedTuple):
    """What one move did."""

    seqs: frozenset[int]  #: of the candidates that left `job`
    waiting: tuple[pending.Waiter, ...]  #: rows that stay because their key is pending
    binding: Binding  #: as the source remembered it in the same transaction


def move(
    source: Source,
    batch: int,
    candidates: Sequence[Candidate],
    decisions: Mapping[int, str],
    turn: Turn | None = None,
) -> Moved:
    """Move candidates (in Qudo's order, seqs ascending) as one chunk; those that changed since they were read stay.

    `turn`: its place among moves that overlap; its caller begins and ends it.

    Raises Contention (nothing moved, try again) and Unavailable (unknown: recovery finds out).
    """
    ordered = sorted(candidates, key=_job_id)
    with source.writing() as connection:
        held = binding.read(connection)
        leaving = _lock_unchanged(source, connection, ordered)
        reach("move.locked")
        waiting = _waiting(source, connection, [candidate.row.id for candidate in leaving if candidate.unique])
        if waiting:
            staying = {waiter.job_id for waiter in waiting}
            leaving = [candidate for candidate in leaving if candidate.row.id not in staying]
        if leaving:
            used = {candidate.decision for candidate in leaving}
            record_decisions(connection, {key: decisions[key] for key in used})
            record = chunk_of(batch, [candidate.seq for candidate in leaving])
            record_chunk(source, connection, record)
            reach("move.recorded")
            if turn is not None:
                turn.recorded()
            for part in id_lists(source, leaving):
                copy_rows(source, connection, batch, part)
            reach("move.copied")
            _take_away(source, connection, record)
            reach("move.deleted")
        if turn is not None:
            turn.before_commit()
    reach("move.committed")
    return Moved(frozenset([candidate.seq for candidate in leaving]), tuple(waiting), held)


def _job_id(candidate: Candidate) -> int:
    return candidate.row.id


def chunk_of(batch: int, seqs: Sequence[int], state: ChunkState = ChunkState.READY) -> Chunk:
    """The record of a chunk of these seqs."""
    return Chunk(batch, min(seqs), max(seqs), len(seqs), state)


def locking(source: Source) -> Select[Any]:
    """Lock rows: how many there are, and their headers as one text of lines, which the server may have cut short.

    One text, because PyMySQL takes longer for nine hundred rows than the server for locking them.
    """
    lines = func.aggregate_strings(reading.header(source, literal_column(f"'{_COMPLETE}'")), _LINE_END)
    return by_primary_key(select(func.count(), lines).where(among_place("ids")), tables.job).with_for_update()


def _lock_unchanged(source: Source, connection: Connection, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Lock the rows (sorted by id) and keep those that nobody changed or took."""
    kept: list[Candidate] = []
    parts = [*id_lists(source, candidates)][::-1]
    while parts:
        part = parts.pop()
        ids = listed([candidate.row.id for candidate in part])
        count, lines = tuple(template(source, locking).execute(connection, ids=ids).one())
        expected = [f"{candidate.row.header} {_COMPLETE}" for candidate in part]
        if lines == _LINE_END.join(expected):
            kept += part
            continue
        found = lines.split(_LINE_END) if count else []
        if count > 1 and (len(found) < count or not found[-1].endswith(_COMPLETE)):  # cut short
            parts += (part[len(part) // 2 :], part[: len(part) // 2])
        else:
            there = set(found)
            kept += [candidate for candidate, line in zip(part, expected, strict=True) if line in there]
    return kept


def _waiting(source: Source, connection: Connection, ids: Sequence[int]) -> list[pending.Waiter]:
    found: list[pending.Waiter] = []
    for part in id_lists(source, ids):
        found += pending.waiters(connection, part)
    return found


def copying(source: Source) -> Insert:
    """Copy rows into the outbox as they are."""
    rows = select(
        place("batch"),
        place("seq").label("seq"),
        place("decision").label("decision"),
        source.clock.label("moved_at"),
        job.id,
        job.func_id,
        cast(job.arg, LargeBinary) if source.is_sqlite else job.arg,
        cast(job.uniqkey, LargeBinary),
        job.enqueue_time,
        job.grabbed_until,
        job.run_after,
        job.retry_cnt,
        job.priority,
    ).where(condition_place("rows"))
    columns = [column.name for column in tables.outbox.columns if column.name != "due"]
    return insert(tables.outbox).from_select(columns, by_primary_key(rows, tables.job))


def copy_rows(source: Source, connection: Connection, batch: int, candidates: Sequence[Candidate]) -> None:
    """Copy rows (sorted by id, at most one list of them) into the outbox, and hold their uniqkeys.

    The bytes never leave the server: what is stored is what Qudo had. Raises Contention when a row is gone.
    """
    ids = [candidate.row.id for candidate in candidates]
    copied = (
        template(source, copying)
        .execute(
            connection,
            batch=str(int(batch)),
            seq=by_id_text(source, ids, [candidate.seq for candidate in candidates]),
            decision=by_id_text(source, ids, [candidate.decision for candidate in candidates]),
            rows=among_copied(source, ids),
        )
        .rowcount
    )
    if copied != len(ids):
        raise Contention(f"source {source.name}: {len(ids) - copied} rows vanished from under a lock")
    unique = [candidate for candidate in candidates if candidate.unique and candidate.row.uniqkey is not None]
    if unique:
        pending.hold(
            source,
            connection,
            batch,
            [candidate.row.id for candidate in unique],
            [candidate.seq for candidate in unique],
        )


def taking_away(source: Source) -> TextClause | Delete:
    """Delete from `job` what was copied, found by what the outbox has of it, and touch no other row.

    By a join: a list of ids that covers much of a short table is a reason for MariaDB to scan it, and a DELETE that
    scans waits for rows that open transactions have inserted (seen). With LIMIT, so that no row of the chunk behind
    this one, which may be in the middle of its own move, is looked at.
    """
    copied = (
        select(outbox.job_id.label("id"))
        .where(outbox.batch == place("batch"), outbox.seq >= place("first"))
        .order_by(outbox.batch, outbox.seq)
        .limit(place("count"))
    )
    if source.is_sqlite:
        return delete(tables.job).where(job.id.in_(copied))
    query = copied.compile(dialect=source.dialect)
    return text(f"DELETE job FROM ({query}) AS listed STRAIGHT_JOIN job FORCE INDEX (PRIMARY) ON job.id = listed.id")


def _take_away(source: Source, connection: Connection, record: Chunk) -> None:
    gone = (
        template(source, taking_away)
        .execute(connection, batch=str(record.batch), first=str(record.first_seq), count=str(record.jobs))
        .rowcount
    )
    if gone != record.jobs:
        raise Contention(f"{record.jobs - gone} rows vanished from under a lock")

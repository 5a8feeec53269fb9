"""The move: free rows leave `job` for the outbox in one short transaction. For InnoDB and SQLite.

Reads and writes `job` and our own tables. Engines without transactions move as `leasing.py` says.

A crash leaves nothing half done: the transaction is there or it isn't. A lost answer to COMMIT is settled by the next
recovery, which reads the chunk records on a new connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    LargeBinary,
    Select,
    TextClause,
    cast,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
)

from migrate.errors import Contention
from migrate.failpoints import reach
from migrate.qudo import binding, pending, reading, tables
from migrate.qudo.binding import Binding
from migrate.qudo.outbox import Chunk, ChunkState, record_chunk, record_decisions
from migrate.qudo.picking import UNCACHED, among, by_id, by_primary_key, id_lists
from migrate.qudo.reading import Row, job
from migrate.qudo.source import Source

#: Between the headers of a list, and at the end of each.
_LINE_END, _COMPLETE = "\n", "."


class Candidate(NamedTuple):
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


def move(source: Source, batch: int, candidates: Sequence[Candidate], decisions: Mapping[int, str]) -> Moved:
    """Move candidates (in Qudo's order, seqs ascending) as one chunk; those that changed since they were read stay.

    Raises Contention (nothing moved, try again) and Unavailable (unknown: recovery finds out).
    """
    by_job_id = {candidate.row.id: candidate for candidate in candidates}
    ids = sorted(by_job_id)
    with source.writing() as connection:
        held = binding.read(connection)
        unchanged = _lock_unchanged(source, connection, ids, by_job_id)
        reach("move.locked")
        waiting = _waiting(source, connection, [key for key in unchanged if by_job_id[key].unique])
        staying = {waiter.job_id for waiter in waiting}
        leaving = [key for key in unchanged if key not in staying]
        if leaving:
            used = {by_job_id[key].decision for key in leaving}
            record_decisions(connection, {key: decisions[key] for key in used})
            record_chunk(source, connection, chunk_of(batch, [by_job_id[key].seq for key in leaving]))
            reach("move.recorded")
            for part in id_lists(source, leaving):
                copy_rows(source, connection, batch, [by_job_id[key] for key in part])
                reach("move.copied")
                _take_away(source, connection, part)
            reach("move.deleted")
    reach("move.committed")
    return Moved(frozenset(by_job_id[key].seq for key in leaving), tuple(waiting), held)


def chunk_of(batch: int, seqs: Sequence[int], state: ChunkState = ChunkState.READY) -> Chunk:
    """The record of a chunk of these seqs."""
    return Chunk(batch, min(seqs), max(seqs), len(seqs), state)


def locking_query(source: Source, ids: Sequence[int]) -> Select[Any]:
    """Lock these rows: how many there are, and their headers as one text of lines, which the server may have cut short.

    One text, because PyMySQL takes longer for nine hundred rows than the server for locking them.
    """
    lines = func.aggregate_strings(reading.header(source, literal_column(f"'{_COMPLETE}'")), _LINE_END)
    return by_primary_key(select(func.count(), lines).where(among(ids)), tables.job).with_for_update()


def _lock_unchanged(
    source: Source, connection: Connection, ids: Sequence[int], by_job_id: Mapping[int, Candidate]
) -> list[int]:
    """Lock the rows by id and keep those that nobody changed or took; sorted by id."""
    kept: list[int] = []
    parts = [*id_lists(source, ids)][::-1]
    while parts:
        part = parts.pop()
        count, text = connection.execute(locking_query(source, part), execution_options=UNCACHED).one()
        expected = [f"{by_job_id[job_id].row.header} {_COMPLETE}" for job_id in part]
        found = text.split(_LINE_END) if count else []
        if found == expected:
            kept += part
        elif count > 1 and (len(found) < count or not found[-1].endswith(_COMPLETE)):  # cut short
            parts += (part[len(part) // 2 :], part[: len(part) // 2])
        else:
            there = set(found)
            kept += [job_id for job_id, line in zip(part, expected, strict=True) if line in there]
    return kept


def _waiting(source: Source, connection: Connection, ids: Sequence[int]) -> list[pending.Waiter]:
    found: list[pending.Waiter] = []
    for part in id_lists(source, ids):
        found += pending.waiters(connection, part)
    return found


def copy_rows(source: Source, connection: Connection, batch: int, candidates: Sequence[Candidate]) -> None:
    """Copy rows (sorted by id, at most one list of them) into the outbox as they are, and hold their uniqkeys.

    The bytes never leave the server: what is stored is what Qudo had. Raises Contention when a row is gone.
    """
    ids = [candidate.row.id for candidate in candidates]
    seqs = [candidate.seq for candidate in candidates]
    rows = select(
        literal(batch, BigInteger),
        by_id(source, ids, seqs).label("seq"),
        by_id(source, ids, [candidate.decision for candidate in candidates]).label("decision"),
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
    ).where(among(ids))
    columns = [column.name for column in tables.outbox.columns if column.name != "due"]
    copy = insert(tables.outbox).from_select(columns, by_primary_key(rows, tables.job))
    copied = connection.execute(copy, execution_options=UNCACHED).rowcount
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


def deleting_query(source: Source, ids: Sequence[int]) -> Delete | TextClause:
    """Delete these rows and touch no other: by a join with the list.

    A list that covers much of a short table is a reason for MariaDB to scan it, and a DELETE that scans waits for rows
    that open transactions have inserted (seen).
    """
    if source.is_sqlite:
        return delete(tables.job).where(among(ids))
    first, *others = map(int, ids)
    listed = "".join(f" UNION ALL SELECT {job_id}" for job_id in others)
    return text(
        f"DELETE job FROM (SELECT {first} AS id{listed}) AS listed"
        " STRAIGHT_JOIN job FORCE INDEX (PRIMARY) ON job.id = listed.id"
    )


def _take_away(source: Source, connection: Connection, ids: Sequence[int]) -> None:
    gone = connection.execute(deleting_query(source, ids), execution_options=UNCACHED).rowcount
    if gone != len(ids):
        raise Contention(f"{len(ids) - gone} rows vanished from under a lock")

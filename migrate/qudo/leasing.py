"""The move where `job` knows no transactions (MyISAM): claim by lease, copy as moving, delete, set ready.

Reads and writes `job` and our own tables, under one named lock a database, held on the working connection: when the
connection dies, so does the lock, and the next holder settles what was half done.

A crash leaves claimed rows without a copy (freed by `settle`), or a chunk of `moving` or `deleting` copies (settled row
by row).
Statements on `job` and on our tables never share a transaction: servers with GTIDs refuse the mixture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby

from sqlalchemy import Connection, LargeBinary, and_, cast, delete, false, func, select, update

from migrate.errors import Contention
from migrate.failpoints import reach
from migrate.qudo import binding, outbox, pending, tables
from migrate.qudo.moving import Candidate, Moved, chunk_of, copy_rows
from migrate.qudo.outbox import Chunk, ChunkState, record_chunk, record_decisions
from migrate.qudo.picking import UNCACHED, among, id_lists
from migrate.qudo.reading import header, job
from migrate.qudo.source import LOCK_WAIT_SECONDS, Source
from migrate.qudo.tables import MOVE_LEASE
from migrate.qudo.turns import Turn

#: Characters that a lock's name may have (MySQL 5.7 and later).
_LOCK_NAME_LIMIT = 64


@contextmanager
def migration_lock(source: Source) -> Iterator[Connection]:
    """The working connection, holding the database's lock. Raises Contention when another migrator keeps it."""
    name = f"qudo_migrate.{source.url.database}"
    if len(name) > _LOCK_NAME_LIMIT:
        name = "qudo_migrate." + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    with source.reading() as connection:
        if connection.execute(select(func.get_lock(name, LOCK_WAIT_SECONDS))).scalar_one() != 1:
            raise Contention(f"source {source.name}: another migrator is moving jobs")
        try:
            yield connection
        finally:
            # A connection that died has given the lock back already.
            if not connection.invalidated:
                connection.rollback()
                connection.execute(select(func.release_lock(name)))


def move(
    source: Source,
    batch: int,
    candidates: Sequence[Candidate],
    decisions: Mapping[int, str],
    turn: Turn | None = None,  # noqa: ARG001  no two moves overlap here, so each may commit as it likes
) -> Moved:
    """Move candidates as one chunk, as `moving.move` does."""
    by_job_id = {candidate.row.id: candidate for candidate in candidates}
    with migration_lock(source) as connection:
        held = binding.read(connection)
        # Whoever had the lock before may have died between its copies and the rows: these rows look claimed by us.
        _settle_half_moved(source, connection)
        claimed = _claim(source, connection, by_job_id)
        reach("leasing.claimed")
        waiting = [
            waiter
            for part in id_lists(source, [key for key in claimed if by_job_id[key].unique])
            for waiter in pending.waiters(connection, part)
        ]
        staying = {waiter.job_id for waiter in waiting}
        _give_back(connection, [by_job_id[key] for key in sorted(staying)])
        leaving = [key for key in claimed if key not in staying]
        if not leaving:
            return Moved(frozenset(), tuple(waiting), held)
        used = {by_job_id[key].decision for key in leaving}
        record_decisions(connection, {key: decisions[key] for key in used})
        record = chunk_of(batch, [by_job_id[key].seq for key in leaving], ChunkState.MOVING)
        record_chunk(source, connection, record)
        reach("leasing.recorded")
        for part in id_lists(source, leaving):
            copy_rows(source, connection, batch, [by_job_id[key] for key in part])
        connection.commit()
        reach("leasing.copied")
        ready = _settle_chunk(source, connection, record)
        reach("leasing.ready")
    return Moved(frozenset(ready), tuple(waiting), held)


def _claim(source: Source, connection: Connection, by_job_id: Mapping[int, Candidate]) -> list[int]:
    """Take the lease of each row by Qudo's own conditional update; those that changed since the read are given back.

    What was claimed is read back: a killed UPDATE stays half done (seen: 170,474 of 2,000,000 rows).
    """
    lease = {key: candidate.row.grabbed_until for key, candidate in by_job_id.items()}
    for value, keys in groupby(sorted(by_job_id, key=lambda key: (lease[key], key)), key=lease.__getitem__):
        for part in id_lists(source, list(keys)):
            connection.execute(
                update(tables.job).where(among(part), job.grabbed_until == value).values(grabbed_until=MOVE_LEASE),
                execution_options=UNCACHED,
            )
    connection.commit()
    claimed: list[int] = []
    changed: list[Candidate] = []
    for part in id_lists(source, sorted(by_job_id)):
        query = select(job.id, header(source)).where(among(part), job.grabbed_until == MOVE_LEASE).order_by(job.id)
        for job_id, text in connection.execute(query, execution_options=UNCACHED):
            candidate = by_job_id[job_id]
            if text == candidate.row.header_under(MOVE_LEASE):
                claimed.append(candidate.row.id)
            else:
                changed.append(candidate)
    connection.commit()
    _give_back(connection, changed)
    return claimed


def _give_back(connection: Connection, candidates: Sequence[Candidate]) -> None:
    for candidate in candidates:
        connection.execute(
            update(tables.job)
            .where(job.id == candidate.row.id, job.grabbed_until == MOVE_LEASE)
            .values(grabbed_until=candidate.row.grabbed_until)
        )
    connection.commit()


def settle(source: Source) -> int:
    """Finish or undo what moves left half done. Safe to repeat; returns how many rows it freed or settled.

    Reads the whole table once (no index serves the lease): for the start and for reconnects, not for every pass.
    """
    with migration_lock(source) as connection:
        # The right to delete is proved before any row is claimed: without it, claimed rows would keep their far lease.
        connection.execute(delete(tables.job).where(false()))
        settled = _settle_half_moved(source, connection)
        # Every `moving` copy is settled by now, so a row that still has the far lease was claimed and never copied.
        freed = connection.execute(update(tables.job).where(job.grabbed_until == MOVE_LEASE).values(grabbed_until=0))
        connection.commit()
        return settled + freed.rowcount


def _settle_half_moved(source: Source, connection: Connection) -> int:
    """Finish the moves of migrators that died: nobody else moves, as we have the lock. How many jobs they had."""
    records = outbox.half_moved_chunks(connection)
    for record in records:
        _settle_chunk(source, connection, record)
    return sum(record.jobs for record in records)


def _settle_chunk(source: Source, connection: Connection, record: Chunk) -> list[int]:
    """Delete the claimed rows of a half-moved chunk, drop the copies of rows that Qudo took back, set the rest ready.

    Returns the seqs that are ready. Before our DELETE is on record, a row that is gone was taken back and done by Qudo.
    """
    copies = _copies(connection, record)
    if record.state is ChunkState.MOVING:
        copies = _keep(connection, record, copies, {"claimed"}, ChunkState.DELETING)
    reach("leasing.deleting")
    far = sorted(job_id for job_id, state in copies.values() if state == "claimed")
    for part in id_lists(source, far):
        connection.execute(
            delete(tables.job).where(among(part), job.grabbed_until == MOVE_LEASE), execution_options=UNCACHED
        )
    connection.commit()
    reach("leasing.deleted")
    copies = _copies(connection, record)
    if any(state == "claimed" for _, state in copies.values()):
        raise Contention(f"source {source.name}: claimed rows could not be deleted")
    return list(_keep(connection, record, copies, {"gone"}, ChunkState.READY))


def _keep(
    connection: Connection,
    record: Chunk,
    copies: Mapping[int, tuple[int, str]],
    kept: Collection[str],
    state: ChunkState,
) -> dict[int, tuple[int, str]]:
    """Put a chunk into its next state with the copies that are `kept`; the others are dropped. Returns those kept."""
    staying = {seq: copy for seq, copy in copies.items() if copy[1] in kept}
    dropped = [seq for seq in copies if seq not in staying]
    for table in (tables.outbox, tables.pending) if dropped else ():
        connection.execute(delete(table).where(table.c.batch == record.batch, table.c.seq.in_(dropped)))
    this = and_(tables.chunk.c.batch == record.batch, tables.chunk.c.first_seq == record.first_seq)
    if staying:
        connection.execute(update(tables.chunk).where(this).values(state=int(state), jobs=len(staying)))
    else:
        connection.execute(delete(tables.chunk).where(this))
    connection.commit()
    return staying


def _copies(connection: Connection, record: Chunk) -> dict[int, tuple[int, str]]:
    """Each copy of a chunk: seq -> (Qudo id, "gone" | "claimed" | "taken").

    A row of another job under the same id (ids come back) doesn't count: ours is gone.
    """
    copy = tables.outbox.c
    same = and_(
        job.id == copy.job_id,
        job.func_id == copy.func_id,
        job.arg.op("<=>")(copy.arg),
        cast(job.uniqkey, LargeBinary).op("<=>")(copy.uniqkey),
    )
    query = (
        select(copy.seq, copy.job_id, job.grabbed_until)
        .select_from(tables.outbox.outerjoin(tables.job, same))
        .where(copy.batch == record.batch, copy.seq.between(record.first_seq, record.last_seq))
        .order_by(copy.seq)
    )
    return {
        int(seq): (int(job_id), "gone" if lease is None else "claimed" if lease == MOVE_LEASE else "taken")
        for seq, job_id, lease in connection.execute(query)
    }

"""The outbox: rows that have left `job`, until the purge; and the chunk records that tell what may be undelivered.

Undelivered rows are found by what they are (a chunk record that stands, or a `due` in the row of an app's own write),
never by "id above the last seen": an app's transaction may commit an hour late.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, delete, func, insert, literal, null, or_, select, text, update

from migrate.failpoints import reach
from migrate.jobs import Identity, QudoJob
from migrate.qudo import tables
from migrate.qudo.source import Source

#: Rows of apps that one statement reads, and that one chunk of them has at most.
WRITTEN_PER_READ = 10_000
WRITTEN_PER_CHUNK = 5_000
#: Rows that one record covers which `rebuild_chunks` writes.
ROWS_PER_REBUILT_CHUNK = 5000

outbox = tables.outbox.c
chunk = tables.chunk.c


class ChunkState(IntEnum):
    """What a chunk's rows are."""

    READY = 0  #: gone from `job`: may be handed off
    MOVING = 1  #: copies of claimed rows that are still in `job` (engines without transactions): never handed off
    HELD = 2  #: held back by `recover --redis-lost hold`, until a person decides otherwise
    DELETING = 3  #: as MOVING, and our DELETE of their rows was begun: one that is gone from `job` was deleted by us


#: Copies that count for nothing yet: their jobs are in `job`, and the next holder of the lock settles them.
HALF_MOVED = frozenset({ChunkState.MOVING, ChunkState.DELETING})


class Chunk(NamedTuple):
    """The record of one move; or rows of consecutive seqs that an app wrote, which have no record but their `due`."""

    batch: int
    first_seq: int
    last_seq: int
    jobs: int
    state: ChunkState
    written: bool = False  #: by an app


class OutboxRow(NamedTuple):
    """A moved job and the decision under which it moved."""

    identity: Identity
    decision: int
    job: QudoJob


def clock_us(source: Source) -> str:
    """SQL for the server's clock in microseconds; it orders chunks of different processes."""
    if source.is_sqlite:
        return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
    return "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS UNSIGNED)"


def record_chunk(source: Source, connection: Connection, record: Chunk) -> None:
    """Enter a chunk; part of the move's transaction."""
    connection.execute(
        insert(tables.chunk).values(
            batch=record.batch,
            first_seq=record.first_seq,
            last_seq=record.last_seq,
            jobs=record.jobs,
            state=int(record.state),
            moved_at_us=text(clock_us(source)),
        )
    )


def record_decisions(connection: Connection, decisions: Mapping[int, str]) -> None:
    """Store the decisions that are not there yet. Safe to repeat; a race for one id raises Contention."""
    known = set(connection.execute(select(tables.decision.c.id).where(tables.decision.c.id.in_(decisions))).scalars())
    missing = [{"id": key, "decision": value} for key, value in decisions.items() if key not in known]
    if missing:
        connection.execute(insert(tables.decision), missing)


def read_decisions(connection: Connection, ids: Collection[int]) -> dict[int, str]:
    """The texts of decisions by id."""
    query = select(tables.decision.c.id, tables.decision.c.decision).where(tables.decision.c.id.in_(sorted(ids)))
    return {int(row[0]): str(row[1]) for row in connection.execute(query)}


def chunks(
    connection: Connection, *, behind: Chunk | None = None, limit: int = 1000, locking: bool = False
) -> list[Chunk]:
    """Chunk records by primary key, a page at a time; `locking`: wait for those that open transactions wrote."""
    query = (
        select(chunk.batch, chunk.first_seq, chunk.last_seq, chunk.jobs, chunk.state)
        .order_by(chunk.batch, chunk.first_seq)
        .limit(limit)
    )
    if behind is not None:
        query = query.where(
            or_(chunk.batch > behind.batch, and_(chunk.batch == behind.batch, chunk.first_seq > behind.first_seq))
        )
    if locking:
        query = query.with_for_update(read=True)
    return [_chunk(row) for row in connection.execute(query)]


def chunks_in_order(connection: Connection, *, due_by: int | None = None) -> list[Chunk]:
    """All chunks, the oldest first: the order in which their jobs must reach their queues.

    `due_by`: without the rows of apps that are due after this second.
    """
    return [each for _, each in sorted([*_moved(connection), *_written(connection, due_by=due_by)])]


def half_moved_chunks(connection: Connection) -> list[Chunk]:
    """Chunks of moves without transactions that are under way, or whose migrator has died; the oldest first."""
    return [each for _, each in _moved(connection, HALF_MOVED)]


def _moved(connection: Connection, states: Collection[ChunkState] | None = None) -> list[tuple[int, Chunk]]:
    query = select(chunk.batch, chunk.first_seq, chunk.last_seq, chunk.jobs, chunk.state, chunk.moved_at_us).order_by(
        chunk.moved_at_us, chunk.batch, chunk.first_seq
    )
    if states is not None:
        query = query.where(chunk.state.in_(sorted(map(int, states))))
    return [(int(row[5]), _chunk(row)) for row in connection.execute(query)]


def written_chunks(
    connection: Connection, *, due_by: int | None = None, due_from: int = 0, locking: bool = False
) -> list[Chunk]:
    """Rows of apps whose `due` stands and lies between these seconds, the oldest first.

    `locking`: wait for those that open transactions wrote.
    """
    return [each for _, each in sorted(_written(connection, due_by=due_by, due_from=due_from, locking=locking))]


def _written(
    connection: Connection, *, due_by: int | None, due_from: int = 0, locking: bool = False
) -> list[tuple[int, Chunk]]:
    """Each chunk with the microsecond by which it is ordered; only what the index of `due` holds is read."""
    due_of: dict[int, dict[int, int]] = {}
    last: tuple[int, int, int] | None = None
    while True:
        query = select(outbox.due, outbox.batch, outbox.seq).where(outbox.due >= (last[0] if last else due_from))
        if due_by is not None:
            query = query.where(outbox.due <= due_by)
        if last is not None:
            behind = and_(outbox.batch == last[1], outbox.seq > last[2])
            query = query.where(or_(outbox.due > last[0], outbox.batch > last[1], behind))
        query = query.order_by(outbox.due, outbox.batch, outbox.seq).limit(WRITTEN_PER_READ)
        if locking:
            query = query.with_for_update(read=True)
        rows = connection.execute(query).all()
        for due, batch, seq in rows:
            due_of.setdefault(int(batch), {})[int(seq)] = int(due)
        if len(rows) < WRITTEN_PER_READ:
            break
        last = int(rows[-1][0]), int(rows[-1][1]), int(rows[-1][2])
    return [found for batch, dues in due_of.items() for found in _consecutive(batch, dues)]


def _consecutive(batch: int, dues: Mapping[int, int]) -> Iterator[tuple[int, Chunk]]:
    """Chunks without a gap: as many bits must be set in their range as they have jobs."""
    run: list[int] = []
    for seq in sorted(dues):
        if run and (seq != run[-1] + 1 or len(run) >= WRITTEN_PER_CHUNK):
            yield _run(batch, run, dues)
            run = []
        run.append(seq)
    if run:
        yield _run(batch, run, dues)


def _run(batch: int, run: Sequence[int], dues: Mapping[int, int]) -> tuple[int, Chunk]:
    due_us = min(dues[seq] for seq in run) * 1_000_000
    return due_us, Chunk(batch, run[0], run[-1], len(run), ChunkState.READY, written=True)


def chunk_moved_at(connection: Connection, record: Chunk) -> int | None:
    """The source's Unix second of a chunk's move, or of its first row's writing; None: it is gone."""
    if record.written:
        first = select(outbox.moved_at).where(outbox.batch == record.batch, outbox.seq == record.first_seq)
        return connection.execute(first).scalar_one_or_none()
    query = select(chunk.moved_at_us).where(chunk.batch == record.batch, chunk.first_seq == record.first_seq)
    value = connection.execute(query).scalar_one_or_none()
    return None if value is None else int(value) // 1_000_000


def _chunk(row: Any) -> Chunk:
    return Chunk(int(row[0]), int(row[1]), int(row[2]), int(row[3]), ChunkState(int(row[4])))


def chunk_rows(
    source: Source, connection: Connection, record: Chunk, names: Mapping[int, str], *, max_bytes: int
) -> Iterator[list[OutboxRow]]:
    """The rows of a chunk in order, in lists of at most about `max_bytes` of args (or one larger job)."""
    sizes = select(outbox.seq, func.coalesce(func.length(outbox.arg), 0)).where(_within(record)).order_by(outbox.seq)
    part: list[int] = []
    total = 0
    for seq, size in connection.execute(sizes).all():
        if part and (total + size > max_bytes or len(part) >= 1000):
            yield _rows(source, connection, record.batch, part, names)
            part, total = [], 0
        part.append(int(seq))
        total += int(size)
    if part:
        yield _rows(source, connection, record.batch, part, names)


def _within(record: Chunk) -> Any:
    return and_(outbox.batch == record.batch, outbox.seq.between(record.first_seq, record.last_seq))


def _rows(
    source: Source, connection: Connection, batch: int, seqs: Sequence[int], names: Mapping[int, str]
) -> list[OutboxRow]:
    query = _row_query().where(outbox.batch == batch, outbox.seq.between(seqs[0], seqs[-1])).order_by(outbox.seq)
    return [_outbox_row(source, row, names) for row in connection.execute(query)]


def _row_query() -> Select[Any]:
    return select(
        outbox.batch,
        outbox.seq,
        outbox.decision,
        outbox.job_id,
        outbox.func_id,
        outbox.arg,
        outbox.uniqkey,
        outbox.enqueue_time,
        outbox.grabbed_until,
        outbox.run_after,
        outbox.retry_cnt,
        outbox.priority,
    )


def _outbox_row(source: Source, row: Any, names: Mapping[int, str]) -> OutboxRow:
    func_id = int(row[4])
    record = QudoJob(source.name, row[3], func_id, names.get(func_id, ""), *row[5:12])
    return OutboxRow(Identity(int(row[0]), int(row[1])), int(row[2]), record)


def rows_of_job(source: Source, connection: Connection, job_id: int, names: Mapping[int, str]) -> list[OutboxRow]:
    """Every outbox row that once had this Qudo id, the oldest first: ids come back.

    Reads the whole outbox: no index serves it.
    """
    query = _row_query().where(outbox.job_id == job_id).order_by(outbox.moved_at, outbox.batch, outbox.seq)
    return [_outbox_row(source, row, names) for row in connection.execute(query)]


def rows_of(
    source: Source, connection: Connection, identities: Sequence[Identity], names: Mapping[int, str]
) -> list[OutboxRow]:
    """The rows of these identities, those that are (still) there. At most some hundreds at a time."""
    if not identities:
        return []
    query = _row_query().where(or_(*(and_(outbox.batch == each.batch, outbox.seq == each.seq) for each in identities)))
    return [_outbox_row(source, row, names) for row in connection.execute(query)]


def is_there(connection: Connection, identity: Identity) -> bool:
    """Whether the row of this job is in the outbox, committed."""
    query = select(outbox.seq).where(outbox.batch == identity.batch, outbox.seq == identity.seq)
    return connection.execute(query).first() is not None


def moved_seqs(connection: Connection, record: Chunk) -> set[int]:
    """The seqs of a chunk's rows."""
    return {int(seq) for seq in connection.execute(select(outbox.seq).where(_within(record))).scalars()}


def seqs_of(connection: Connection, batch: int) -> list[int]:
    """The seqs of all rows of a batch."""
    query = select(outbox.seq).where(outbox.batch == batch).order_by(outbox.seq)
    return [int(seq) for seq in connection.execute(query).scalars()]


def discard_chunks(source: Source, settled: Sequence[Chunk]) -> None:
    """Forget chunks whose every bit is set and durable: their records, their rows' `due`. Safe to repeat."""
    for record in (each for each in settled if each.written):
        with source.writing() as connection:
            theirs = and_(_within(record), outbox.due.is_not(None))
            connection.execute(update(tables.outbox).where(theirs).values(due=null()))
    moved = [each for each in settled if not each.written]
    for start in range(0, len(moved), 200):
        part = moved[start : start + 200]
        with source.writing() as connection:
            connection.execute(
                delete(tables.chunk).where(
                    or_(*(and_(chunk.batch == each.batch, chunk.first_seq == each.first_seq) for each in part)),
                    chunk.state == literal(int(ChunkState.READY)),
                )
            )
    reach("chunks.dropped")


def counts(connection: Connection) -> tuple[int, int]:
    """Rows in the outbox, and jobs in chunks that have a record."""
    rows = connection.execute(select(func.count()).select_from(tables.outbox)).scalar_one()
    recorded = connection.execute(select(func.coalesce(func.sum(chunk.jobs), 0))).scalar_one()
    return int(rows), int(recorded)


def rebuild_chunks(source: Source, batch: int, lacking: Callable[[int], bool], state: ChunkState) -> int:
    """Replace the chunk records of a batch by new ones of all its rows whose bit is clear; how many rows.

    `lacking`: whether a seq's bit is clear. One transaction: recovery finds either the old records or the new ones.
    Safe to repeat.
    """
    with source.writing() as connection:
        connection.execute(delete(tables.chunk).where(chunk.batch == batch))
        # Rows of apps that are due later were in no Redis yet; the others are told by the new records from now on.
        due_now = or_(outbox.due.is_(None), outbox.due <= source.now(connection))
        query = select(outbox.seq, outbox.moved_at).where(outbox.batch == batch, due_now).order_by(outbox.seq)
        rows = [(int(row[0]), int(row[1])) for row in connection.execute(query) if lacking(int(row[0]))]
        theirs = and_(outbox.batch == batch, outbox.due.is_not(None), due_now)
        connection.execute(update(tables.outbox).where(theirs).values(due=null()))
        for start in range(0, len(rows), ROWS_PER_REBUILT_CHUNK):
            part = rows[start : start + ROWS_PER_REBUILT_CHUNK]
            first, last = part[0][0], part[-1][0]
            # Bits between them may be set already, and a record is complete once so many are set in its range.
            delivered = sum(not lacking(seq) for seq in range(first, last + 1))
            connection.execute(
                insert(tables.chunk).values(
                    batch=batch,
                    first_seq=first,
                    last_seq=last,
                    jobs=len(part) + delivered,
                    state=int(state),
                    moved_at_us=part[0][1] * 1_000_000 + start // ROWS_PER_REBUILT_CHUNK,
                )
            )
    return len(rows)

"""uniqkeys of jobs that crossed and are not over: a second job under the key waits in `job`.

The table's primary key arbitrates between moves and enqueues; it compares as `job.uniqkey` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, Connection, and_, delete, insert, literal, select

from migrate.jobs import Identity
from migrate.qudo import tables
from migrate.qudo.picking import UNCACHED, among, by_id, by_primary_key
from migrate.qudo.source import Source

job = tables.job.c
pending = tables.pending.c


class Waiter(NamedTuple):
    """A row of `job` that waits, and the job that holds its key."""

    job_id: int
    func_id: int
    holder: Identity


_same_key = and_(pending.func_id == job.func_id, pending.pending_key == job.uniqkey)


def waiters(connection: Connection, job_ids: Sequence[int]) -> list[Waiter]:
    """Those of the rows whose key is pending. At most 1,000 ids."""
    query = (
        select(job.id, job.func_id, pending.batch, pending.seq)
        .select_from(tables.job.join(tables.pending, _same_key))
        .where(among(job_ids))
    )
    return [
        Waiter(int(row[0]), int(row[1]), Identity(int(row[2]), int(row[3])))
        for row in connection.execute(query, execution_options=UNCACHED)
    ]


def hold(source: Source, connection: Connection, batch: int, job_ids: Sequence[int], seqs: Sequence[int]) -> None:
    """Mark the keys of these rows (sorted by id) as pending; part of the move's transaction.

    Raises Contention when another mover or an enqueue was faster with one of the keys: nothing has moved then.
    """
    seq = by_id(source, job_ids, seqs).label("seq")
    rows = by_primary_key(
        select(job.func_id, job.uniqkey, literal(batch, BigInteger), seq).where(among(job_ids)), tables.job
    )
    connection.execute(
        insert(tables.pending).from_select(["func_id", "pending_key", "batch", "seq"], rows), execution_options=UNCACHED
    )


def release(connection: Connection, holder: Identity) -> None:
    """Free the key that this job holds: it is over. Safe to repeat."""
    connection.execute(delete(tables.pending).where(pending.batch == holder.batch, pending.seq == holder.seq))

"""Deleting delivered outbox rows. Writes to the outbox only; which rows may go is the caller's knowledge."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, func, select

from migrate.failpoints import reach
from migrate.jobs import Identity
from migrate.qudo import tables
from migrate.qudo.picking import UNCACHED, among, id_lists
from migrate.qudo.source import Source

outbox = tables.outbox.c
pending = tables.pending.c


class Delivered(NamedTuple):
    """An outbox row as far as a purge asks. Times are Unix seconds of the source's server."""

    seq: int
    moved_at: int
    run_after: int
    retry_cnt: int


def batches(connection: Connection, after: int, limit: int) -> list[int]:
    """The next batches that have rows, ascending: each a look into the primary key, however many rows it has."""
    found: list[int] = []
    while len(found) < limit:
        value = connection.execute(select(func.min(outbox.batch)).where(outbox.batch > after)).scalar_one()
        if value is None:
            break
        after = int(value)
        found.append(after)
    return found


def rows(connection: Connection, batch: int, after_seq: int, limit: int) -> list[Delivered]:
    """Rows of one batch by seq, without what they carry."""
    query = (
        select(outbox.seq, outbox.moved_at, outbox.run_after, outbox.retry_cnt)
        .where(outbox.batch == batch, outbox.seq > after_seq)
        .order_by(outbox.seq)
        .limit(limit)
    )
    return [Delivered(int(row[0]), int(row[1]), int(row[2]), int(row[3])) for row in connection.execute(query)]


def held_keys(connection: Connection, of_batches: Collection[int]) -> set[Identity]:
    """The jobs of these batches that still hold a uniqkey."""
    query = select(pending.batch, pending.seq).where(pending.batch.in_(sorted(of_batches)))
    return {Identity(int(row[0]), int(row[1])) for row in connection.execute(query)}


def delete_rows(source: Source, batch: int, seqs: Sequence[int]) -> int:
    """Delete rows of one batch in one short transaction; how many were still there. Safe to repeat and side by side."""
    deleted = 0
    with source.writing() as connection:
        for part in id_lists(source, seqs):
            statement = delete(tables.outbox).where(outbox.batch == batch, among(part, f"{tables.outbox.name}.seq"))
            deleted += connection.execute(statement, execution_options=UNCACHED).rowcount
        reach("purge.deleted")
    reach("purge.committed")
    return deleted

"""The way back where `job` knows no transactions (MyISAM): insert leased, note and delete, free.

Reads and writes `job` and our own tables, under the database's named lock. Statements on `job` and on our tables never
share a transaction.

| a crash after | leaves | `settle` |
|---|---|---|
| some or all rows were inserted | rows with the far lease that no note names; their outbox rows stand | deletes them |
| the notes were committed | rows with the far lease and a note; their outbox rows are gone | frees them |
| they were freed | the notes | nothing to do |
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from migrate.errors import Contention
from migrate.failpoints import reach
from migrate.qudo import returning, tables
from migrate.qudo.leasing import migration_lock
from migrate.qudo.picking import UNCACHED, among, id_lists
from migrate.qudo.returning import GivenBack
from migrate.qudo.source import Source
from migrate.qudo.tables import RETURN_LEASE

job = tables.job.c
returned = tables.returned.c


def give_back(source: Source, batch: int, seqs: Sequence[int]) -> GivenBack:
    """Return jobs of one batch (seqs sorted) to `job`, as `returning.give_back` does.

    Raises Contention when another migrator keeps the lock.
    """
    with migration_lock(source) as connection:
        rows = returning.locked(source, connection, batch, seqs)
        before = returning.noted(source, connection, batch, seqs)
        orphans = frozenset(seqs).difference(rows, before)
        here = [seq for seq in rows if seq not in before]
        connection.commit()
        free(connection, source, returning.new_ids(before))  # who noted them may have died before it freed them
        try:
            ids = _insert_leased(source, connection, batch, here)
        except IntegrityError:
            connection.rollback()
            settle_leases(source, connection)
            return GivenBack(frozenset(before), orphans, collided=True)
        reach("rollback.leased")
        _note(source, connection, batch, here, ids)
        reach("rollback.noted")
        free(connection, source, ids)
        reach("rollback.freed")
    return GivenBack(frozenset(here).union(before), orphans)


def _insert_leased(source: Source, connection: Connection, batch: int, seqs: Sequence[int]) -> list[int]:
    """Insert rows that nobody may grab yet; their ids in the order of the seqs."""
    highest = int(connection.execute(select(func.coalesce(func.max(job.id), 0))).scalar_one())
    for part in id_lists(source, seqs):
        returning.insert_again(source, connection, batch, part, RETURN_LEASE)
    connection.commit()
    # The lock keeps other rollbacks out, and what they left half done has lower ids: such rows are this call's.
    query = select(job.id).where(job.id > highest, job.grabbed_until == RETURN_LEASE).order_by(job.id)
    ids = [int(value) for value in connection.execute(query).scalars()]
    connection.commit()
    if len(ids) != len(seqs):
        settle_leases(source, connection)
        raise Contention(f"source {source.name}: rows that were put back were changed at once")
    return ids


def _note(source: Source, connection: Connection, batch: int, seqs: Sequence[int], ids: Sequence[int]) -> None:
    """Note the new ids and delete the outbox rows: one transaction where our tables know such."""
    if seqs:
        rows = [{"batch": batch, "seq": seq, "job_id": key} for seq, key in zip(seqs, ids, strict=True)]
        connection.execute(insert(tables.returned), rows)
    for part in id_lists(source, seqs):
        returning.drop_rows(source, connection, batch, part)
    connection.commit()


def free(connection: Connection, source: Source, ids: Sequence[int]) -> None:
    """End the lease of returned rows. Under the lock."""
    for part in id_lists(source, ids):
        connection.execute(
            update(tables.job).where(among(part), job.grabbed_until == RETURN_LEASE).values(grabbed_until=0),
            execution_options=UNCACHED,
        )
    connection.commit()


def settle(source: Source) -> None:
    """Finish or undo what rollbacks left half done. Safe to repeat. Raises Contention when the lock is kept.

    Reads the whole table once: no index serves the lease.
    """
    with migration_lock(source) as connection:
        _drop_rows_of_notes(source, connection)
        settle_leases(source, connection)


def settle_leases(source: Source, connection: Connection) -> None:
    """Free leased rows that a note names, delete the others. Under the lock."""
    leased = sorted(
        int(value) for value in connection.execute(select(job.id).where(job.grabbed_until == RETURN_LEASE)).scalars()
    )
    connection.commit()
    named: set[int] = set()
    for part in id_lists(source, leased):
        query = select(returned.job_id).where(among(part, f"{tables.returned.name}.job_id"))
        named.update(map(int, connection.execute(query, execution_options=UNCACHED).scalars()))
    connection.commit()
    free(connection, source, sorted(named))
    for part in id_lists(source, [key for key in leased if key not in named]):
        connection.execute(
            delete(tables.job).where(among(part), job.grabbed_until == RETURN_LEASE), execution_options=UNCACHED
        )
    connection.commit()


def _drop_rows_of_notes(source: Source, connection: Connection) -> None:
    """Where our tables know no transactions either, a crash may leave the outbox row of a job that is noted."""
    noted = returning.notes(connection)
    connection.commit()
    for batch, seqs in noted.by_batch():
        for part in id_lists(source, seqs):
            returning.drop_rows(source, connection, batch, part)
    connection.commit()

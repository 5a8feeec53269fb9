"""The way back of jobs that were born in Resque: rows of `job` that no outbox row stands behind. Writes `job` and
our notes.

The note in `qudo_migrate_returned` is written by the transaction that inserts the row, and its primary key lets one
rollback of several do that. A note goes only after Redis has forgotten the job; so who has written a note asks Redis
once more whether the job is still on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, insert
from sqlalchemy.exc import IntegrityError

from migrate.errors import Contention
from migrate.failpoints import reach
from migrate.jobs import Identity
from migrate.qudo import returning, returning_leased, tables, unique_keys
from migrate.qudo.enqueueing import NewJob, Statements
from migrate.qudo.leasing import migration_lock
from migrate.qudo.source import Source
from migrate.qudo.tables import RETURN_LEASE

#: Asks which of these jobs are on their way.
Ask = Callable[[Collection[Identity]], set[Identity]]


class NativeRow(NamedTuple):
    """A row that is to be."""

    identity: Identity
    job: NewJob


class GivenNatives(NamedTuple):
    """What became of them."""

    returned: set[Identity]  #: in `job`, now or since an earlier pass
    collided: bool = False  #: a uniqkey of theirs is held in `job`: nothing of this call was returned


def held(source: Source, rows: Iterable[NativeRow]) -> set[Identity]:
    """Those whose uniqkey is held in `job`."""
    keyed = [(row.identity, row.job.func_id, row.job.uniqkey) for row in rows if row.job.uniqkey is not None]
    if not keyed:
        return set()
    with source.reading() as connection:
        places = unique_keys.held_in_qudo(source, connection, [(func_id, key) for _, func_id, key in keyed])
    return {keyed[place][0] for place in places}


def give_back(source: Source, rows: Sequence[NativeRow], ask: Ask) -> GivenNatives:
    """Put jobs into `job` in one transaction. Safe to repeat and side by side.

    A crash leaves all or nothing. Raises Contention (nothing was done, try again) and Unavailable (unknown: repeat).
    """
    if not source.facts().transactional:
        return _give_back_leased(source, rows, ask)
    with source.writing() as connection:
        before = set(_noted(source, connection, rows))
        new = [row for row in rows if row.identity not in before]
        try:
            _note(connection, ((row.identity, None) for row in new))
        except IntegrityError as error:
            raise Contention(f"source {source.name}: another rollback returns the same jobs") from error
        on_their_way = ask([row.identity for row in new])
        here = [row for row in new if row.identity in on_their_way]
        if len(here) < len(new):  # another rollback has returned them, forgotten them in Redis, and dropped its notes
            returning.forget_notes(source, connection, {row.identity for row in new} - on_their_way)
        statements = Statements(source, connection.dialect)
        try:
            with connection.begin_nested():
                if here:
                    connection.execute(statements.insert_job, [statements.job_values(row.job) for row in here])
        except IntegrityError:
            returning.forget_notes(source, connection, {row.identity for row in here})
            return GivenNatives(before, collided=True)
        reach("native.inserted")
    reach("native.committed")
    return GivenNatives(before.union(row.identity for row in here))


def _give_back_leased(source: Source, rows: Sequence[NativeRow], ask: Ask) -> GivenNatives:
    """The same where `job` knows no transactions: as `returning_leased`, whose `settle` ends what a crash leaves."""
    with migration_lock(source) as connection:
        noted = _noted(source, connection, rows)
        connection.commit()
        ids_before = [job_id for job_id in noted.values() if job_id is not None]
        returning_leased.free(connection, source, sorted(ids_before))  # who noted them may have died before that
        new = [row for row in rows if row.identity not in noted]
        on_their_way = ask([row.identity for row in new])
        here = [row for row in new if row.identity in on_their_way]
        statements = Statements(source, connection.dialect, lease=RETURN_LEASE)
        ids: list[tuple[Identity, int | None]] = []
        try:
            for row in here:
                result = connection.execute(statements.insert_job, statements.job_values(row.job))
                ids.append((row.identity, int(result.lastrowid)))
        except IntegrityError:
            connection.rollback()
            returning_leased.settle_leases(source, connection)
            return GivenNatives(set(noted), collided=True)
        connection.commit()
        reach("native.leased")
        _note(connection, ids)
        connection.commit()
        reach("native.noted")
        returning_leased.free(connection, source, [job_id for _, job_id in ids if job_id is not None])
        reach("native.freed")
    return GivenNatives(set(noted).union(row.identity for row in here))


def _noted(source: Source, connection: Connection, rows: Iterable[NativeRow]) -> dict[Identity, int | None]:
    found: dict[Identity, int | None] = {}
    for batch, seqs in returning.by_batch(row.identity for row in rows).items():
        notes = returning.noted(source, connection, batch, seqs)
        found.update((Identity(batch, seq), job_id) for seq, job_id in notes.items())
    return found


def _note(connection: Connection, ids: Iterable[tuple[Identity, int | None]]) -> None:
    rows = [{"batch": each.batch, "seq": each.seq, "job_id": job_id} for each, job_id in ids]
    if rows:
        connection.execute(insert(tables.returned), rows)

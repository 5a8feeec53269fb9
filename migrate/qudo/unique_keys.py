"""uniqkeys of enqueues: between rows of `job` and jobs that have left it, whoever writes at the same moment.

Each enqueue first writes its own and then looks, with a lock, at what the other kind holds. So of two that write at
the same moment at least one sees the other; both can't miss it. (Two that meet so may deadlock: one is tried again.)

The key is compared by the server, between columns of one collation; only `holder` has to spell it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Select, and_, cast, delete, func, insert, literal, literal_column, select, union_all
from sqlalchemy import String as SqlString
from sqlalchemy.exc import IntegrityError

from migrate.errors import Contention, MigrateError
from migrate.jobs import Identity
from migrate.qudo import tables
from migrate.qudo.ddl import key_collation
from migrate.qudo.enqueueing import NewJob, Statements
from migrate.qudo.picking import UNCACHED
from migrate.qudo.source import LOCK_WAIT_SECONDS, Source

#: Keys that one statement looks for.
_KEYS_PER_READ = 200

job = tables.job.c
pending = tables.pending.c
_collations: WeakKeyDictionary[Source, tuple[str | None, str | None]] = WeakKeyDictionary()
_same_key = and_(pending.func_id == job.func_id, pending.pending_key == job.uniqkey)


class InQudo(MigrateError):
    """Another row of `job` has the key. Caught inside."""


class Pending(MigrateError):
    """A job that has left `job` holds the key. Caught inside: is it over?"""

    def __init__(self, holder: Identity | None) -> None:
        super().__init__("a uniqkey is pending")
        self.holder = holder


def insert_job(connection: Connection, statements: Statements, new: NewJob, *, has_crossed: bool = True) -> int:
    """Write a row of `job`, part of the caller's transaction; its id. Raises InQudo, Pending: then roll back.

    `has_crossed`: False where our tables lack, so that no job can have left `job`.
    """
    try:
        result = connection.execute(statements.insert_job, statements.job_values(new))
    except IntegrityError as error:
        raise InQudo("its uniqkey is in job") from error
    job_id = int(result.lastrowid)
    if not has_crossed:
        return job_id
    query = select(pending.batch, pending.seq).select_from(tables.job.join(tables.pending, _same_key))
    row = connection.execute(_locking(query.where(job.id == job_id))).first()
    if row is not None:
        raise Pending(Identity(int(row[0]), int(row[1])))
    return job_id


def insert_outbox(
    connection: Connection,
    statements: Statements,
    new: NewJob,
    identity: Identity,
    decision: int,
    due: int,
    target: str,
) -> bool:
    """Write a row of the outbox and hold its key, part of the caller's transaction.

    False: the source belongs to another target. Raises InQudo, Pending: then roll back, as after False.
    """
    key = statements.job_values(new)["uniqkey"]
    names = ["func_id", "pending_key", "batch", "seq"]
    values = [literal(new.func_id), literal(key), literal(identity.batch), literal(identity.seq)]
    try:
        connection.execute(insert(tables.pending).from_select(names, select(*values)))
    except IntegrityError as error:
        raise Pending(None) from error
    written = statements.outbox_values(new, identity, decision, due, target)
    if connection.execute(statements.insert_outbox, written).rowcount != 1:
        return False
    own = and_(pending.batch == identity.batch, pending.seq == identity.seq)
    query = select(job.id).select_from(tables.pending.join(tables.job, _same_key)).where(own)
    if connection.execute(_locking(query)).first() is not None:
        raise InQudo("its uniqkey is in job")
    return True


# --- where `job` knows no transactions (MyISAM): nothing is rolled back, so one at a time, and look first ---


@contextmanager
def one_at_a_time(source: Source, connection: Connection, func_id: int, folded: str) -> Iterator[None]:
    """Hold the lock of a key, against all who enqueue by this module. Raises Contention."""
    name = f"qudo_migrate.key.{source.url.database}.{func_id}.{folded}"
    name = "qudo_migrate.key." + hashlib.blake2b(name.encode(), digest_size=20).hexdigest()
    if connection.execute(select(func.get_lock(name, LOCK_WAIT_SECONDS))).scalar_one() != 1:
        raise Contention(f"source {source.name}: the lock of a uniqkey isn't free")
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.execute(select(func.release_lock(name)))


def insert_job_leased(
    source: Source, connection: Connection, statements: Statements, new: NewJob, *, has_crossed: bool = True
) -> int:
    """Write a row of a `job` without transactions, under `one_at_a_time`; its id. Raises InQudo, Pending."""
    key = new.uniqkey or b""
    if has_crossed and (held := holder(source, connection, new.func_id, key)) is not None:
        raise Pending(held)
    job_id = insert_job(connection, statements, new, has_crossed=False)
    # A move may have taken the first job out of `job` in between.
    if has_crossed and (held := holder(source, connection, new.func_id, key)) is not None:
        ours = and_(job.id == job_id, job.grabbed_until == 0)
        if connection.execute(delete(tables.job).where(ours)).rowcount == 1:
            raise Pending(held)
    return job_id


def _locking(query: Select[Any]) -> Select[Any]:
    return query.with_for_update(read=True)


def holder(
    source: Source, connection: Connection, func_id: int, key: bytes, *, locking: bool = False
) -> Identity | None:
    """Who holds this key outside of `job`. `locking`: wait for open transactions."""
    spelt = _spelt(source, key)
    query = select(pending.batch, pending.seq).where(pending.func_id == func_id, pending.pending_key == spelt)
    row = connection.execute(_locking(query) if locking else query).first()
    return None if row is None else Identity(int(row[0]), int(row[1]))


def is_in_qudo(source: Source, connection: Connection, func_id: int, key: bytes, *, locking: bool = False) -> bool:
    """Whether a row of `job` has this key. `locking`: wait for open transactions."""
    query = select(job.id).where(job.func_id == func_id, job.uniqkey == _spelt(source, key)).limit(1)
    return connection.execute(_locking(query) if locking else query).first() is not None


def held_in_qudo(source: Source, connection: Connection, keys: Sequence[tuple[int, bytes]]) -> set[int]:
    """Which of these keys, each with its func id, rows of `job` have: their places in the list."""
    found: set[int] = set()
    for start in range(0, len(keys), _KEYS_PER_READ):
        looks: list[Select[Any]] = [
            select(literal_column(str(place)))
            .select_from(tables.job)
            .where(job.func_id == func_id, job.uniqkey == _spelt(source, key))
            for place, (func_id, key) in enumerate(keys[start : start + _KEYS_PER_READ], start)
        ]
        found.update(map(int, connection.execute(union_all(*looks), execution_options=UNCACHED).scalars()))
    return found


def _spelt(source: Source, key: bytes) -> Any:
    """SQL for a key as the column has it: the very bytes, in its character set and collation."""
    if source.is_sqlite:
        return cast(literal(key.decode()), SqlString)
    if source not in _collations:
        _collations[source] = key_collation(source)
    charset, collation = _collations[source]
    if charset is None:
        return literal(key)
    return literal_column(f"CONVERT(UNHEX('{key.hex()}') USING {charset}) COLLATE {collation}")

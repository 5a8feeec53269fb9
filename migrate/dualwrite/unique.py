"""Enqueues with a uniqkey: refused while another job under the key is pending, wherever that one is.

A collision is rare, and only then is Resque looked through for the job that holds the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NoReturn, TypeVar

from sqlalchemy import Connection

from migrate.dualwrite.handing import Handing
from migrate.dualwrite.planning import Planned
from migrate.dualwrite.source_side import SourceSide
from migrate.errors import Contention, DuplicateJob, SchemaError, TargetMismatch
from migrate.jobs import Identity, ResqueJob
from migrate.qudo import ddl, unique_keys
from migrate.qudo.binding import Binding
from migrate.qudo.unique_keys import InQudo, Pending
from migrate.resque import looking
from migrate.resque.enqueueing import Claim, KeyHeld
from migrate.resque.steps import KeyGuard
from migrate.resque.unique_keys import Spelling, folded, spelled

Result = TypeVar("Result")

#: Letters of a job's content that Redis keeps beside its key.
MOST_CONTENT = 4096
#: Tries of a transaction that loses a deadlock: who meets under one key may.
CONTENTION_TRIES = 5


def refuse(planned: Planned, where: str) -> NoReturn:
    """Raise DuplicateJob. The key is job data: it isn't named."""
    raise DuplicateJob(f"enqueue {planned.asked.func}: a job with this uniqkey is pending ({where})")


def insert_job(planned: Planned, handing: Handing) -> int:
    """Write a row of `job` in a transaction of its own; its id."""

    def write(connection: Connection, *, has_crossed: bool = True) -> int:
        statements, source, new = planned.side.writer.statements, planned.side.source, planned.new
        if source.facts().transactional:
            job_id = unique_keys.insert_job(connection, statements, new, has_crossed=has_crossed)
            check_redis(planned, handing)
            return job_id
        check_redis(planned, handing)
        return unique_keys.insert_job_leased(source, connection, statements, new, has_crossed=has_crossed)

    try:
        return _tried(planned, handing, write)
    except SchemaError:
        if not ddl.lacking(planned.side.source):
            raise
        return _tried(planned, handing, partial(write, has_crossed=False))


def insert_outbox(planned: Planned, handing: Handing, bound: Binding) -> Binding:
    """Write a row of the outbox in a transaction of its own; returns the binding under which it stands."""
    crossing = planned.crossing
    assert crossing is not None  # noqa: S101
    for current in (bound, None):
        held = current or planned.side.read_binding()

        def write(connection: Connection, target: str = held.target_id or "") -> bool:
            statements, identity = planned.side.writer.statements, crossing.job.identity
            decision = crossing.decision.id
            if not unique_keys.insert_outbox(
                connection, statements, planned.new, identity, decision, crossing.due, target
            ):
                raise TargetMismatch(f"source {planned.side.source.name}: it belongs to another Redis")
            check_redis(planned, handing)
            return True

        try:
            _tried(planned, handing, write)
        except TargetMismatch:
            if current is None:
                raise
            continue
        return held
    raise AssertionError


def _tried(planned: Planned, handing: Handing, write: Callable[[Connection], Result]) -> Result:
    """Write; when the key is held, once more if its holder is over."""
    contentions, freed = 0, False
    while True:
        try:
            with _alone(planned), planned.side.source.writing() as connection:
                return write(connection)
        except InQudo:
            refuse(planned, "in Qudo")
        except Pending as pending:
            holder = pending.holder or holder_in_source(planned)
            if freed or (holder is not None and not handing.free_if_over(planned.side, holder)):
                refuse(planned, "in Resque, or on its way there")
            freed = holder is not None
        except KeyHeld as held:
            if not handing.is_over(held.holder):
                refuse(planned, "in Resque")
            release_native(planned, handing, held.holder)
        except Contention:
            contentions += 1
            if contentions >= CONTENTION_TRIES:
                raise


@contextmanager
def _alone(planned: Planned) -> Iterator[None]:
    """Where `job` knows no transactions: hold the key's lock until the write is committed."""
    source = planned.side.source
    if source.facts().transactional:
        yield
        return
    with (
        source.reading() as connection,
        unique_keys.one_at_a_time(source, connection, planned.new.func_id, folded(planned.asked.uniqkey or "")),
    ):
        yield


def holder_in_source(planned: Planned) -> Identity | None:
    """Who holds the key outside of `job`, by a connection of its own."""
    source = planned.side.source
    with source.reading() as connection:
        return unique_keys.holder(source, connection, planned.new.func_id, planned.new.uniqkey or b"")


def check_redis(planned: Planned, handing: Handing) -> None:
    """Where jobs of the func may have been born in Resque, their keys count. Raises KeyHeld.

    A key that only Redis knows can't be asked for while Redis is away: then the job is accepted.
    """
    if planned.guard is KeyGuard.QUDO:
        return
    holder = handing.native_holder(planned.asked.func, _key(planned))
    if holder is not None:
        raise KeyHeld(holder)


def release_native(planned: Planned, handing: Handing, holder: str) -> None:
    """Free a key in Redis whose holder is over."""
    handing.release(planned.asked.func, Claim(planned.asked.func, _key(planned), holder))


def push_native(planned: Planned, handing: Handing) -> None:
    """Push a job born in Resque. While the source may hold keys too: claim in Redis, look there, then push."""
    job = planned.native
    assert job is not None  # noqa: S101
    claim = Claim(planned.asked.func, _key(planned), _holder(job))
    both = planned.guard is not KeyGuard.REDIS
    try:
        handing.push_native(job, claim, only_claim=both)
    except KeyHeld as held:
        if not handing.is_over(held.holder):
            refuse(planned, "in Resque")
        claim = claim._replace(over=held.holder)
        try:
            handing.push_native(job, claim, only_claim=both)
        except KeyHeld:
            refuse(planned, "in Resque")
    if both:
        try:
            _check_source(planned, handing)
        except BaseException:
            handing.release(planned.asked.func, claim)
            raise
        handing.push_native(job, claim)


def _check_source(planned: Planned, handing: Handing) -> None:
    """Raise DuplicateJob when the source holds the key, in `job` or outside of it."""
    side: SourceSide = planned.side
    key = planned.new.uniqkey or b""
    func_id = side.func_id(planned.asked.func)
    for _ in range(2):
        with side.source.reading() as connection:
            if unique_keys.is_in_qudo(side.source, connection, func_id, key, locking=True):
                refuse(planned, "in Qudo")
            holder = unique_keys.holder(side.source, connection, func_id, key, locking=True)
        if holder is None:
            return
        if not handing.free_if_over(side, holder):
            break
    refuse(planned, "in Resque, or on its way there")


def _holder(job: ResqueJob) -> str:
    """What names the job: its identity, and what it is where plugins and schedulers may drop that."""
    content = looking.content_of(job.payload)
    return f"{job.identity.text} {content if len(content) <= MOST_CONTENT else ''}"


def _key(planned: Planned) -> str:
    """The key as Redis has it."""
    spelling = Spelling.FOLDED if planned.note is None else planned.note.spelling
    return spelled(planned.asked.uniqkey or "", spelling)

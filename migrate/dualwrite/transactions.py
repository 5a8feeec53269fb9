"""Enqueues in the caller's transaction: the row is part of it, the hand-off follows its commit.

Only a connection to a source's own database will do: whether it is one is asked once for each engine, by the source's
id that stands there.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Engine, event, select
from sqlalchemy.exc import DBAPIError

from migrate.dualwrite import unique
from migrate.dualwrite.background import Background, Committed
from migrate.dualwrite.handing import Handing
from migrate.dualwrite.planning import Planned
from migrate.dualwrite.receipt import Receipt
from migrate.dualwrite.source_side import SourceSide
from migrate.errors import DuplicateJob, TargetMismatch, UsageError
from migrate.qudo import tables, unique_keys
from migrate.qudo.enqueueing import Statements
from migrate.qudo.faults import translated
from migrate.qudo.unique_keys import InQudo, Pending
from migrate.resque.enqueueing import KeyHeld
from migrate.resque.steps import Step

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, scoped_session


class Joined(NamedTuple):
    """A caller's connection, and the source that it is connected to."""

    side: SourceSide
    connection: Connection


class _Waiting(NamedTuple):
    """What one connection's transaction has written."""

    rows: list[Committed]
    shadows: list[tuple[Planned, int]]


class Transactions:
    """The callers' transactions of one process."""

    def __init__(self, sides: Mapping[str, SourceSide], background: Background) -> None:
        self._sides = sides
        self._background = background
        self._side_of: weakref.WeakKeyDictionary[Engine, SourceSide] = weakref.WeakKeyDictionary()
        self._source_ids: dict[str, SourceSide] = {}
        self._statements: dict[tuple[str, str], Statements] = {}
        self._waiting: weakref.WeakKeyDictionary[Connection, _Waiting] = weakref.WeakKeyDictionary()

    def join(
        self, given: Session | scoped_session[Session] | Connection | None, func: str, source: str | None
    ) -> Joined:
        """The caller's connection. Raises UsageError where a job can't be part of its transaction."""
        connection = given if isinstance(given, Connection) else _of_session(given, func)
        side = self._side_of.get(connection.engine)
        if side is None:
            side = self._side_of[connection.engine] = self._identify(connection, func)
        if source is not None and source != side.source.name:
            raise UsageError(f"enqueue {func}: the transaction is one of source {side.source.name}, not of {source}")
        return Joined(side, connection)

    def _identify(self, connection: Connection, func: str) -> SourceSide:
        if not self._source_ids:
            self._source_ids = {side.source_id(): side for side in self._sides.values()}
        query = select(tables.meta.c.value).where(tables.meta.c.name == "source")
        try:
            with connection.begin_nested():
                found = connection.execute(query).scalar_one_or_none()
        except DBAPIError:  # no such table, most likely
            found = None
        side = self._source_ids.get(str(found))
        if side is None:
            raise UsageError(
                f"enqueue {func}: the transaction's database is none of the sources ({', '.join(self._sides)})",
                advice="give a session or connection of the database that holds Qudo's tables, or none",
            )
        if not side.source.facts().transactional:
            raise UsageError(
                f"enqueue {func}: table job of source {side.source.name} knows no transactions"
                f" ({side.source.facts().job_engine})",
                advice="enqueue after the commit, or ALTER TABLE job ENGINE=InnoDB",
            )
        return side

    def enqueue(self, joined: Joined, planned: Planned, handing: Handing) -> Receipt:
        """Write the row in the caller's transaction. Raises as `Enqueuer.enqueue`."""
        if planned.step is Step.RESQUE:
            raise UsageError(
                f"enqueue {planned.asked.func}: on step resque there is no row that could be part of a transaction",
                advice="enqueue after the commit; or stay on step switched, where the job commits with its transaction",
            )
        side, name = joined.side, joined.side.source.name
        statements = self._statements_for(joined)
        try:
            if planned.step is Step.SWITCHED:
                crossing = planned.crossing
                assert crossing is not None  # noqa: S101
                self._insert_outbox(joined, planned, statements, handing)
                self._waits(joined.connection).rows.append(Committed(side, crossing))
                return Receipt(name, Step.SWITCHED, outbox=crossing.job.identity.text)
            job_id = self._insert_job(joined, planned, statements, handing)
        except DBAPIError as error:
            raise translated(name, error.orig) from error
        if planned.step is Step.MIRROR:
            self._waits(joined.connection).shadows.append((planned, job_id))
        return Receipt(name, planned.step, job_id=job_id)

    def _insert_outbox(self, joined: Joined, planned: Planned, statements: Statements, handing: Handing) -> None:
        side, connection, crossing = joined.side, joined.connection, planned.crossing
        assert crossing is not None  # noqa: S101
        bound = side.binding()
        side.record_decision(crossing.decision)
        identity, decision, due = crossing.job.identity, crossing.decision.id, crossing.due
        for held in (bound, None):
            target = (held or side.read_binding()).target_id or ""
            if planned.new.uniqkey is None:
                values = statements.outbox_values(planned.new, identity, decision, due, target)
                written = connection.execute(statements.insert_outbox, values).rowcount == 1
            else:
                self._look_first(planned, handing)
                try:
                    with connection.begin_nested():
                        written = unique_keys.insert_outbox(
                            connection, statements, planned.new, identity, decision, due, target
                        )
                        unique.check_redis(planned, handing)
                        if not written:
                            raise TargetMismatch("")
                except TargetMismatch:
                    written = False
                except (InQudo, Pending, KeyHeld) as error:
                    raise _duplicate(planned) from error
            if written:
                return
        raise TargetMismatch(f"source {side.source.name}: it belongs to no Redis, or its meta table is gone")

    def _insert_job(self, joined: Joined, planned: Planned, statements: Statements, handing: Handing) -> int:
        connection = joined.connection
        if planned.new.uniqkey is None:
            return int(connection.execute(statements.insert_job, statements.job_values(planned.new)).lastrowid)
        self._look_first(planned, handing)
        try:
            with connection.begin_nested():
                job_id = unique_keys.insert_job(connection, statements, planned.new)
                unique.check_redis(planned, handing)
                return job_id
        except (InQudo, Pending, KeyHeld) as error:
            raise _duplicate(planned) from error

    @staticmethod
    def _look_first(planned: Planned, handing: Handing) -> None:
        """Free the key of a job that is over, by connections of our own.

        Once the caller's transaction has met the holder's row, it has locked it, and nobody can free it any more.
        """
        holder = unique.holder_in_source(planned)
        if holder is not None:
            handing.free_if_over(planned.side, holder)
        try:
            unique.check_redis(planned, handing)
        except KeyHeld as held:
            if handing.is_over(held.holder):
                unique.release_native(planned, handing, held.holder)

    def _statements_for(self, joined: Joined) -> Statements:
        dialect = joined.connection.dialect
        key = (joined.side.source.name, f"{dialect.name}+{dialect.driver}")
        if key not in self._statements:
            self._statements[key] = Statements(joined.side.source, dialect)
        return self._statements[key]

    # --- the commit ---

    def _waits(self, connection: Connection) -> _Waiting:
        """What waits for this connection's commit; it is listened to from now on.

        The event comes before the commit, so it is only a hint when to look; see `background.py`.
        """
        waiting = self._waiting.get(connection)
        if waiting is None:
            waiting = self._waiting[connection] = _Waiting([], [])
            for name in ("commit", "commit_twophase"):
                event.listen(connection, name, self._committing)
            for name in ("rollback", "rollback_twophase"):
                event.listen(connection, name, self._rolled_back)
        return waiting

    def _committing(self, connection: Connection, *_: Any) -> None:
        waiting = self._waiting.get(connection)
        if waiting is not None:
            rows, shadows = list(waiting.rows), list(waiting.shadows)
            waiting.rows.clear()
            waiting.shadows.clear()
            self._background.committing(rows)
            for planned, job_id in shadows:
                self._background.shadow(planned, job_id)

    def _rolled_back(self, connection: Connection, *_: Any) -> None:
        waiting = self._waiting.get(connection)
        if waiting is not None:
            waiting.rows.clear()
            waiting.shadows.clear()


def _of_session(session: Any, func: str) -> Connection:
    connection = session.connection() if hasattr(session, "connection") else None
    if not isinstance(connection, Connection):
        raise UsageError(
            f"enqueue {func}: session must be a SQLAlchemy Session, connection a SQLAlchemy Connection",
            advice="of an AsyncSession: AsyncEnqueuer",
        )
    return connection


def _duplicate(planned: Planned) -> DuplicateJob:
    return DuplicateJob(f"enqueue {planned.asked.func}: a job with this uniqkey is pending")

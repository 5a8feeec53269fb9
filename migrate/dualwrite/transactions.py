"""Enqueues in the caller's transaction: the row is part of it, the hand-off follows its commit.

Only a connection to a source's own database will do: whether it is one is asked once for each engine, by the source's
id that stands there.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Engine, event, select
from sqlalchemy.exc import DBAPIError, UnboundExecutionError

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
from migrate.resque.steps import KeyGuard, Step

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, scoped_session


class Joined(NamedTuple):
    """A caller's connection, and the source that it is connected to."""

    side: SourceSide
    connection: Connection


class _Waiting(NamedTuple):
    """What one connection's transaction has written."""

    rows: list[tuple[int, Committed]]  #: each with the number of the savepoint in which it was written
    shadows: list[tuple[int, Planned, int]]

    def cut(self, savepoint: int = 0) -> None:
        """Forget what was written since that savepoint: numbers only grow."""
        self.rows[:] = [each for each in self.rows if each[0] < savepoint]
        self.shadows[:] = [each for each in self.shadows if each[0] < savepoint]


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
        _refuse_autocommit(connection, func)
        side = self._side_of.get(connection.engine)
        if side is None:
            side = self._side_of[connection.engine] = self._identify(connection, func)
        if source is not None and source != side.source.name:
            raise UsageError(f"enqueue {func}: the transaction is one of source {side.source.name}, not of {source}")
        return Joined(side, connection)

    def prepare(self) -> None:
        """Read the sources' ids, once."""
        if not self._source_ids:
            self._source_ids = {side.source_id(): side for side in self._sides.values()}

    def _identify(self, connection: Connection, func: str) -> SourceSide:
        self.prepare()
        query = select(tables.meta.c.value).where(tables.meta.c.name == "source")
        if connection.dialect.name == "sqlite":
            side = self._side_of_file(connection)
        else:
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

    def _side_of_file(self, connection: Connection) -> SourceSide | None:
        """By the file: reading a table would lock it until the commit, and keep our own connections from writing."""
        for row in connection.exec_driver_sql("PRAGMA database_list").all():
            for side in self._sides.values():
                file = side.source.url.database if side.source.is_sqlite else None
                if row[1] == "main" and row[2] and file and Path(file).exists() and Path(file).samefile(row[2]):
                    return side
        return None

    def enqueue(self, joined: Joined, planned: Planned, handing: Handing) -> Receipt:
        """Write the row in the caller's transaction. Raises as `Enqueuer.enqueue`."""
        if planned.new.uniqkey is not None and planned.guard is KeyGuard.REDIS:
            raise UsageError(
                f"enqueue {planned.asked.func}: its uniqkeys are held in Redis alone by now, and a transaction's job"
                " needs the source",
                advice="enqueue after the commit; or qudo-migrate cutover back, to step switched",
            )
        side, name = joined.side, joined.side.source.name
        _begin_sqlite(joined.connection)
        statements = self._statements_for(joined)
        try:
            if planned.step is Step.SWITCHED:
                crossing = planned.crossing
                assert crossing is not None  # noqa: S101
                self._insert_outbox(joined, planned, statements, handing)
                self._waits(joined.connection).rows.append((_savepoint(joined.connection), Committed(side, crossing)))
                return Receipt(name, Step.SWITCHED, outbox=crossing.job.identity.text)
            job_id = self._insert_job(joined, planned, statements, handing)
        except DBAPIError as error:
            raise translated(name, error.orig) from error
        if planned.step is Step.MIRROR:
            self._waits(joined.connection).shadows.append((_savepoint(joined.connection), planned, job_id))
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
            event.listen(connection, "rollback_savepoint", self._rolled_back_to)
        return waiting

    def _committing(self, connection: Connection, *_: Any) -> None:
        waiting = self._waiting.get(connection)
        if waiting is not None:
            rows, shadows = list(waiting.rows), list(waiting.shadows)
            waiting.cut()
            self._background.committing([row[1] for row in rows])
            for each in shadows:
                self._background.shadow(each[1], each[2])

    def _rolled_back(self, connection: Connection, *_: Any) -> None:
        waiting = self._waiting.get(connection)
        if waiting is not None:
            waiting.cut()

    def _rolled_back_to(self, connection: Connection, name: str, *_: Any) -> None:
        waiting = self._waiting.get(connection)
        if waiting is not None:
            waiting.cut(_number(name))


def _savepoint(connection: Connection) -> int:
    """The innermost savepoint. SQLAlchemy's `savepoint` event would tell, but comes before it has a name."""
    nested: Any = connection.get_nested_transaction()
    return _number(getattr(nested, "_savepoint", None))


def _number(name: str | None) -> int:
    """Of sa_savepoint_3: 3."""
    digits = (name or "").rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0


def _refuse_autocommit(connection: Connection, func: str) -> None:
    """Raise UsageError where each statement commits by itself: a rollback would leave the job."""
    default = getattr(connection.dialect, "_on_connect_isolation_level", None)
    if connection.get_execution_options().get("isolation_level", default) == "AUTOCOMMIT":
        raise UsageError(
            f"enqueue {func}: the connection commits each statement (AUTOCOMMIT)",
            advice="give a connection that is in a transaction, or none",
        )


def _begin_sqlite(connection: Connection) -> None:
    """Begin what the driver has not begun yet.

    Python's sqlite3 begins with the first INSERT only; a savepoint before it is the transaction itself, and its
    release a commit that the caller did not ask for.
    """
    if connection.dialect.name == "sqlite" and not getattr(
        connection.connection.driver_connection, "in_transaction", True
    ):
        connection.exec_driver_sql("BEGIN")


def _of_session(session: Any, func: str) -> Connection:
    try:
        connection = session.connection() if hasattr(session, "connection") else None
    except UnboundExecutionError as error:
        raise UsageError(
            f"enqueue {func}: the session has several databases, and none of them by default",
            advice='name one: connection=session.connection(bind_arguments={"mapper": Order})',
        ) from error
    if not isinstance(connection, Connection):
        raise UsageError(
            f"enqueue {func}: session must be a SQLAlchemy Session, connection a SQLAlchemy Connection",
            advice="of an AsyncSession: AsyncEnqueuer",
        )
    return connection


def _duplicate(planned: Planned) -> DuplicateJob:
    return DuplicateJob(f"enqueue {planned.asked.func}: a job with this uniqkey is pending")

"""What an enqueue writes into a source: a row of `job`, as Qudo does, or one of the outbox. Writes those and `func`.

One statement each. Their text is made by SQLAlchemy once for each driver and then given to the driver's own cursor:
building, compiling and running a Core statement costs a third of what the INSERT itself takes (measured: 90 of 260 us).
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Dialect,
    Executable,
    Integer,
    LargeBinary,
    NullPool,
    String,
    bindparam,
    create_engine,
    func,
    insert,
    literal,
    null,
    select,
)

from migrate.errors import Contention
from migrate.jobs import Identity
from migrate.qudo import tables
from migrate.qudo.faults import database_faults, translated
from migrate.qudo.source import CONNECT_TIMEOUT_SECONDS, LOCK_WAIT_SECONDS, Source

#: Connections that are kept between two enqueues of one process.
KEPT_CONNECTIONS = 16
#: Seconds without use after which a connection is asked whether it still lives.
IDLE_SECONDS = 5.0


class NewJob(NamedTuple):
    """A job that is to be written. Times are Unix seconds of this process's clock, as Qudo's clients have it."""

    func_id: int
    arg: bytes | None
    uniqkey: bytes | None
    enqueue_time: int
    run_after: int
    priority: int


class _Prepared:
    """A statement as one driver takes it."""

    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self.text: str = compiled.string
        names: Sequence[str] | None = compiled.positiontup
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._names = names
        self._constants = constants

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """The values in the driver's form."""
        found = {**self._constants, **values} if self._constants else values
        return found if self._names is None else tuple([found[name] for name in self._names])


class Statements:
    """The statements of an enqueue for one kind of source and one driver."""

    def __init__(self, source: Source, dialect: Dialect, *, lease: int = 0) -> None:
        """`lease`: with which a row of `job` is written."""
        text = String() if source.is_sqlite else LargeBinary()
        row = {
            "func_id": bindparam("func_id", type_=Integer),
            "arg": bindparam("arg", type_=LargeBinary),
            "uniqkey": bindparam("uniqkey", type_=text),
            "enqueue_time": bindparam("enqueue_time", type_=Integer),
            "grabbed_until": literal(lease, Integer),
            "run_after": bindparam("run_after", type_=Integer),
            "retry_cnt": literal(0, Integer),
            "priority": bindparam("priority", type_=Integer),
        }
        self.insert_job = insert(tables.job).values(row)
        # The row exists only if the source still belongs to the target that this process knows: no push to a Redis
        # that a person has replaced meanwhile.
        later = func.max if source.is_sqlite else func.greatest
        written = {
            "batch": bindparam("batch", type_=BigInteger),
            "seq": bindparam("seq", type_=Integer),
            "decision": bindparam("decision", type_=BigInteger),
            "moved_at": source.clock,
            "job_id": null(),
            **row,
            "uniqkey": bindparam("uniqkey", type_=LargeBinary),
            "due": later(source.clock, bindparam("due", type_=Integer)),
        }
        belongs = (tables.meta.c.name == "target") & (tables.meta.c.value == bindparam("target"))
        values: list[Any] = list(written.values())
        rows = select(*values).select_from(tables.meta).where(belongs)
        self.insert_outbox = insert(tables.outbox).from_select(list(written), rows)
        self._dialect = dialect
        self._is_sqlite = source.is_sqlite

    @cached_property
    def job(self) -> _Prepared:
        """The row of `job`."""
        return _Prepared(self.insert_job, self._dialect)

    @cached_property
    def outbox(self) -> _Prepared:
        """The row of the outbox."""
        return _Prepared(self.insert_outbox, self._dialect)

    def job_values(self, job: NewJob) -> dict[str, Any]:
        """The parameters of `job`."""
        values = job._asdict()
        if self._is_sqlite and job.uniqkey is not None:
            values["uniqkey"] = job.uniqkey.decode()
        return values

    @staticmethod
    def outbox_values(job: NewJob, identity: Identity, decision: int, due: int, target_id: str) -> dict[str, Any]:
        """The parameters of `outbox`."""
        return {
            **job._asdict(),
            "batch": identity.batch,
            "seq": identity.seq,
            "decision": decision,
            "due": due,
            "target": target_id,
        }


def make_func(source: Source, name: str) -> None:
    """Make the row of a func that Qudo doesn't know, or leave it to another process that was faster."""
    value: str | bytes = name if source.is_sqlite else name.encode()
    with contextlib.suppress(Contention), source.writing() as connection:
        connection.execute(insert(tables.func).from_select(["name"], select(literal(value))))


class Writer:
    """Writes single rows into one source, each committed by itself. Usable from threads, and in a fork."""

    def __init__(self, source: Source) -> None:
        self._source = source
        arguments: dict[str, Any] = {}
        if source.is_sqlite:
            arguments = {"timeout": LOCK_WAIT_SECONDS, "check_same_thread": False}
        elif source.url.get_driver_name() == "pymysql":
            arguments = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "read_timeout": 30, "write_timeout": 30}
        with database_faults(source.name):
            self._engine = create_engine(
                source.url,
                connect_args=arguments,
                hide_parameters=True,
                poolclass=NullPool,
                isolation_level="AUTOCOMMIT",
            )
        self.statements = Statements(source, self._engine.dialect)
        self._errors: tuple[type[BaseException], ...] = (self._engine.dialect.loaded_dbapi.Error,)
        self._idle: deque[tuple[Any, float]] = deque()

    def insert_job(self, job: NewJob) -> int:
        """Write a row of `job`; its id. Raises Unavailable: then it is unknown whether the row is there."""
        prepared = self.statements.job
        return int(self._execute(prepared.text, prepared.parameters(self.statements.job_values(job))).lastrowid)

    def insert_outbox(self, job: NewJob, identity: Identity, decision: int, due: int, target_id: str) -> bool:
        """Write a row of the outbox; False: the source belongs to another target, nothing was written."""
        prepared = self.statements.outbox
        values = self.statements.outbox_values(job, identity, decision, due, target_id)
        return bool(self._execute(prepared.text, prepared.parameters(values)).rowcount == 1)

    def _execute(self, statement: str, parameters: Any) -> Any:
        connection = self._borrow()
        try:
            cursor = connection.cursor()
            cursor.execute(statement, parameters)
            cursor.close()
        except self._errors as error:
            self._drop(connection)
            raise translated(self._source.name, error) from error
        except BaseException:
            self._drop(connection)
            raise
        self._idle.append((connection, time.monotonic()))
        if len(self._idle) > KEPT_CONNECTIONS:
            self._drop(self._idle.popleft()[0])
        return cursor

    def _borrow(self) -> Any:
        """A live connection: the one used last, or a new one."""
        while self._idle:
            try:
                connection, used_at = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() - used_at < IDLE_SECONDS or self._lives(connection):
                return connection
            self._drop(connection)
        with database_faults(self._source.name):
            fairy = self._engine.raw_connection()
        connection = fairy.dbapi_connection
        fairy.detach()
        return connection

    def _lives(self, connection: Any) -> bool:
        try:
            return bool(self._engine.dialect.do_ping(connection))
        except self._errors:
            return False

    def _drop(self, connection: Any) -> None:
        try:
            connection.close()
        except self._errors:
            return

    def forget_inherited(self) -> None:
        """In a forked child: the parent's connections are the parent's, and stay open: closing would end them there."""
        _inherited.append(self._idle)
        self._idle = deque()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._drop(self._idle.pop()[0])


#: Connections of a parent process, kept from being closed by the garbage collector of its child.
_inherited: list[Any] = []

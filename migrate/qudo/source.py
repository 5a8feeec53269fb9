"""A source: one Qudo database, its connections and what the server is like.

Reads server variables and the catalogue; writes nothing but session settings.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    Integer,
    NullPool,
    create_engine,
    event,
    literal_column,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError

from migrate.errors import SchemaError, Unavailable, UsageError
from migrate.qudo.faults import database_faults

#: Seconds that connecting may take, the server's greeting included.
CONNECT_TIMEOUT_SECONDS = 10
#: Seconds without a byte from the server before a connection is given up: longer than any statement of ours takes.
READ_TIMEOUT_SECONDS = 120
#: Seconds to wait for a row lock; apps and workers hold theirs for milliseconds.
LOCK_WAIT_SECONDS = 5
#: Seconds to wait for a row lock in the last look: an app's transaction that is open longer is reported instead.
LAST_LOOK_WAIT_SECONDS = 1

#: Seconds without a word from us after which the server ends a connection of ours, with its locks: a host that vanished
#: would keep them for MySQL's eight hours. A process that slept longer finds its connection lost, and begins anew.
IDLE_SECONDS = 120

#: Bytes that joined rows may have (the server's default is 1,024); beyond `max_allowed_packet` they are cut short.
AGGREGATE_BYTES = 4 * 1024 * 1024

#: The MySQL client's number for a connection that was there and is lost (CR_SERVER_LOST).
_LOST = 2013

#: Ours, whatever the server's default: values that don't fit are errors, never cut short.
_SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"

QUDO_TABLES = ("func", "job", "exception_log", "job_status")


class ServerFacts(msgspec.Struct, frozen=True):
    """What the server of one source is like. None: it doesn't say, or the question makes no sense there."""

    product: str  #: MySQL, MariaDB or SQLite
    version: str
    job_engine: str  #: InnoDB, MyISAM, …; SQLite
    transactional: bool  #: a move is one transaction; else rows are claimed by lease, as MyISAM needs
    our_engine: str | None  #: the engine our own tables get
    binlog_format: str | None  #: None: no binary log
    flush_at_commit: int | None  #: innodb_flush_log_at_trx_commit
    sync_binlog: int | None
    read_only: bool


class Source:
    """One Qudo database. Usable from several threads; connections are made when asked for."""

    def __init__(self, name: str, url: str) -> None:
        """Raises UsageError for a url that SQLAlchemy can't read. Opens nothing."""
        self.name = name
        try:
            self.url: URL = make_url(url)
        except (ArgumentError, ValueError):  # their words can hold a piece of the password
            raise UsageError(
                f"source {name}: its url can't be read",
                advice="write mysql+pymysql://user:password@host:port/database, odd characters as %XX",
            ) from None
        if self.url.get_backend_name() not in ("mysql", "mariadb", "sqlite"):
            raise UsageError(f"source {name}: {self.url.get_backend_name()}: only mysql, mariadb and sqlite are known")
        self.label = self.url.render_as_string(hide_password=True)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = self._make_engine()
        self._facts: ServerFacts | None = None
        self._repeatable_read = False

    def _make_engine(self) -> Engine:
        arguments: dict[str, Any] = {}
        if self.is_sqlite:
            arguments["timeout"] = LOCK_WAIT_SECONDS
        elif self.url.get_driver_name() == "pymysql":
            arguments = {
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "read_timeout": CONNECT_TIMEOUT_SECONDS,  # for the greeting; `_connect` raises it
                "write_timeout": READ_TIMEOUT_SECONDS,
            }
        with database_faults(self.name):
            # A pool of SQLite connections would keep the file open for good; MySQL's are kept for a short while.
            kind: dict[str, Any] = {"poolclass": NullPool} if self.is_sqlite else {"pool_size": 4, "pool_recycle": 60}
            try:
                engine = create_engine(self.url, connect_args=arguments, hide_parameters=True, **kind)
            except ModuleNotFoundError as error:
                driver = self.url.get_driver_name()
                raise UsageError(f"source {self.name}: the driver {driver} isn't installed: {error}") from error
        event.listen(engine, "do_connect", self._connect)
        if self.is_sqlite:
            _begin_explicitly(engine)
        else:
            event.listen(engine, "connect", self._set_session)
        return engine

    def _connect(self, dialect: Any, _record: object, positional: Any, named: Any) -> Any:
        """Connect as SQLAlchemy would; options of the url that the driver doesn't know are the operator's mistake."""
        try:
            connection = dialect.connect(*positional, **named)
        except TypeError as error:
            raise UsageError(f"source {self.name}: an option in its url: {error}") from error
        except Exception as error:
            if error.args[:1] != (_LOST,) or not isinstance(error.__context__, TimeoutError):
                raise
            raise Unavailable(
                f"source {self.name}: no greeting from the server within {CONNECT_TIMEOUT_SECONDS} s",
                advice="it hangs, or another service listens there: check host and port in the source's url",
            ) from error
        if self.url.get_driver_name() == "pymysql":
            connection._read_timeout = READ_TIMEOUT_SECONDS  # PyMySQL has one for greeting and statements
        return connection

    def _set_session(self, connection: Any, _record: object) -> None:
        """Settings of each new MySQL connection."""
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(
                f"SET SESSION sql_mode = '{_SQL_MODE}', SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS},"
                f" SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS * 6},"
                f" SESSION wait_timeout = CAST(LEAST(@@wait_timeout, {IDLE_SECONDS}) AS UNSIGNED),"
                f" SESSION group_concat_max_len = {AGGREGATE_BYTES}"
            )
            cursor.execute("SELECT @@log_bin, @@binlog_format")
            log_bin, binlog_format = cursor.fetchone()
            level = "READ COMMITTED"
            if log_bin and str(binlog_format).upper() == "STATEMENT":
                # Seen: READ COMMITTED fails with 1665 under statement binlogs. ROW needs a right that not all have.
                try:
                    cursor.execute("SET SESSION binlog_format = 'ROW'")
                except Exception:  # noqa: BLE001  the driver isn't known here; the fallback is always right
                    level = "REPEATABLE READ"
            self._repeatable_read = level == "REPEATABLE READ"
            cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
        connection.commit()

    @property
    def dialect(self) -> Dialect:
        """By which statements are compiled for this server."""
        return self._engine.dialect

    def count_statements(self) -> Callable[[], int]:
        """Begin to count what is sent to the server, commits and rollbacks too; gives the number so far."""
        sent, lock = 0, threading.Lock()

        def count(*_: object) -> None:
            nonlocal sent
            with lock:
                sent += 1

        for kind in ("before_cursor_execute", "commit", "checkin"):  # a connection is rolled back as it returns
            event.listen(self._engine, kind, count)
        return lambda: sent

    @property
    def small_moves(self) -> bool:
        """Moves must stay small: REPEATABLE READ locks the gap at the table's end, and enqueues wait for it."""
        return self._repeatable_read

    @property
    def moves_overlap(self) -> bool:
        """Two moves of other rows never wait for each other: they lock rows by their key, and no gaps."""
        return self.facts().transactional and not self.is_sqlite and not self.small_moves

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reads; what it began is rolled back at the end, so no snapshot outlives the block."""
        self._check_file()
        with database_faults(self.name), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        self._check_file()
        with (
            database_faults(self.name),
            self._engine.connect().execution_options(qudo_migrate_writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextlib.contextmanager
    def polling(self) -> Iterator[Connection]:
        """A connection for reads over a long time: each statement is a snapshot of its own, and the only one sent."""
        self._check_file()
        with database_faults(self.name), self._engine.connect() as connection:
            # SQLite: our own BEGIN is left out, as it would lock the file until somebody ends it.
            options = {"qudo_migrate_polls": True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
            yield connection.execution_options(**options)

    @contextlib.contextmanager
    def last_look(self) -> Iterator[Connection]:
        """A connection for locking reads that wait a second, no longer, for what open transactions wrote."""
        if self.is_sqlite:
            with self.writing() as connection:
                yield connection
            return
        with self.reading() as connection:
            connection.execute(text(f"SET SESSION innodb_lock_wait_timeout = {LAST_LOOK_WAIT_SECONDS}"))
            try:
                yield connection
            finally:
                if not connection.invalidated:
                    connection.rollback()
                    connection.execute(text(f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}"))

    def _check_file(self) -> None:
        """SQLite makes a missing file; a mistyped path must not become an empty database."""
        if self.is_sqlite and not (self.url.database and Path(self.url.database).is_file()):
            raise SchemaError(f"source {self.name}: {self.url.database}: no such file")

    def facts(self) -> ServerFacts:
        """What the server is like; asked once. Raises SchemaError when this is no Qudo database."""
        if self._facts is None:
            with self.reading() as connection:
                self._facts = _sqlite_facts(self, connection) if self.is_sqlite else _mysql_facts(self, connection)
        return self._facts

    def now(self, connection: Connection) -> int:
        """The server's clock, Unix seconds: Qudo's workers judge leases and delays by it too."""
        return int(connection.execute(select(self.clock)).scalar_one())

    @property
    def clock(self) -> ColumnElement[int]:
        """SQL for the server's Unix second."""
        return literal_column(
            "CAST(strftime('%s','now') AS INTEGER)" if self.is_sqlite else "UNIX_TIMESTAMP()", Integer
        )

    def forget_connections(self) -> None:
        """Drop pooled connections, after a fault: each may be as dead as the one that failed."""
        self._engine.dispose()

    def forget_inherited(self) -> None:
        """In a forked child: pooled connections are the parent's, and stay open for it."""
        self._engine.dispose(close=False)

    close = forget_connections


def _begin_explicitly(engine: Engine) -> None:
    """SQLite: begin when SQLAlchemy says so, and take the write lock at once when the block will write.

    The driver's own way begins late; a transaction that read first can't always get the write lock later.
    """

    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.create_function("sha2", 2, _sha2, deterministic=True)

    def begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("qudo_migrate_polls", False):
            return
        writes = options.get("qudo_migrate_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)


def _sha2(value: bytes | str | None, _bits: int) -> str | None:
    """MySQL's SHA2(…, 224), which SQLite lacks."""
    if value is None:
        return None
    return hashlib.sha224(value.encode() if isinstance(value, str) else value).hexdigest()


def _sqlite_facts(source: Source, connection: Connection) -> ServerFacts:
    found = set(connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars())
    _check_tables(source, found)
    return ServerFacts(
        product="SQLite",
        version=str(connection.execute(text("SELECT sqlite_version()")).scalar_one()),
        job_engine="SQLite",
        transactional=True,
        our_engine=None,
        binlog_format=None,
        flush_at_commit=None,
        sync_binlog=None,
        read_only=False,
    )


def _mysql_facts(source: Source, connection: Connection) -> ServerFacts:
    tables = {
        str(name): str(engine)
        for name, engine in connection.execute(
            text(
                "SELECT table_name, engine FROM information_schema.tables"
                " WHERE table_schema = DATABASE() AND engine IS NOT NULL"
            )
        )
    }
    _check_tables(source, set(tables))
    version = str(connection.execute(text("SELECT VERSION()")).scalar_one())
    log_bin = _variable(connection, "log_bin")
    engines = {str(row[0]).upper(): str(row[1]).upper() for row in connection.execute(text("SHOW ENGINES"))}
    has_innodb = engines.get("INNODB") in ("YES", "DEFAULT")
    return ServerFacts(
        product="MariaDB" if "mariadb" in version.lower() else "MySQL",
        version=version,
        job_engine=tables["job"],
        transactional=tables["job"].upper() == "INNODB",
        our_engine="InnoDB" if has_innodb else "MyISAM",
        binlog_format=str(_variable(connection, "binlog_format")) if str(log_bin) in ("1", "ON") else None,
        flush_at_commit=_integer(_variable(connection, "innodb_flush_log_at_trx_commit")),
        sync_binlog=_integer(_variable(connection, "sync_binlog")),
        read_only=str(_variable(connection, "read_only")) in ("1", "ON"),
    )


def _variable(connection: Connection, name: str) -> object:
    """A server variable, or None where the server doesn't know it (SHOW never fails, SELECT @@x does)."""
    row = connection.execute(text("SHOW GLOBAL VARIABLES LIKE :name"), {"name": name}).first()
    return None if row is None else row[1]


def _integer(value: object) -> int | None:
    return int(str(value)) if value is not None and str(value).isdigit() else None


def _check_tables(source: Source, found: set[str]) -> None:
    lacking = [name for name in QUDO_TABLES if name not in found]
    if lacking:
        raise SchemaError(
            f"source {source.name}: not a Qudo database: no table {', '.join(lacking)} in {source.label}",
            advice="check the database name in the source's url",
        )

"""One Qudo database and one connection to it, the same for MySQL and SQLite.

SQL is written with `%s` for parameters (and `%%` for a percent sign, when there are any parameters). Texts of Qudo's
VARCHAR columns go through `text()`: it writes them as the shop's client would have sent them, byte for byte.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = tuple[Any, ...]
Params = Sequence[object]


class Session(abc.ABC):
    """One open connection. Each statement commits by itself, unless inside `transaction()`. Not for many threads."""

    @property
    @abc.abstractmethod
    def clock(self) -> str:
        """SQL for the time that Qudo's Find uses, Unix seconds."""

    @abc.abstractmethod
    def execute(self, sql: str, params: Params = ()) -> int:
        """Run a statement; the number of rows that matched, as DBI tells it."""

    @abc.abstractmethod
    def insert(self, sql: str, params: Params = ()) -> int:
        """Run an INSERT; the new id."""

    @abc.abstractmethod
    def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """All rows of a query."""

    @abc.abstractmethod
    def text(self, value: str | bytes | None) -> str:
        """SQL for a text: a str is sent as UTF-8, bytes as they are."""

    @abc.abstractmethod
    def arg(self, value: bytes | None) -> str:
        """SQL for a job argument, stored as Qudo's database driver stores it."""

    @abc.abstractmethod
    def as_bytes(self, column: str) -> str:
        """SQL for a column's bytes, whatever its type and character set."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connection. May be called twice."""

    def value(self, sql: str, params: Params = ()) -> Any:
        """The one value of a query."""
        ((result, *_), *_) = self.rows(sql, params)
        return result

    def now(self) -> int:
        """The server's clock, Unix seconds."""
        return int(self.value(f"SELECT {self.clock}"))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end, or roll back what failed."""
        self.execute("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")


class Database(abc.ABC):
    """One Qudo database with its four tables. Usable from any thread; survives a restart of its server."""

    name: str
    #: InnoDB, MyISAM or SQLite.
    engine: str
    #: The character set of its tables, and of the clients that fill them.
    charset: str
    #: Appears in the URL (quoted as URLs need it) and must appear nowhere else. Empty for SQLite.
    password: str

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._session: Session | None = None

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """SQLAlchemy's URL, user and password in it."""

    @abc.abstractmethod
    def session(self) -> Session:
        """A new connection with the account of `url`; whoever asked for it closes it."""

    @abc.abstractmethod
    def load_dump(self, path: Path) -> None:
        """Run a file of SQL byte for byte; its tables replace those that exist."""

    @abc.abstractmethod
    def _admin_session(self, old: Session | None) -> Session:
        """A live connection that may do anything: `old` if it still lives."""

    @property
    def transactional(self) -> bool:
        """Whether a transaction holds here."""
        return self.engine != "MyISAM"

    def execute(self, sql: str, params: Params = ()) -> int:
        """Run a statement with all rights; the number of rows that matched."""
        with self._admin() as session:
            return session.execute(sql, params)

    def insert(self, sql: str, params: Params = ()) -> int:
        """Run an INSERT; the new id."""
        with self._admin() as session:
            return session.insert(sql, params)

    def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """All rows of a query."""
        with self._admin() as session:
            return session.rows(sql, params)

    def value(self, sql: str, params: Params = ()) -> Any:
        """The one value of a query."""
        with self._admin() as session:
            return session.value(sql, params)

    def count(self, table: str = "job", where: str = "1 = 1") -> int:
        """The number of rows of a table."""
        return int(self.value(f"SELECT COUNT(*) FROM {table} WHERE {where}"))

    def now(self) -> int:
        """The server's clock, Unix seconds."""
        with self._admin() as session:
            return session.now()

    def text(self, value: str | bytes | None) -> str:
        """As Session.text."""
        with self._admin() as session:
            return session.text(value)

    def arg(self, value: bytes | None) -> str:
        """As Session.arg."""
        with self._admin() as session:
            return session.arg(value)

    def as_bytes(self, column: str) -> str:
        """As Session.as_bytes."""
        with self._admin() as session:
            return session.as_bytes(column)

    def close(self) -> None:
        """Close the admin connection; the next statement opens another."""
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None

    @contextlib.contextmanager
    def _admin(self) -> Iterator[Session]:
        with self._lock:
            self._session = self._admin_session(self._session)
            yield self._session

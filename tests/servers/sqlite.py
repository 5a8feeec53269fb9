"""A Qudo database in an SQLite file."""

from __future__ import annotations

import re
import sqlite3
import time
from pathlib import Path

from tests.servers import qudo_schema
from tests.servers.databases import Database, Params, Row, Session

#: Seconds to wait for a file that another connection has locked.
_BUSY_SECONDS = 30.0


class SQLiteSession(Session):
    """One connection to a file."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, _BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        # Perl's driver stores whatever bytes it was given as TEXT.
        self._connection.text_factory = _text_or_bytes

    @property
    def clock(self) -> str:
        # Qudo's driver does just this: SQLite has no server with a clock of its own.
        return str(int(time.time()))

    def execute(self, sql: str, params: Params = ()) -> int:
        return self._connection.execute(_question_marks(sql, params), tuple(params)).rowcount

    def insert(self, sql: str, params: Params = ()) -> int:
        return self._connection.execute(_question_marks(sql, params), tuple(params)).lastrowid or 0

    def rows(self, sql: str, params: Params = ()) -> list[Row]:
        return self._connection.execute(_question_marks(sql, params), tuple(params)).fetchall()

    def text(self, value: str | bytes | None) -> str:
        if value is None:
            return "NULL"
        data = value.encode() if isinstance(value, str) else value
        return f"CAST(X'{data.hex()}' AS TEXT)"

    def arg(self, value: bytes | None) -> str:
        # Qudo's schema class names no column types, so the driver binds arguments as TEXT, not as BLOB.
        return self.text(value)

    def as_bytes(self, column: str) -> str:
        return f"CAST({column} AS BLOB)"

    def close(self) -> None:
        self._connection.close()


class SQLiteDatabase(Database):
    """A file with Qudo's tables."""

    engine = "SQLite"
    charset = "utf8"
    password = ""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.name = path.name
        for statement in qudo_schema.SQLITE:
            self.execute(statement)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def session(self) -> SQLiteSession:
        return SQLiteSession(self.path)

    def load_dump(self, path: Path) -> None:
        raise NotImplementedError("the dumps are MySQL's: tests.qudo_app.copy_tables brings their rows here")

    def _admin_session(self, old: Session | None) -> Session:
        return old or self.session()


def _question_marks(sql: str, params: Params) -> str:
    """As MySQL's driver has it: with parameters `%s` is one and `%%` a percent sign, without them `%` is itself."""
    return re.sub("%(.)", lambda match: "?" if match[1] == "s" else match[1], sql) if params else sql


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value

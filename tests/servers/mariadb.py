"""MariaDB (or MySQL), light enough for tests; Qudo databases in it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pymysql
from pymysql.constants import CLIENT
from sqlalchemy import URL, make_url

from tests.servers import qudo_schema
from tests.servers.binaries import need_program
from tests.servers.databases import Database, Params, Row, Session
from tests.servers.guard import GUARD
from tests.servers.process import Option, Server

#: Seconds to connect, and to wait for the answer to a statement.
_CONNECT_SECONDS, _ANSWER_SECONDS = 10, 300

#: A password that needs quoting in URLs, so that forgetting it shows.
PASSWORD = "pa55:w/rd@qudo"

#: Also the size in the template: a server with another size would first rebuild its log.
_LOG_FILE_SIZE = "64M"

_names = itertools.count(1)


class Account(NamedTuple):
    """A user of the server."""

    user: str
    password: str


class MariaDB(Server):
    """A server of its own. Options are its variables: `MariaDB(log_bin=True, binlog_format="STATEMENT")`."""

    def __init__(self, **options: Option) -> None:
        self._binary = need_program("mariadbd", "mysqld")
        super().__init__()
        self.options = options
        self._datadir = self.folder / "data"
        self.socket = self.folder / "sock"
        self._databases: list[MariaDBDatabase] = []
        shutil.copytree(_TEMPLATE.folder(self._binary), self._datadir)

    def command(self) -> list[str]:
        flags: dict[str, Option] = {
            "datadir": str(self._datadir),
            "tmpdir": str(self.folder),
            "socket": str(self.socket),
            "pid_file": str(self.folder / "pid"),
            "port": self.port,
            "bind_address": "127.0.0.1",
            "skip_name_resolve": True,
            "performance_schema": "OFF",
            "max_connections": 300,
            "max_allowed_packet": "64M",
            "key_buffer_size": "16M",
            "innodb_buffer_pool_size": "128M",
            "innodb_log_file_size": _LOG_FILE_SIZE,
            # A killed process loses nothing that it gave to the kernel, so the disk need not be waited for.
            "innodb_flush_method": "nosync",
            "character_set_server": "utf8mb4",
        }
        if not _is_mariadb(self._binary):
            flags |= {"mysqlx": "OFF"}
            del flags["innodb_log_file_size"]
        return [self._binary, "--no-defaults", *_as_root(), *_flags(flags | self.options)]

    def is_ready(self) -> bool:
        # Asked with a bare socket first: PyMySQL leaves its own open when a local socket refuses.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        try:
            with contextlib.closing(self._connect_as_root()):
                return True
        except pymysql.MySQLError:
            return False

    def root(self, database: str | None = None) -> MariaDBSession:
        """A new connection with all rights, over the local socket."""
        return MariaDBSession(self._connect_as_root(database))

    def create_database(self, engine: str = "InnoDB", charset: str | None = None) -> MariaDBDatabase:
        """A fresh database with Qudo's tables and an account of its own.

        `charset` is utf8mb4, but latin1 with MyISAM, whose keys are too short for Qudo's uniqkey in utf8mb4.
        """
        database = MariaDBDatabase(self, engine, charset or ("latin1" if engine == "MyISAM" else "utf8mb4"))
        self._databases.append(database)
        return database

    def create_account(self, password: str = PASSWORD, grants: tuple[str, ...] | list[str] = ()) -> Account:
        """A new user with `grants`, each as `SELECT, INSERT ON qudo_1.*`."""
        account = Account(f"user_{next(_names)}", password)
        with contextlib.closing(self.root()) as session:
            session.execute(f"CREATE USER {account.user}@'%%' IDENTIFIED BY %s", [password])
            for grant in grants:
                session.execute(f"GRANT {grant} TO {account.user}@'%'")
        return account

    def url(self, database: str, account: Account) -> str:
        """SQLAlchemy's URL of a database for an account."""
        url = URL.create("mysql+pymysql", account.user, account.password, "127.0.0.1", self.port, database)
        return url.render_as_string(hide_password=False)

    def forget_connections(self) -> None:
        for database in self._databases:
            database.close()

    def _connect_as_root(self, database: str | None = None) -> pymysql.Connection[Any]:
        return _connect(user="root", unix_socket=str(self.socket), database=database)


class MariaDBSession(Session):
    """One connection."""

    def __init__(self, connection: pymysql.Connection[Any], charset: str = "utf8mb4") -> None:
        self._connection = connection
        self._charset = charset

    @property
    def clock(self) -> str:
        return "UNIX_TIMESTAMP()"

    def execute(self, sql: str, params: Params = ()) -> int:
        with self._connection.cursor() as cursor:
            return int(cursor.execute(sql, tuple(params) or None))

    def insert(self, sql: str, params: Params = ()) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, tuple(params) or None)
            return int(cursor.lastrowid or 0)

    def rows(self, sql: str, params: Params = ()) -> list[Row]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, tuple(params) or None)
            return list(cursor.fetchall())

    def text(self, value: str | bytes | None) -> str:
        # The introducer says what a connection's character set would: the very bytes, taken for `charset`.
        return "NULL" if value is None else f"_{self._charset} {_hex(value)}"

    def arg(self, value: bytes | None) -> str:
        return "NULL" if value is None else f"_binary {_hex(value)}"

    def as_bytes(self, column: str) -> str:
        return f"CAST({column} AS BINARY)"

    def is_alive(self) -> bool:
        """Whether the server still answers on this connection."""
        try:
            self._connection.ping(reconnect=False)
        except pymysql.MySQLError:
            return False
        return True

    def close(self) -> None:
        if self._connection.open:
            self._connection.close()


class MariaDBDatabase(Database):
    """One database of a server."""

    password = PASSWORD

    def __init__(self, server: MariaDB, engine: str, charset: str) -> None:
        super().__init__()
        self.server = server
        self.name = f"qudo_{next(_names)}"
        self.engine = engine
        self.charset = charset
        with contextlib.closing(server.root()) as root:
            root.execute(f"CREATE DATABASE {self.name} CHARACTER SET {charset}")
        self.account = server.create_account(PASSWORD, [f"ALL PRIVILEGES ON {self.name}.*"])
        for statement in qudo_schema.MYSQL:
            self.execute(f"{statement} ENGINE={engine}")

    @property
    def url(self) -> str:
        return self.server.url(self.name, self.account)

    def url_for(self, account: Account) -> str:
        """The URL for another account."""
        return self.server.url(self.name, account)

    def session(self) -> MariaDBSession:
        return session_at(self.url, self.charset)

    def load_dump(self, path: Path) -> None:
        program = need_program("mariadb", "mysql")
        for table in ("func", "job", "exception_log", "job_status"):
            self.execute(f"DROP TABLE IF EXISTS {table}")
        with path.open("rb") as dump:
            result = subprocess.run(
                [
                    program,
                    "--no-defaults",
                    "--default-character-set=binary",
                    "--user=root",
                    f"--socket={self.server.socket}",
                    self.name,
                ],
                stdin=dump,
                capture_output=True,
                check=False,
            )
        assert result.returncode == 0, result.stderr.decode(errors="replace")

    def drop(self) -> None:
        """Remove the database and its account."""
        self.close()
        with contextlib.closing(self.server.root()) as root:
            root.execute(f"DROP DATABASE {self.name}")
            root.execute(f"DROP USER {self.account.user}@'%'")

    def _admin_session(self, old: Session | None) -> Session:
        if isinstance(old, MariaDBSession):
            if old.is_alive():
                return old
            old.close()
        return MariaDBSession(self.server._connect_as_root(self.name), self.charset)


class _Template:
    """An initialised data directory, made once a process, copied for each server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: Path | None = None

    def folder(self, binary: str) -> Path:
        with self._lock:
            if self._folder is None:
                root = Path(tempfile.mkdtemp(prefix="qudo-migrate-template-"))
                GUARD.remove_at_end(root)
                self._initialise(binary, root / "data")
                self._folder = root / "data"
            return self._folder

    def _initialise(self, binary: str, datadir: Path) -> None:
        if _is_mariadb(binary):
            program = need_program("mariadb-install-db", "mysql_install_db")
            command = [
                program,
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                f"--innodb-log-file-size={_LOG_FILE_SIZE}",
                "--innodb-flush-method=nosync",
            ]
        else:
            command = [binary, "--no-defaults", "--initialize-insecure"]
        # A MariaDB that starts removes temporary tables from its tmpdir, another's too: never the shared /tmp (seen).
        result = subprocess.run(
            [*command, f"--datadir={datadir}", *_as_root()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(datadir.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr


_TEMPLATE = _Template()


def session_at(url: str, charset: str) -> MariaDBSession:
    """A connection by SQLAlchemy's URL, for processes that know no more; `charset` is that of the tables."""
    parts = make_url(url)
    connection = _connect(
        host=parts.host, port=parts.port, user=parts.username, password=parts.password, database=parts.database
    )
    return MariaDBSession(connection, charset)


def _connect(**where: Any) -> pymysql.Connection[Any]:
    return pymysql.connect(
        **where,
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_ANSWER_SECONDS,
        # Loading the system's certificates for each connection took a third of the tests' time.
        ssl_disabled=True,
        # Perl's driver counts the rows that matched, not those that changed.
        client_flag=CLIENT.FOUND_ROWS,
    )


def _is_mariadb(binary: str) -> bool:
    if "mariadb" in Path(binary).name:
        return True
    version = subprocess.run([binary, "--no-defaults", "--version"], capture_output=True, text=True, check=True)
    return "mariadb" in version.stdout.lower()


def _as_root() -> list[str]:
    """Servers refuse to run as root unless told."""
    return ["--user=root"] if os.geteuid() == 0 else []


def _flags(options: dict[str, Option]) -> list[str]:
    flags = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is not False:
            flags.append(f"{flag}={value}")
    return flags


def _hex(value: str | bytes) -> str:
    data = value.encode() if isinstance(value, str) else value
    return f"X'{data.hex()}'" if data else "''"

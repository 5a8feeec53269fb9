"""What tests are given: servers for the session, a fresh database or command for each test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest
from redis import Redis

from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer, SQLiteDatabase
from tests.servers.command import Cli, toml


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB for all tests that don't break it. Make your own for those that do."""
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for all tests that don't break it. Make your own for those that do.

    It syncs each write, so that a run needn't wait two seconds at its end for the disk; tests/integration/
    test_durability.py has the other policies.
    """
    with RedisServer(appendfsync="always") as server:
        yield server


@pytest.fixture
def innodb(mariadb: MariaDB) -> Iterator[MariaDBDatabase]:
    """A fresh Qudo database of InnoDB tables, utf8mb4."""
    database = mariadb.create_database("InnoDB")
    yield database
    database.drop()


@pytest.fixture
def myisam(mariadb: MariaDB) -> Iterator[MariaDBDatabase]:
    """A fresh Qudo database of MyISAM tables, latin1."""
    database = mariadb.create_database("MyISAM")
    yield database
    database.drop()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SQLiteDatabase]:
    """A fresh Qudo database in an SQLite file."""
    database = SQLiteDatabase(tmp_path / "qudo.db")
    yield database
    database.close()


@pytest.fixture(params=["innodb", "myisam", "sqlite"])
def database(request: pytest.FixtureRequest) -> Database:
    """A fresh Qudo database of each kind."""
    result = request.getfixturevalue(request.param)
    assert isinstance(result, Database)
    return result


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A client of the session's Redis, which is empty."""
    with redis_server.client() as client:
        client.flushall()
        client.script_flush()
        yield client


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The real command, in a folder of its own. What still runs at the end is killed."""
    folder = tmp_path / "cli"
    folder.mkdir()
    runner = Cli(folder)
    yield runner
    runner.kill_all()


class WriteConfig(Protocol):
    """Writes qudo-migrate.toml where `cli` runs."""

    def __call__(
        self,
        sources: Mapping[str, Database | str] | Sequence[Database],
        target: RedisServer | str | Mapping[str, object],
        routes: Sequence[Mapping[str, object]] = (),
        failures: Mapping[str, object] | None = None,
    ) -> Path: ...


@pytest.fixture
def write_config(cli: Cli) -> WriteConfig:
    """`write_config({"main": innodb}, redis_server, routes=[{"func": "*", "max_retry": 2}])`.

    A list of databases names them main, second, third.
    """

    def write(
        sources: Mapping[str, Database | str] | Sequence[Database],
        target: RedisServer | str | Mapping[str, object],
        routes: Sequence[Mapping[str, object]] = (),
        failures: Mapping[str, object] | None = None,
    ) -> Path:
        if not isinstance(sources, Mapping):
            sources = dict(zip(("main", "second", "third"), sources, strict=False))
        path = cli.folder / "qudo-migrate.toml"
        path.write_text(toml(sources, target, routes, failures), encoding="utf-8")
        return path

    return write

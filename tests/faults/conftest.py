"""What these tests are given: durable servers that nobody breaks, a checked `run`, and the books of a shop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.integration.conftest import empty_redis, nothing_leaks, redis_server, resque, run
from tests.servers import Database, MariaDB, RedisServer

__all__ = ["books", "broken_mariadb", "empty_redis", "nothing_leaks", "redis_server", "resque", "run"]


@pytest.fixture
def books(database: Database, redis_server: RedisServer, redis: Redis, write_config: WriteConfig) -> Books:
    """The books of `database`, which is the source `main`; the configuration is written."""
    write_config([database], redis_server)
    return Books(database, redis)


@pytest.fixture(scope="module")
def broken_mariadb() -> Iterator[MariaDB]:
    """A MariaDB that the tests of this module may kill and restart; running at the start of each."""
    with MariaDB() as server:
        yield server

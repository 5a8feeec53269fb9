"""The accounting itself: each kind of wrong must be found, or the other tests prove nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis

from tests.faults.accounting import Books
from tests.integration.conftest import Run
from tests.servers import Database

QUEUE = "resque:queue:worker_mail"


def _lose(redis: Redis, database: Database) -> None:
    redis.lpop(QUEUE)


def _double(redis: Redis, database: Database) -> None:
    redis.rpush(QUEUE, redis.lindex(QUEUE, 0))  # type: ignore[arg-type]


def _bring_back(redis: Redis, database: Database) -> None:
    columns = "func_id, arg, enqueue_time, grabbed_until, run_after"
    database.execute(f"INSERT INTO job ({columns}) SELECT {columns} FROM qudo_migrate_outbox LIMIT 1")


def _clear_a_bit(redis: Redis, database: Database) -> None:
    (key,) = redis.scan_iter("resque:qudo_migrate:ledger:????????????????")
    redis.setbit(key, int(database.value("SELECT MIN(seq) FROM qudo_migrate_outbox")), 0)


def _claim(redis: Redis, database: Database) -> None:
    database.execute("UPDATE job SET grabbed_until = 2147483647")


@pytest.mark.parametrize("wrong", [_lose, _double, _bring_back, _clear_a_bit, _claim])
@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_the_books_find_what_is(
    wrong: Callable[[Redis, Database], None], database: Database, books: Books, redis: Redis, run: Run
) -> None:
    books.fill(5)
    run()
    books.check_all_crossed()
    books.fill(1, "Worker::Later")
    books.check_each_once()

    wrong(redis, database)

    with pytest.raises(AssertionError):
        books.check_each_once()


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_the_books_find_a_wrong_order(database: Database, books: Books, redis: Redis, run: Run) -> None:
    books.fill(5)
    order = books.order()
    run()
    books.check_order(order)
    redis.lmove(QUEUE, QUEUE, "LEFT", "RIGHT")
    with pytest.raises(AssertionError):
        books.check_order(order)

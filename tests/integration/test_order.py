"""Order within each source and queue is Qudo's: priority descending, then id; interruptions don't change it."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.qudo_app import enqueue, fill, job_rows
from tests.resque_app import Resque, ResqueJob
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer
from tests.servers.command import Cli

ONE_QUEUE = [{"func": "*", "queue": "all"}]


def in_qudos_order(database: Database) -> list[int]:
    """The ids of all jobs as Qudo would run them."""
    return [row.id for row in sorted(job_rows(database), key=lambda row: (-row.priority, row.id))]


def ids(jobs: list[ResqueJob], source: str = "main") -> list[int]:
    return [job.id for job in jobs if job.source == source]


def test_higher_priority_first_then_the_lower_id(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    priorities = [0, 5, 3, 5, 0, 4294967295, 1, 3, 5, 0]
    for number, priority in enumerate(priorities):
        enqueue(database, f"Worker::{number % 3}", b"{}", f"key-{number}" if number % 2 else None, priority)
    expected = in_qudos_order(database)
    write_config([database], redis_server, ONE_QUEUE)

    run()

    assert ids(resque.queue("all")) == expected == [6, 2, 4, 9, 3, 8, 7, 1, 5, 10]


def test_each_source_keeps_its_own_order_in_a_queue_that_several_feed(
    mariadb: MariaDB, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    sources = {name: mariadb.create_database(engine) for name, engine in (("inno", "InnoDB"), ("isam", "MyISAM"))}
    for database in sources.values():
        fill(database, 1000, "Worker::Mail", priorities=7)
        fill(database, 1000, "Worker::Image", priorities=3)
    expected = {name: in_qudos_order(database) for name, database in sources.items()}
    write_config(sources, redis_server, ONE_QUEUE)

    run("--batch-size", "300")

    jobs = resque.queue("all")
    assert {name: ids(jobs, name) for name in sources} == expected


def test_runs_with_a_limit_go_on_where_the_last_one_stopped(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    fill(innodb, 50, priorities=4)
    expected = in_qudos_order(innodb)
    write_config([innodb], redis_server)

    for moved in (20, 20, 10):
        assert run("--limit", "20", "--batch-size", "7").counts["moved"] == moved

    assert ids(resque.queue("worker_mail")) == expected


def test_a_killed_run_and_the_next_one_keep_the_order_together(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    fill(database, 10_000, priorities=3)
    expected = in_qudos_order(database)
    write_config([database], redis_server)
    for reached in (500, 3000):
        running = cli.start("run", "--batch-size", "100")
        running.wait_until(lambda: resque.length() >= reached, what="jobs cross")  # noqa: B023
        running.send(signal.SIGKILL)
        running.wait()

    run()

    assert ids(resque.queue("worker_mail")) == expected


@pytest.mark.parametrize("dialect", ["perl", "ruby"])
def test_jobs_due_in_one_second_keep_the_order(
    dialect: str,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    for number in range(9):
        enqueue(innodb, "Worker::Mail", b"[%d]" % number, priority=number % 3)
    innodb.execute("UPDATE job SET run_after = %s", [innodb.now() + 1000])
    expected = [row.arg for row in sorted(job_rows(innodb), key=lambda row: (-row.priority, row.id))]
    write_config([innodb], {"url": redis_server.url, "dialect": dialect})

    run()

    (jobs,) = resque.delayed().values()
    assert [b"[%d]" % job.args[0][0] for job in jobs] == expected

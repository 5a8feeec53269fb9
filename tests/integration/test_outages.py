"""Servers that go away in the middle of a run: it waits for them, or ends with 3; nothing is lost either way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.reports import Report
from tests.qudo_app import fill, job_ids
from tests.resque_app import Resque
from tests.servers import MariaDB, MariaDBDatabase, RedisServer, SQLiteDatabase
from tests.servers.command import Cli, RunningCommand

JOBS = 20_000


def _go_down_in_mid_run(resque: Resque, running: RunningCommand, kill: Callable[[], object]) -> None:
    running.wait_until(lambda: resque.length() > JOBS // 20, what="jobs cross")
    kill()
    running.wait_for("waiting")


def _is_complete(report: Report, resque: Resque, ids: list[int]) -> None:
    assert (report.status, report.errors) == (0, {})
    assert report.complete
    assert sorted(job.id for job in resque.queue("worker_mail")) == ids


def test_a_redis_that_is_killed_and_comes_back_is_waited_for(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, JOBS)
    ids = job_ids(innodb)
    with RedisServer(appendfsync="always") as server:
        resque = Resque(server.client())
        write_config([innodb], server)
        running = cli.start("run", "--json")
        _go_down_in_mid_run(resque, running, server.kill)
        server.start()
        report = Report(running.wait())
        _is_complete(report, resque, ids)
    assert report.counts == {"moved": JOBS, "handed_off": JOBS}


@pytest.mark.parametrize("engine", ["InnoDB", "MyISAM"])
def test_a_mariadb_that_is_killed_and_comes_back_is_waited_for(
    engine: str, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    with MariaDB() as server:
        database = server.create_database(engine)
        fill(database, JOBS)
        database.execute("FLUSH TABLES")
        ids = job_ids(database)
        write_config([database], redis_server)
        running = cli.start("run", "--json", "--batch-size", "500")
        _go_down_in_mid_run(resque, running, server.kill)
        server.start()
        if engine == "MyISAM":
            database.execute("REPAIR TABLE job")
        report = Report(running.wait())
        assert database.count() == 0
    _is_complete(report, resque, ids)
    assert report.counts == {"moved": JOBS, "handed_off": JOBS}


def test_a_redis_that_is_restarted_for_maintenance_is_waited_for(
    sqlite: SQLiteDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    fill(sqlite, JOBS)
    with RedisServer(appendfsync="always") as server:
        resque = Resque(server.client())
        write_config([sqlite], server)
        running = cli.start("run", "--json", "--batch-size", "100")
        _go_down_in_mid_run(resque, running, server.stop)
        server.start()
        _is_complete(Report(running.wait()), resque, list(range(1, JOBS + 1)))


def test_who_does_not_come_back_within_retry_for_ends_the_run_with_3(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    fill(innodb, JOBS)
    ids = job_ids(innodb)
    with RedisServer(appendfsync="always") as server:
        resque = Resque(server.client())
        write_config([innodb], server)
        running = cli.start("run", "--json", "--retry-for", "1")
        _go_down_in_mid_run(resque, running, server.kill)
        report = Report(running.wait(30))
        assert report.status == 3
        assert "can't be reached" in report.errors["main"]
        assert "nothing was lost" in report.document["next"]
        assert report.counts["moved"] == innodb.count("qudo_migrate_outbox")
        server.start()
        _is_complete(run(), resque, ids)


def test_a_mysql_that_becomes_read_only_ends_the_run_with_3_and_a_later_one_completes(
    redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    """As after a failover. It still answers every read."""
    with MariaDB() as server:
        database = server.create_database()
        fill(database, JOBS)
        ids = job_ids(database)
        write_config([database], redis_server)
        running = cli.start("run", "--json", "--batch-size", "100", "--retry-for", "2")
        _go_down_in_mid_run(resque, running, lambda: database.execute("SET GLOBAL read_only = ON"))
        report = Report(running.wait(30))
        assert report.status == 3
        assert "read-only" in report.errors["main"]
        database.execute("SET GLOBAL read_only = OFF")
        _is_complete(run(), resque, ids)


def test_a_redis_out_of_memory_ends_the_run_with_3_and_a_later_one_completes(
    innodb: MariaDBDatabase, write_config: WriteConfig, run: Run
) -> None:
    fill(innodb, JOBS, arg='{"n":{n},"text":"' + "x" * 500 + '"}')
    ids = job_ids(innodb)
    with RedisServer(appendfsync="always", maxmemory="5mb", maxmemory_policy="noeviction") as server:
        resque = Resque(server.client())
        write_config([innodb], server)

        report = run("--retry-for", "2", status=3)

        assert "out of memory" in report.errors["main"]
        crossed = [job.id for job in resque.queue("worker_mail")]
        assert 0 < len(crossed) == report.counts["handed_off"] < JOBS
        assert crossed == ids[: len(crossed)]
        assert innodb.count() + innodb.count("qudo_migrate_outbox") == JOBS
        server.client().config_set("maxmemory", 0)
        _is_complete(run(), resque, ids)


def test_a_redis_out_of_memory_is_waited_for(innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig) -> None:
    fill(innodb, JOBS, arg='{"n":{n},"text":"' + "x" * 500 + '"}')
    ids = job_ids(innodb)
    with RedisServer(appendfsync="always", maxmemory="5mb", maxmemory_policy="noeviction") as server:
        resque = Resque(server.client())
        write_config([innodb], server)
        running = cli.start("run", "--json")
        running.wait_for("out of memory")
        server.client().config_set("maxmemory", 0)
        _is_complete(Report(running.wait()), resque, ids)

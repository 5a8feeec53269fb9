"""Several migrators at once: they start together, move together, and each job crosses once."""

from __future__ import annotations

import pytest

from tests.conftest import WriteConfig
from tests.integration.reports import Report
from tests.qudo_app import fill, job_ids
from tests.resque_app import Resque
from tests.servers import Database, MariaDB, MariaDBDatabase, Proxy, RedisServer
from tests.servers.command import Cli

#: A source's rows in qudo_migrate_meta and a rival's value for each.
RIVALS = {"source": "0123456789abcdef", "beat": "1"}


@pytest.mark.parametrize("enqueued", ["just now", "long ago"])
def test_runs_side_by_side_hand_off_each_job_once(
    enqueued: str,
    database: Database,
    redis_server: RedisServer,
    resque: Resque,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    fill(database, 500, "Worker::Keyed", uniqkey="key-{n}", priorities=2)
    fill(database, 2000, "Worker::Mail", priorities=2)
    if enqueued == "long ago":  # then rows with a uniqkey needn't move one by one
        database.execute("UPDATE job SET enqueue_time = enqueue_time - 3600")
    ids = job_ids(database)
    write_config([database], redis_server)

    runs = [cli.start("run", "--json", "--batch-size", "100") for _ in range(3)]
    reports = [Report(each.wait()) for each in runs]

    assert [(report.status, report.errors) for report in reports] == [(0, {})] * 3
    assert sum(report.counts.get("moved", 0) for report in reports) == 2500
    # A chunk that one has moved and another's recovery has handed off counts in both reports.
    assert all(report.counts.get("handed_off", 0) >= report.counts.get("moved", 0) for report in reports)
    assert resque.ids() == ids


@pytest.mark.parametrize("name", RIVALS)
def test_a_run_copes_with_another_that_starts_at_the_same_moment(
    name: str, innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    _meet_a_rival(name, innodb, redis_server, cli, write_config)
    assert resque.ids() == [1, 2, 3]


@pytest.mark.parametrize("name", RIVALS)
def test_the_same_where_the_binlog_forbids_read_committed(
    name: str, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    with MariaDB(log_bin=True, binlog_format="STATEMENT") as server:
        _meet_a_rival(name, server.create_database(), redis_server, cli, write_config)
    assert resque.ids() == [1, 2, 3]


def _meet_a_rival(
    name: str, database: MariaDBDatabase, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    """A run that has seen no such row yet is held just before it writes one; meanwhile a rival does."""
    fill(database, 3)
    with Proxy(database.server) as proxy:
        write_config({"main": proxy.url(database.url)}, redis_server)
        proxy.hold_request(f"VALUES ('{name}'".encode())
        running = cli.start("run", "--json")
        proxy.wait_held()
        database.execute("INSERT INTO qudo_migrate_meta (name, value) VALUES (%s, %s)", [name, RIVALS[name]])
        proxy.release()
        report = Report(running.wait())
    assert (report.status, report.errors) == (0, {})
    assert report.counts == {"moved": 3, "handed_off": 3}

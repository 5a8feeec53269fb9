"""Sentinel fails over to a replica that lags: what it never got is handed off to it again."""

from __future__ import annotations

from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.faults.sentinel import SentinelServer
from tests.integration.reports import Report
from tests.servers import MariaDBDatabase, Proxy, RedisServer, wait_until
from tests.servers.command import Cli

JOBS = 400


def test_a_run_goes_on_with_the_replica_and_pushes_what_that_never_got(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    with (
        RedisServer() as master,
        Proxy(master) as wire,
        RedisServer(replicaof=f"127.0.0.1 {wire.port}") as replica,
        SentinelServer(master) as sentinel,
    ):
        old, new = master.client(), replica.client()
        wait_until(lambda: new.info("replication")["master_link_status"] == "up", 30, "the replica follows")
        wait_until(sentinel.knows_replica, 30, "Sentinel knows the replica")
        books = Books(innodb, old)
        books.fill(JOBS, priorities=2)
        order = books.order()
        write_config([innodb], sentinel.url)
        running = cli.start("run", "--json", "--batch-size", "20", "--rate", "300/s")
        running.wait_until(lambda: books.standing().resque.total() > 40, 30, "some jobs cross")

        wire.black_hole()
        before = books.standing().resque.total()
        running.wait_until(lambda: books.standing().resque.total() > before + 40, 30, "more jobs cross")
        had = books.standing().resque.total()
        books.use(new)
        kept = books.standing().resque.total()
        assert 0 < kept < had, "the replica lags"
        master.kill()
        running.wait_for("waiting, ")
        report = Report(running.wait())

        assert report.status == 0, report.errors
        assert new.info("replication")["role"] == "master"
        assert report.counts["moved"] == JOBS
        books.check_all_crossed()
        books.check_order(order)

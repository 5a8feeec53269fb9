"""Sentinel or a Cluster fails over to a replica that lags: what it never got is handed off to it again."""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis

from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.faults.sentinel import SentinelServer
from tests.integration.reports import Report
from tests.servers import MariaDBDatabase, Proxy, RedisServer, wait_until
from tests.servers.cluster import NAMESPACE, RedisCluster
from tests.servers.command import Cli

JOBS = 300


def test_a_run_goes_on_with_the_replica_and_pushes_what_that_never_got(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    with (
        RedisServer() as master,
        Proxy(master) as wire,
        RedisServer(replicaof=f"127.0.0.1 {wire.port}") as replica,
        SentinelServer(master) as sentinel,
    ):
        new = replica.client()
        wait_until(lambda: new.info("replication")["master_link_status"] == "up", 30, "the replica follows")
        wait_until(sentinel.knows_replica, 30, "Sentinel knows the replica")
        write_config([innodb], sentinel.url)
        check_fail_over(Books(innodb, master.client()), cli, master, new, wire.black_hole)


def test_a_run_goes_on_with_the_replica_of_a_clusters_node(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    with RedisCluster(replicas_of_owner=1) as cluster:
        write_config([innodb], cluster.target)
        books = Books(innodb, cluster.owner.client(), NAMESPACE)
        new = cluster.replicas[0].client()
        new.readonly()  # a replica there answers only those who say that they know
        check_fail_over(books, cli, cluster.owner, new, cluster.cut_off_replicas)


def check_fail_over(books: Books, cli: Cli, master: RedisServer, new: Redis, cut_off: Callable[[], None]) -> None:
    """Run; cut off the replica in mid-run; go on; kill the master; all must be in the replica."""
    books.fill(JOBS, priorities=2)
    order = books.order()
    # Slowly: the master must be killed before the run ends.
    running = cli.start("run", "--json", "--batch-size", "20", "--rate", "100/s")
    running.wait_until(lambda: books.standing().resque.total() > 40, 60, "some jobs cross")
    running.wait_until(lambda: any(new.scan_iter(match="*:queue:*")), 60, "the replica has some of them")

    cut_off()
    before = books.standing().resque.total()
    running.wait_until(lambda: books.standing().resque.total() > before + 20, 60, "more jobs cross")
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
    assert cli("verify", "--expect-idle").status == 0

"""A whole migration into a Redis Cluster of three nodes, and its slot moved to another node meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from migrate import Enqueuer
from migrate.config import load
from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.integration.conftest import Run
from tests.integration.dualwriting import FUNC
from tests.integration.reports import Report
from tests.integration.working import Pool
from tests.qudo_app import enqueue, fill, job_rows
from tests.resque_app import Resque
from tests.servers import MariaDBDatabase, SQLiteDatabase, ValkeyServer, wait_until
from tests.servers.cluster import NAMESPACE, RedisCluster
from tests.servers.command import Cli

LATE = "Worker::Late"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Valkey 9, so that the fence is WAITAOF."""
    with RedisCluster(server=ValkeyServer) as cluster:
        yield cluster


@pytest.fixture
def books(innodb: MariaDBDatabase, cluster: RedisCluster) -> Books:
    client = cluster.owner.client()
    client.flushall()
    return Books(innodb, client, NAMESPACE)


def test_the_whole_story_on_the_node_that_has_the_namespace(
    innodb: MariaDBDatabase, cluster: RedisCluster, books: Books, cli: Cli, run: Run
) -> None:
    """Begins at a node that has nothing of it."""
    books.fill(500, priorities=2)
    books.fill(20, uniqkey="key-{n}")
    books.fill(20, run_after=3600)
    order = books.order()
    assert cli("init", "--source", f"main={innodb.url}", "--target", cluster.url, "--json").status == 0
    cli.env["QUDO_PASSWORD"] = innodb.account.password
    path = cli.folder / "qudo-migrate.toml"
    assert 'namespace = "{resque}"' in path.read_text()

    planned = cli("plan", "--json")
    assert planned.status == 0, planned.stderr
    assert any("Redis Cluster" in check["message"] for check in planned.json()["checks"])
    assert cli("rehearse", "--json").status == 0
    assert run().counts == {"moved": 540, "handed_off": 540}
    books.check_all_crossed()
    books.check_order(order)
    assert cli("verify", "--expect-idle", "--json").status == 0

    resque = Resque(cluster.owner.client(), NAMESPACE)
    assert cli("cutover", "set", "switched", "--func", FUNC, "--force", "--json").status == 0
    with Enqueuer(load(path, cli.env)) as jobs:
        receipt = jobs.enqueue(FUNC, {"job": "from an app"})
        assert (str(receipt.step), receipt.handed_off) == ("switched", True)
    assert resque.queue("worker_mail")[-1].identity == receipt.outbox
    enqueue(innodb, LATE, b'{"job":"late"}')
    assert cli("follow", "--until-idle", "1", "--json").status == 0
    assert len(resque.queue("worker_late")) == 1

    assert cli("rollback", "--func", LATE, "--json").status == 0
    assert [row.func for row in job_rows(innodb)] == [LATE]
    assert cli("resume", "--func", LATE).status == 0
    assert run().counts == {"moved": 1, "handed_off": 1}
    purged = cli("purge", "--older-than", "0", "--json")
    assert purged.status == 0, purged.stderr
    assert purged.json()["sources"][0]["purged"] == 502  # all but those that are delayed or hold a uniqkey
    assert cli("verify", "--json").status == 0


def test_a_run_waits_while_its_slot_moves_and_goes_on_at_the_new_node(
    innodb: MariaDBDatabase, cluster: RedisCluster, books: Books, cli: Cli, write_config: WriteConfig
) -> None:
    """Half of the keys on either side: each script and each look meets ASK or TRYAGAIN, then MOVED."""
    books.fill(300, priorities=2)
    order = books.order()
    write_config([innodb], cluster.target)
    running = cli.start("run", "--json", "--batch-size", "20", "--rate", "400/s")
    running.wait_until(lambda: books.standing().resque.total() > 40, 30, "some jobs cross")
    move = cluster.move_slot()
    move.begin()
    move.carry(3)
    running.wait_for("moving its slot")
    move.end()
    report = Report(running.wait())
    assert report.status == 0, report.errors
    assert report.counts["moved"] == 300
    books.use(cluster.owner.client())
    books.check_all_crossed()
    books.check_order(order)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_namespace_without_braces_is_refused_before_anything_is_written(
    scheme: str, sqlite: SQLiteDatabase, cluster: RedisCluster, cli: Cli, write_config: WriteConfig
) -> None:
    fill(sqlite, 1)
    url = cluster.url.replace("redis", scheme, 1)
    write_config([sqlite], {"url": url, "namespace": "shop"})
    commands = [
        ("run",),
        ("plan",),
        ("init", "--force", "--namespace", "shop", "--source", f"main={sqlite.url}", "--target", url),
    ]
    for command in commands:
        refused = cli(*command)
        assert refused.status == 2
        assert 'namespace = "{shop}"' in refused.stdout + refused.stderr
    assert sqlite.count("job") == 1


WORK = """
@job("Worker::Works", max_retries=1, retry_delay=1)
def works(arg, running: RunningJob):
    note(arg, running.attempt)
    if arg == "fails":
        raise ValueError("it fails")
"""


def test_workers_follow_the_slot(
    cluster: RedisCluster, sqlite: SQLiteDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    """With jobs, a retry that the scheduler brings back, and while they wait for something to do."""
    cluster.owner.client().flushall()
    write_config({"main": sqlite}, cluster.target)
    pool = Pool(cli, cluster.owner.client(), WORK, NAMESPACE)
    pool.push("Worker::Works", "fails")
    command = pool.start(workers=2)
    wait_until(lambda: pool.ran == ["fails 1", "fails 2"], 20, "both tries are over")
    move = cluster.move_slot()
    move.begin()
    move.end()
    pool = Pool(cli, cluster.owner.client(), WORK, NAMESPACE)
    pool.push("Worker::Works", "fine")
    wait_until(lambda: "fine 1" in pool.ran, 20, "jobs of the new node run")
    wait_until(lambda: len(pool.failures) == 2, 20, "what ended in the midst of the move is settled")
    assert pool.end(command) == {"command": "work", "done": 1, "failed": 2}
    assert pool.workers == set()

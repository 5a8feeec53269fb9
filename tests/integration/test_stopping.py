"""A run may be stopped or killed at any moment: nothing is lost, the next run goes on."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.reports import Report
from tests.qudo_app import enqueue, fill, job_ids
from tests.resque_app import Resque
from tests.servers import Database, MariaDBDatabase, Proxy, RedisServer, wait_until
from tests.servers.command import Cli

#: Seconds within which a stopped command must be over, on a busy machine too.
PROMPT_SECONDS = 15


@pytest.mark.parametrize(
    ("database", "number", "jobs"),
    [
        ("innodb", signal.SIGINT, 50_000),
        ("innodb", signal.SIGTERM, 50_000),
        ("myisam", signal.SIGINT, 30_000),
        ("sqlite", signal.SIGINT, 30_000),
    ],
    indirect=["database"],
)
def test_a_signal_ends_the_run_after_the_batch_in_hand_and_the_next_one_completes(
    number: signal.Signals,
    jobs: int,
    database: Database,
    redis_server: RedisServer,
    resque: Resque,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
) -> None:
    fill(database, jobs, priorities=2)
    ids = job_ids(database)
    write_config([database], redis_server)
    running = cli.start("run", "--json")
    running.wait_until(lambda: resque.length() > jobs // 20, what="jobs cross")

    running.send(number)

    stopped = Report(running.wait(PROMPT_SECONDS))
    moved = stopped.counts["moved"]
    assert stopped.status == 130
    assert "stopping: the batch in hand is finished first" in stopped.stderr
    assert "goes on" in stopped.document["next"]
    assert not stopped.complete
    assert 0 < moved < jobs
    assert stopped.counts["handed_off"] == moved == resque.length()
    assert database.count() == jobs - moved
    assert run().counts == {"moved": jobs - moved, "handed_off": jobs - moved}
    assert sorted(job.id for job in resque.queue("worker_mail")) == ids


@pytest.mark.parametrize(("other", "status"), [("dead", 130), ("no qudo", 2)])
def test_a_signal_outweighs_a_dead_source_and_not_a_wrong_one(
    other: str,
    status: int,
    innodb: MariaDBDatabase,
    tmp_path: Path,
    redis_server: RedisServer,
    resque: Resque,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    fill(innodb, 50_000)
    (tmp_path / "empty.db").touch()
    urls = {"dead": "mysql+pymysql://u:p@127.0.0.1:1/qudo", "no qudo": f"sqlite:///{tmp_path}/empty.db"}
    write_config({"main": innodb, "other": urls[other]}, redis_server)
    running = cli.start("run", "--json", "--batch-size", "100")
    running.wait_until(resque.length, what="jobs cross")
    running.send(signal.SIGTERM)
    report = Report(running.wait(PROMPT_SECONDS))
    assert report.status == status
    assert "other" in report.errors
    assert report.counts["moved"] == report.counts["handed_off"] == resque.length()


def test_a_second_signal_ends_at_once_what_the_first_could_not(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
) -> None:
    fill(innodb, 3000)
    ids = job_ids(innodb)
    with Proxy(redis_server) as proxy:
        write_config([innodb], proxy.url(redis_server.url))
        proxy.hold_request(b'{"class"')
        running = cli.start("run", "--batch-size", "100")
        proxy.wait_held()
        running.send(signal.SIGINT)
        running.wait_for("stopping")
        assert running.running
        running.send(signal.SIGINT)
        assert running.wait(PROMPT_SECONDS).status == 130
    assert resque.ids() == []
    left = innodb.count()

    write_config([innodb], redis_server)
    assert run().counts == {"moved": left, "handed_off": 3000} if left else {"handed_off": 3000}
    assert resque.ids() == ids


def test_a_signal_ends_the_wait_for_workers(
    innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    enqueue(innodb, "Worker::Mail", b"{}")
    innodb.execute("UPDATE job SET grabbed_until = %s", [innodb.now() + 1000])
    write_config([innodb], redis_server)
    running = cli.start("run", "--json", "--in-flight-wait", "1000")
    running.wait_for("in flight")
    running.send(signal.SIGTERM)
    report = Report(running.wait(PROMPT_SECONDS))
    assert (report.status, report.counts) == (130, {"in_flight": 1})


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_signal_ends_the_wait_for_a_server(
    side: str, innodb: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 50_000)
    with Proxy(innodb.server if side == "source" else redis_server) as proxy:
        if side == "source":
            write_config({"main": proxy.url(innodb.url)}, redis_server)
        else:
            write_config([innodb], proxy.url(redis_server.url))
        running = cli.start("run", "--json", "--batch-size", "100")
        running.wait_until(lambda: redis.exists("resque:queue:worker_mail"), what="jobs cross")
        proxy.refuse()
        running.wait_for("waiting")
        running.send(signal.SIGINT)
        report = Report(running.wait(PROMPT_SECONDS))
    assert report.status == 130


def test_kills_at_random_moments_lose_and_double_nothing(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    chance = random.Random(database.engine)
    fill(database, 100, "Worker::Keyed", uniqkey="key-{n}", priorities=2)
    fill(database, 5000, "Worker::Mail", priorities=3)
    fill(database, 500, "Worker::Late", run_after=1000)
    ids = job_ids(database)
    write_config([database], redis_server)
    deadline = time.monotonic() + 20
    kills = 0
    for _ in range(6):
        running = cli.start("run", "--batch-size", str(chance.choice([10, 100, 500])), "--rate", "4000/s")
        enough = resque.length() + chance.choice([0, 1, 100, 1000])
        wait_until(lambda: resque.length() >= enough or not running.running or time.monotonic() > deadline)  # noqa: B023
        time.sleep(chance.random() * 0.1)
        if not running.running:
            break
        running.send(signal.SIGKILL)
        running.wait()
        kills += 1

    assert kills >= 3
    assert run().complete
    assert database.count() == 0
    assert resque.ids() == ids

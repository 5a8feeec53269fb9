"""`where SOURCE:ID` tells a job's story in each of its states, and writes nothing."""

from __future__ import annotations

import signal
from typing import Any, Protocol

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.conftest import SECRET_ARGUMENT, Run
from tests.integration.snapshots import nothing_written
from tests.qudo_app import enqueue
from tests.resque_app import Resque, ResqueWorker
from tests.schemas import check
from tests.servers import Database, MariaDBDatabase, Proxy, RedisServer
from tests.servers.command import Cli

ARG = f'["{SECRET_ARGUMENT}"]'.encode()


class Where(Protocol):
    """The story of a job of source main; its state must be `state`."""

    def __call__(self, job_id: int, state: str) -> dict[str, Any]: ...


@pytest.fixture
def where(database: Database, redis: Redis, cli: Cli) -> Where:
    def where(job_id: int, state: str) -> dict[str, Any]:
        with nothing_written(database, redis):
            result = cli("where", f"main:{job_id}", "--json")
        story: dict[str, Any] = result.json()
        check(story, "where")
        assert (story["source"], story["id"], story["state"]) == ("main", job_id, state)
        assert result.status == (1 if state == "unknown" else 0)
        return story

    return where


@pytest.mark.parametrize("database", ["innodb", "sqlite"], indirect=True)
def test_where_knows_rows_of_qudo(
    database: Database, redis_server: RedisServer, write_config: WriteConfig, where: Where
) -> None:
    """Before any run: our tables aren't there yet."""
    free = enqueue(database, "Worker::Mail", ARG)
    held = enqueue(database, "Worker::Mail", ARG)
    database.execute("UPDATE job SET grabbed_until = %s WHERE id = %s", [database.now() + 1000, held])
    kept = enqueue(database, "Worker::Kept", ARG)
    later = enqueue(database, "Worker::Later", ARG, run_after=1000)
    bad = enqueue(database, "Worker::Mail", b"\x05\x0b\x03 broken")
    keep: dict[str, object] = {"func": "Worker::Kept", "move": False}
    write_config([database], redis_server, [keep, {"func": "Worker::Later", "delayed": "hold"}])

    assert where(free, "not_moved")["in_job"]
    assert where(held, "in_flight")["func"] == "Worker::Mail"
    assert where(kept, "kept")["crossings"] == []
    assert where(later, "kept")["in_job"]
    assert where(bad, "untranslatable")["reason"]
    assert where(999, "unknown")["func"] is None


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_where_follows_a_job_through_resque(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run, where: Where
) -> None:
    job_id = enqueue(database, "Worker::Mail", ARG, "key")
    delayed = enqueue(database, "Worker::Mail", ARG, run_after=1000)
    write_config([database], redis_server)
    run()
    second = next(iter(resque.delayed()))
    worker = ResqueWorker(resque)

    assert "in queue worker_mail" in where(job_id, "queued")["crossings"][0]["place"]
    assert str(second) in where(delayed, "delayed")["crossings"][0]["place"]
    waits = enqueue(database, "Worker::Mail", ARG, "key")
    assert where(waits, "waiting")["in_job"]
    job = worker.take("worker_mail")
    assert "host:1" in where(job_id, "working")["crossings"][0]["place"]
    worker.fail(job)
    assert where(job_id, "failed")["crossings"][0]["handed_off"]
    resque.client.delete("resque:failed")
    assert where(job_id, "consumed")["crossings"][0]["handed_off"]


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
@pytest.mark.parametrize("dialect", ["ruby", "node"])
def test_where_knows_a_delayed_job_by_its_content(
    dialect: str,
    database: Database,
    redis_server: RedisServer,
    write_config: WriteConfig,
    run: Run,
    where: Where,
) -> None:
    job_id = enqueue(database, "Worker::Mail", b'{"b": [1.50, "\\u9b8e"], "a": null}', run_after=1000)
    write_config([database], {"url": redis_server.url, "dialect": dialect})
    run()
    assert "content" in where(job_id, "delayed")["crossings"][0]["place"]


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_where_knows_what_a_killed_run_has_left_in_the_outbox(
    database: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, run: Run, where: Where, cli: Cli
) -> None:
    job_id = enqueue(database, "Worker::Mail", ARG)
    with Proxy(redis_server) as proxy:
        write_config([database], proxy.url(redis_server.url))
        proxy.hold_request(b'{"class"')
        running = cli.start("run")
        proxy.wait_held()
        running.send(signal.SIGKILL)
        running.wait()
    write_config([database], redis_server)

    story = where(job_id, "not_handed_off")

    assert not story["in_job"]
    assert not story["crossings"][0]["handed_off"]
    assert run().counts == {"handed_off": 1}
    assert where(job_id, "queued")["crossings"][0]["outbox"] == story["crossings"][0]["outbox"]


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_an_id_that_came_back_stands_for_the_job_that_is_still_there(
    database: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    where: Where,
) -> None:
    """The outbox knows the second of a crossing; two within one can't be told apart by it."""
    write_config([database], redis_server)
    for _ in range(2):
        database.execute("ALTER TABLE job AUTO_INCREMENT = 1")
        assert enqueue(database, "Worker::Mail", ARG) == 1
        run()
    first, second = resque.jobs()
    resque.client.lpop("resque:queue:worker_mail")
    database.execute("UPDATE qudo_migrate_outbox SET moved_at = 1000")
    for last in (first, second):
        database.execute("UPDATE qudo_migrate_outbox SET moved_at = 999")
        batch, seq = str(last.identity).rsplit("-", 1)
        database.execute(
            "UPDATE qudo_migrate_outbox SET moved_at = 1000 WHERE batch = %s AND seq = %s", [int(batch, 16), int(seq)]
        )
        assert {each["state"] for each in where(1, "queued")["crossings"]} == {"queued", "consumed"}


def test_where_reads_well_for_people(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run, cli: Cli
) -> None:
    enqueue(innodb, "Worker:x:[bold]", ARG)
    write_config([innodb], redis_server)
    assert cli("where", "main:1").stdout.splitlines() == [
        "main:1, Worker:x:[bold]: not moved",
        "  a row of this id is in Qudo's job table: not moved",
    ]
    run()
    (job,) = resque.jobs()
    assert cli("where", "main:1").stdout.splitlines() == [
        "main:1, Worker:x:[bold]: queued",
        f"  crossed as {job.identity} to queue worker:x:[bold]: handed off; in queue worker:x:[bold]",
    ]
    unknown = cli("where", "main:2")
    assert unknown.status == 1
    assert "no trace of it" in unknown.stdout


@pytest.mark.parametrize("reference", ["main", "main:", ":1", "main:x", "main:-1", "main:٣"])
def test_what_is_no_reference_is_refused(
    reference: str, innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    write_config([innodb], redis_server)
    result = cli("where", reference)
    assert (result.status, result.stdout) == (2, "")
    assert f"{reference}: not a job" in result.stderr
    assert "main:123" in result.stderr


def test_an_unknown_source_is_named(
    innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    write_config([innodb], redis_server)
    result = cli("where", "mian:1")
    assert result.status == 2
    assert "mian" in result.stderr
    assert "known: main" in result.stderr

"""A uniqkey stays unique across the crossing: a second job under it waits in Qudo until the first is over."""

from __future__ import annotations

import contextlib

import pytest
from pymysql import IntegrityError

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.qudo_app import enqueue, job_rows
from tests.resque_app import Resque, ResqueWorker
from tests.servers import Database, MariaDBDatabase, RedisServer
from tests.servers.command import Cli


@pytest.fixture
def crossed(database: Database, redis_server: RedisServer, write_config: WriteConfig, run: Run) -> int:
    """The id of a job under the key `鮎-1` that has crossed, and whose worker hasn't begun."""
    job_id = enqueue(database, "Worker::Mail", b"[1]", "鮎-1")
    write_config([database], redis_server)
    assert run().counts == {"moved": 1, "handed_off": 1}
    return job_id


def test_a_second_job_waits_while_the_first_is_queued(
    database: Database, crossed: int, resque: Resque, run: Run
) -> None:
    enqueue(database, "Worker::Mail", b"[2]", "鮎-1")
    others = [enqueue(database, "Worker::Mail", b"[3]", "鮎-2"), enqueue(database, "Worker::Other", b"[4]", "鮎-1")]
    (second, *_) = job_rows(database)

    report = run(status=1)

    assert report.counts == {"moved": 2, "handed_off": 2, "waiting": 1}
    assert not report.complete
    assert "--in-flight-wait" in report.document["next"]
    assert job_rows(database) == [second]
    assert resque.ids() == [crossed, *others]


def test_a_second_job_waits_while_a_worker_has_the_first(
    database: Database, crossed: int, resque: Resque, run: Run
) -> None:
    second = enqueue(database, "Worker::Mail", b"[2]", "鮎-1")
    worker = ResqueWorker(resque)
    worker.take("worker_mail")
    assert run(status=1).counts == {"waiting": 1}

    worker.finish()

    assert run().counts == {"moved": 1, "handed_off": 1}
    assert resque.ids() == [second]


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_second_job_moves_once_the_first_has_failed_for_good(
    database: Database, crossed: int, resque: Resque, run: Run
) -> None:
    """Qudo deletes the row of a job that failed for good, and then takes the key again."""
    second = enqueue(database, "Worker::Mail", b"[2]", "鮎-1")
    worker = ResqueWorker(resque)
    worker.fail(worker.take("worker_mail"))
    assert run().counts == {"moved": 1, "handed_off": 1}
    assert resque.ids() == [second]


def test_a_second_job_waits_while_the_first_is_delayed(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    """In the dialects whose delayed texts have no identity, it is known by its content."""
    for dialect in ("ruby", "perl"):
        enqueue(innodb, f"Worker::{dialect.title()}", b"[1]", "key", run_after=1000)
        write_config([innodb], {"url": redis_server.url, "dialect": dialect})
        run("--func", f"Worker::{dialect.title()}")
        enqueue(innodb, f"Worker::{dialect.title()}", b"[2]", "key")
        assert run("--func", f"Worker::{dialect.title()}", status=1).counts["waiting"] == 1


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_in_flight_wait_also_waits_for_a_key(database: Database, crossed: int, resque: Resque, cli: Cli) -> None:
    second = enqueue(database, "Worker::Mail", b"[2]", "鮎-1")
    running = cli.start("run", "--json", "--in-flight-wait", "60")
    running.wait_for("waiting for a uniqkey")

    ResqueWorker(resque).pop("worker_mail")

    result = running.wait()
    assert (result.status, result.json()["totals"]["moved"]) == (0, 1)
    assert resque.ids() == [second]


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_three_jobs_under_one_key_cross_one_after_the_other(
    database: Database, crossed: int, resque: Resque, run: Run
) -> None:
    for _ in range(2):
        job_id = enqueue(database, "Worker::Mail", b"[]", "鮎-1")
        assert run(status=1).counts == {"waiting": 1}
        ResqueWorker(resque).pop("worker_mail")
        assert run().counts == {"moved": 1, "handed_off": 1}
        assert resque.ids() == [job_id]


def test_unique_ignore_moves_both(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    write_config([innodb], redis_server, [{"func": "*", "unique": "ignore"}])
    ids = []
    for _ in range(2):
        ids.append(enqueue(innodb, "Worker::Mail", b"{}", "key"))
        assert run().counts == {"moved": 1, "handed_off": 1}
    assert resque.ids() == ids
    assert [job.qudo["uniqkey"] for job in resque.jobs()] == ["key", "key"]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [("key", "KEY", True), ("key", "key ", True), ("é", "e", True), ("", "", True), ("a", "b", False)],
    ids=["case", "trailing space", "accent", "empty", "another"],
)
def test_keys_compare_as_they_do_in_qudo(
    first: str,
    second: str,
    same: bool,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    write_config: WriteConfig,
    run: Run,
) -> None:
    """By the collation of `job.uniqkey`: what Qudo refuses as a second job waits."""
    innodb.execute("ALTER TABLE job MODIFY uniqkey VARCHAR(255) CHARACTER SET latin1 COLLATE latin1_german1_ci NULL")
    enqueue(innodb, "Worker::Mail", b"{}", first)
    with pytest.raises(IntegrityError) if same else contextlib.nullcontext():
        enqueue(innodb, "Worker::Mail", b"{}", second)
    innodb.execute("DELETE FROM job WHERE id > 1")
    write_config([innodb], redis_server)
    run()
    enqueue(innodb, "Worker::Mail", b"{}", second)

    report = run(status=1 if same else 0)

    assert report.counts == ({"waiting": 1} if same else {"moved": 1, "handed_off": 1})

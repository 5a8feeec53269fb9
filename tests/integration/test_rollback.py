"""A rollback returns every job that Resque has not started, as it was, and leaves all else where and as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis

from migrate.engine import rollback as engine_rollback
from migrate.engine.reporters import Reporter
from migrate.engine.rollback_result import RollbackOptions
from migrate.engine.stopping import Stop
from migrate.failpoints import VARIABLE
from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.dualwriting import configured
from tests.integration.snapshots import nothing_written
from tests.qudo_app import JobRow, enqueue, fill, job_rows
from tests.resque_app import Resque, ResqueWorker
from tests.schemas import check
from tests.servers import Database, MariaDBDatabase, RedisServer
from tests.servers.command import Cli
from tests.servers.waiting import wait_until

OUTBOX, PENDING, NOTES = "qudo_migrate_outbox", "qudo_migrate_pending", "qudo_migrate_returned"
RETURNING = "resque:qudo_migrate:returning:main"
RETURNED = "resque:qudo_migrate:returned"
QUEUE = "resque:queue:worker_mail"


class Rollback:
    """Runs `qudo-migrate rollback --json`; checks the document and its exit status."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli

    def __call__(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """What differs from 0 of the one source, `paused` and `next` beside it."""
        result = self._cli("rollback", "--json", *arguments)
        assert result.status == status, f"exit status {result.status}\n{result.stdout}{result.stderr}"
        document = result.json()
        check(document, "rollback")
        assert document["exit_status"] == status
        (source,) = document["sources"]
        return {name: count for name, count in source.items() if name not in ("name", "seconds") and count}


@pytest.fixture
def rollback(cli: Cli) -> Rollback:
    return Rollback(cli)


def without_id(rows: list[JobRow]) -> list[tuple[Any, ...]]:
    return sorted((row[1:] for row in rows), key=repr)


def texts(redis: Redis, key: str = QUEUE) -> list[bytes]:
    found: Any = redis.lrange(key, 0, -1)
    return list(found)


def nothing_left(database: Database, redis: Redis) -> None:
    """No trace of a rollback under way on either side."""
    assert database.count(NOTES) == 0
    assert not redis.exists(RETURNING)
    assert database.count(where="grabbed_until > 0") == 0


def test_every_column_comes_back_under_a_new_id(
    database: Database, redis_server: RedisServer, redis: Redis, write_config: WriteConfig, run: Run, rollback: Rollback
) -> None:
    enqueue(database, "Worker::Mail", '{"a": [1.0, "0123", 9007199254740993, null, "鮎"]}'.encode(), "key ä", 7)
    enqueue(database, "Worker::Mail", b"null")
    enqueue(database, "Worker::Thumb", b'{"x":1}', run_after=5000)
    fill(database, 50, priorities=5, uniqkey="k{n}")
    database.execute("UPDATE job SET retry_cnt = 3, enqueue_time = enqueue_time - 900 WHERE id % 3 = 0")
    before = job_rows(database)
    write_config([database], redis_server)
    run()
    assert job_rows(database) == []

    assert rollback() == {"returned": 53}

    after = job_rows(database)
    assert without_id(after) == without_id(before)
    if database.engine != "SQLite":
        assert not {row.id for row in before} & {row.id for row in after}
    assert Resque(redis).jobs() == []
    assert (database.count(OUTBOX), database.count(PENDING)) == (0, 0)
    assert redis.hgetall(RETURNED) == {b"main": b"53"}
    nothing_left(database, redis)


def test_what_returned_is_paused_and_crosses_again_after_resume(
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    fill(database, 700, priorities=2)
    enqueue(database, "Worker::Mail", b"{}", "key", run_after=900)
    write_config([database], redis_server)
    run()
    order = [json.loads(text)["args"] for text in texts(redis)]
    result = cli("rollback")
    assert result.status == 0
    assert "qudo-migrate resume --func '*'" in result.stdout
    assert json.loads(json.dumps(cli("status", "--json").json()))["paused"][0]["func"] == "*"
    running = cli.start("run")
    running.wait_for("is paused by")
    assert cli("resume").status == 0
    assert running.wait().status == 0
    assert [json.loads(text)["args"] for text in texts(redis)] == order
    assert len(Resque(redis).jobs()) == 701
    assert rollback() == {"returned": 701}
    assert redis.hget(RETURNED, "main") == b"1402"


def test_what_is_not_ours_keeps_its_order(
    innodb: Database, redis_server: RedisServer, redis: Redis, write_config: WriteConfig, run: Run, rollback: Rollback
) -> None:
    fill(innodb, 30)
    fill(innodb, 30, func="Worker::Other")
    write_config([innodb], redis_server, [{"func": "*", "queue": "all"}])
    run()
    native = [b'{"class":"Native","args":[%d]}' % number for number in range(1, 4000)]
    redis.delete("mixed")
    for number, text in enumerate(texts(redis, "resque:queue:all")):
        redis.rpush("mixed", text, *native[number * 60 : number * 60 + 60])
    redis.rpush("mixed", "no json", b"\xff\xfe", *native[3600:])
    redis.rename("mixed", "resque:queue:all")
    expected = [text for text in texts(redis, "resque:queue:all") if b"Worker::Mail" not in text]

    assert rollback("--func", "Worker::M*") == {"returned": 30}

    assert texts(redis, "resque:queue:all") == expected
    assert {row.func for row in job_rows(innodb)} == {"Worker::Mail"}
    assert rollback("--func", "Worker::M*") == {}
    assert rollback("--func", "Worker::Other") == {"returned": 30}


def test_what_workers_have_begun_stays(
    database: Database, redis_server: RedisServer, redis: Redis, write_config: WriteConfig, run: Run, rollback: Rollback
) -> None:
    fill(database, 10)
    write_config([database], redis_server, [{"func": "*", "max_retry": 2}])
    run()
    resque = Resque(redis)
    working, failed, requeued = (ResqueWorker(resque, f"host:{number}:*") for number in range(3))
    working.take("worker_mail")
    failed.fail(failed.take("worker_mail"))
    again = requeued.take("worker_mail")
    requeued.fail(again)
    redis.rpush(QUEUE, again.text)  # as an operator's requeue does
    resque_retried = json.loads(texts(redis)[0])
    redis.lpop(QUEUE)
    redis.rpush(QUEUE, json.dumps(resque_retried | {"retry_count": 1}))
    redis.lpop(QUEUE)  # done

    assert rollback() == {"returned": 5, "started": 4, "gone": 1}

    assert database.count() == 5
    assert len(texts(redis)) == 2
    assert database.count(OUTBOX) == 5


def test_undelivered_rows_return_and_a_mover_finds_them_taken(
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    fill(database, 300)
    before = job_rows(database)
    write_config([database], redis_server)
    cli.env[VARIABLE] = f"{'move.committed' if database.transactional else 'leasing.ready'}=kill"
    assert cli("run", "--batch-size", "100").status == -9
    del cli.env[VARIABLE]
    assert (database.count(), database.count(OUTBOX)) == (200, 100)

    assert rollback() == {"returned": 100}

    assert without_id(job_rows(database)) == without_id(before)
    assert cli("resume").status == 0
    run()
    assert len(texts(redis)) == 300


DIALECTS = ("perl", "ruby", "node")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_delayed_jobs_return_and_leave_a_clean_schedule(
    dialect: str,
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    for number in range(40):
        enqueue(database, "Worker::Mail", b'{"n":%d}' % (number // 2), priority=number, run_after=1000 + number % 3)
    now = database.now()
    database.execute(f"UPDATE job SET run_after = {now} + 1000 + id % 3")
    before = job_rows(database)
    write_config([database], {"url": redis_server.url, "dialect": dialect})
    run()
    assert len(Resque(redis).jobs()) == 40
    foreign: Any = b'{"class":"Native","args":[1],"queue":"q"}'
    second = now + 1001
    third: Any = texts(redis, f"resque:delayed:{second}")[3]
    redis.linsert(f"resque:delayed:{second}", "BEFORE", third, foreign)
    redis.sadd(f"resque:timestamps:{foreign.decode()}", f"delayed:{second}")

    assert rollback() == {"returned": 40}

    assert without_id(job_rows(database)) == without_id(before)
    assert {second: [job.text for job in jobs] for second, jobs in Resque(redis).delayed().items()} == {
        second: [foreign]
    }


@pytest.mark.parametrize("dialect", ["ruby", "node"])
def test_a_delayed_job_that_a_scheduler_has_moved_is_known_by_its_content(
    dialect: str,
    innodb: Database,
    redis_server: RedisServer,
    redis: Redis,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    for number in (1, 1, 2):
        enqueue(innodb, "Worker::Mail", b'{"n":%d,"f":1.50}' % number, run_after=1000)
    write_config([innodb], {"url": redis_server.url, "dialect": dialect})
    run()
    innodb.execute(f"UPDATE {OUTBOX} SET run_after = run_after - 1000, moved_at = moved_at - 2000")
    for key in list(redis.scan_iter("resque:delayed*")) + list(redis.scan_iter("resque:timestamps:*")):
        redis.delete(key)
    # As resque-scheduler pushes it; another such job is done already, and one was never ours.
    for number in (1, 2, 3):
        text = f'{{"class":"Worker::Mail","args":[{{"f":1.5,"n":{number}}}]}}'
        redis.rpush(QUEUE, text)
    redis.sadd("resque:queues", "worker_mail")

    assert rollback() == {"returned": 2, "gone": 1}

    assert sorted(json.loads(row.arg or b"")["n"] for row in job_rows(innodb)) == [1, 2]
    assert [json.loads(text)["args"][0]["n"] for text in texts(redis)] == [3]


def test_a_job_whose_uniqkey_is_held_in_qudo_is_not_taken(
    database: Database, redis_server: RedisServer, redis: Redis, write_config: WriteConfig, run: Run, rollback: Rollback
) -> None:
    for key in ("Ä", "b", None):
        enqueue(database, "Worker::Mail", b"[]", key)
    write_config([database], redis_server)
    run()
    enqueue(database, "Worker::Mail", b"[1]", "Ä")
    enqueue(database, "Worker::Thumb", b"[1]", "b")

    assert rollback(status=1) == {"returned": 2, "held": 1}

    assert len(texts(redis)) == 1
    assert database.count(PENDING) == 1
    database.execute("DELETE FROM job WHERE arg = '[1]'")
    assert rollback() == {"returned": 1}
    assert database.count(PENDING) == 0


def test_a_job_that_collides_all_the_same_stays_on_its_way_and_is_tried_again(
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    fill(database, 50, uniqkey="k{n}")
    write_config([database], redis_server)
    run()
    cli.env[VARIABLE] = "rollback.fenced=kill"
    assert cli("rollback").status == -9
    del cli.env[VARIABLE]
    assert (redis.hlen(RETURNING), database.count()) == (50, 0)
    enqueue(database, "Worker::Mail", b"[1]", "k7")
    enqueue(database, "Worker::Mail", b"[1]", "k33")

    assert rollback(status=1) == {"returned": 48, "collided": 2}

    assert (redis.hlen(RETURNING), database.count(), database.count(OUTBOX)) == (2, 50, 2)
    database.execute("DELETE FROM job WHERE arg = '[1]'")
    assert rollback() == {"returned": 2}
    assert redis.hget(RETURNED, "main") == b"50"
    nothing_left(database, redis)


def test_looks_that_never_find_rest_are_named(
    innodb: Database, redis_server: RedisServer, write_config: WriteConfig, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(innodb, 3)
    write_config([innodb], redis_server)
    config = configured({"main": innodb}, redis_server)
    run()
    monkeypatch.setattr(engine_rollback, "MOST_PASSES", 1)
    result = engine_rollback.rollback(config, config.source, RollbackOptions(), Stop(), Reporter())
    assert result.exit_status == 1
    assert [error.error for error in result.errors] == [
        "source main: the last of 1 looks through Resque still found new jobs"
    ]
    assert innodb.count() == 3


def test_a_dry_run_counts_and_writes_nothing(
    database: Database, redis_server: RedisServer, redis: Redis, write_config: WriteConfig, run: Run, rollback: Rollback
) -> None:
    fill(database, 20)
    fill(database, 5, func="Worker::Thumb", run_after=900)
    write_config([database], redis_server)
    run()
    redis.lpop(QUEUE)
    with nothing_written(database, redis):
        assert rollback("--dry-run") == {"returned": 24, "gone": 1}
        assert rollback("--dry-run", "--func", "Worker::T*") == {"returned": 5}
    assert rollback() == {"returned": 24, "gone": 1}


def test_a_source_from_which_nothing_crossed_is_left_alone(
    database: Database, redis_server: RedisServer, redis: Redis, write_config: WriteConfig, rollback: Rollback
) -> None:
    fill(database, 3)
    write_config([database], redis_server)
    with nothing_written(database, redis):
        assert rollback() == {}


def test_purged_jobs_stay_in_resque(
    innodb: Database,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    fill(innodb, 20)
    write_config([innodb], redis_server)
    run("--purge")
    fill(innodb, 10)
    run()
    assert rollback() == {"returned": 10, "purged": 20}
    assert len(texts(redis)) == 20


def test_a_purge_leaves_rows_of_jobs_on_their_way(
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    fill(database, 20)
    write_config([database], redis_server)
    run()
    cli.env[VARIABLE] = "rollback.fenced=kill"
    assert cli("rollback").status == -9
    del cli.env[VARIABLE]
    assert cli("purge", "--older-than", "0", "--json").json()["sources"][0]["purged"] == 0
    assert rollback() == {"returned": 20}


def test_a_job_whose_row_was_purged_under_it_goes_back_to_resque(
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    fill(database, 3)
    enqueue(database, "Worker::Mail", b"{}", run_after=900)
    write_config([database], redis_server)
    run()
    before = {job.identity: job.text for job in Resque(redis).jobs()}
    cli.env[VARIABLE] = "rollback.fenced=kill"
    assert cli("rollback").status == -9
    del cli.env[VARIABLE]
    database.execute(f"DELETE FROM {OUTBOX}")  # a purge that had looked before the jobs were taken

    assert rollback()["purged"] == 4

    assert {job.identity: job.text for job in Resque(redis).jobs()} == before
    assert database.count() == 0
    assert redis.hlen(RETURNING) == 0


def test_without_proof_of_durability_nothing_is_touched_unless_forced(
    innodb: Database, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 10)
    with RedisServer(appendonly="no") as server:
        write_config({"main": innodb}, server)
        assert cli("run").status == 0
        refused = cli("rollback")
        assert refused.status == 1
        assert "no append-only file" in refused.stdout
        assert (innodb.count(), cli("status", "--json").json()["paused"]) == (0, [])
        forced = cli("rollback", "--force")
        assert forced.status == 0
        assert "--force ignored" in forced.stdout
        assert innodb.count() == 10


def test_an_open_move_is_named(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    fill(innodb, 10)
    write_config([innodb], redis_server)
    run()
    fill(innodb, 10)
    cli.env[VARIABLE] = "move.deleted=stop"
    mover = cli.start("run")
    del cli.env[VARIABLE]
    try:
        mover.wait_until(lambda: Path(f"/proc/{mover.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        result = cli("rollback")
    finally:
        mover.kill()  # else dropping the database would wait for its transaction
    assert result.status == 1, result.stdout + result.stderr
    assert "open transaction" in result.stdout
    assert "Next: qudo-migrate rollback" in result.stdout
    wait_until(lambda: innodb.count() == 20, 10, "ten are back, and those of the killed move never left")


@pytest.fixture
def full_redis(redis_server: RedisServer, redis: Redis) -> Iterator[Redis]:
    yield redis
    redis.config_set("maxmemory", 0)


def test_a_full_redis_gives_nothing_away_and_loses_nothing(
    innodb: Database, redis_server: RedisServer, full_redis: Redis, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    fill(innodb, 500)
    write_config([innodb], redis_server)
    run()
    full_redis.config_set("maxmemory", 1_000_000)
    result = cli("rollback")
    assert result.status == 3
    assert "out of memory" in result.stdout
    full_redis.config_set("maxmemory", 0)
    assert cli("rollback").status == 0
    assert (innodb.count(), len(texts(full_redis))) == (500, 0)


class Speed(NamedTuple):
    engine: str
    seconds: float


@pytest.mark.slow
@pytest.mark.parametrize(
    ("database", "jobs"), [("innodb", 100_000), ("myisam", 15_000), ("sqlite", 15_000)], indirect=["database"]
)
def test_many_chunks_return(
    jobs: int,
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    write_config: WriteConfig,
    run: Run,
    rollback: Rollback,
) -> None:
    """How long it takes, `scripts/bench --part rollback` tells."""
    fill(database, jobs)
    write_config([database], redis_server)
    run()
    assert rollback() == {"returned": jobs}
    assert database.count() == jobs
    assert redis.llen(QUEUE) == 0

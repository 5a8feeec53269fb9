"""`rollback --include-native`: jobs born in Resque go into Qudo, as an enqueue there would have written them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from redis import Redis

from migrate import DuplicateJob, Enqueuer
from migrate.engine.over import natives_over
from migrate.failpoints import VARIABLE
from migrate.resque.steps import KeyGuard, Step
from migrate.resque.target import Target
from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.dualwriting import FUNC, QUEUE, configured, put_step
from tests.integration.snapshots import nothing_written
from tests.integration.test_rollback import Rollback, nothing_left, rollback, without_id
from tests.qudo_app import JobRow, enqueue, fill, job_rows
from tests.resque_app import Resque, ResqueWorker
from tests.servers import Database, RedisServer
from tests.servers.command import Cli

__all__ = ["rollback"]  # the fixture

NATIVES = "resque:qudo_migrate:returning:native:main"
RETURNED = "resque:qudo_migrate:returned:native"
UNIQUE = f"resque:qudo_migrate:unique:{FUNC}"

ARGS: list[Any] = [
    {"a": [1.0, "0123", 9007199254740993, 2**70, None, "鮎", -0.0, True, {}]},
    [],
    [[1, "1"], {}],
]


@pytest.fixture
def ready(database: Database, redis_server: RedisServer, write_config: WriteConfig, run: Run) -> Mapping[str, Database]:
    """A database that belongs to the session's Redis."""
    write_config([database], redis_server)
    run()
    return {"main": database}


def without_times(rows: list[JobRow]) -> list[tuple[Any, ...]]:
    """Rows without id; enqueue_time to 0, run_after to what it is after that."""
    return sorted(((*row[1:4], 0, row[5], row[6] - row[4], *row[7:]) for row in rows), key=repr)


def test_rows_are_those_that_an_enqueue_into_qudo_writes(
    ready: Mapping[str, Database],
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    rollback: Rollback,
    run: Run,
) -> None:
    def enqueue_all(jobs: Enqueuer) -> None:
        for number, arg in enumerate(ARGS):
            jobs.enqueue(FUNC, arg, uniqkey=f"Key ä {number}", priority=number, run_after=4000 * (number % 2))
        jobs.enqueue(FUNC, {"n": 1})
        jobs.enqueue("Worker::Néw", "text")  # by value: no serializer, and no row of `func` before it
        jobs.enqueue("Worker::Néw", None)

    for func in (FUNC, "Worker::Néw"):
        put_step(redis_server, Step.QUDO, func=func)
    with Enqueuer(configured(ready, redis_server)) as jobs:
        enqueue_all(jobs)
    expected = job_rows(database)
    assert len(expected) == 6
    database.execute("DELETE FROM job")
    database.execute(f"DELETE FROM func WHERE name <> '{FUNC}'")
    for func in (FUNC, "Worker::Néw"):
        put_step(redis_server, Step.RESQUE, func=func, guard=KeyGuard.REDIS)
    with Enqueuer(configured(ready, redis_server)) as jobs:
        enqueue_all(jobs)
        assert len(Resque(redis).jobs()) == 6
        assert rollback() == {"native": 6}
        assert rollback("--include-native") == {"returned": 6, "returned_native": 6}
        assert without_times(job_rows(database)) == without_times(expected)
        assert (Resque(redis).jobs(), redis.hgetall(UNIQUE)) == ([], {})
        assert redis.hgetall(RETURNED) == {b"main": b"6"}
        nothing_left(database, redis)
        # The keys are `job`'s now, and apps that stand on step resque look there.
        with pytest.raises(DuplicateJob):
            jobs.enqueue(FUNC, {}, uniqkey="kEY Ä 2" if database.engine == "InnoDB" else "Key ä 2")
    assert rollback("--include-native") == {}
    assert len(job_rows(database)) == 6


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_what_stays_in_resque_is_told(
    ready: Mapping[str, Database],
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    rollback: Rollback,
    write_config: WriteConfig,
    run: Run,
) -> None:
    fill(database, 3)
    run()
    put_step(redis_server, Step.RESQUE, guard=KeyGuard.BOTH)
    resque = Resque(redis)
    with Enqueuer(configured(ready, redis_server)) as jobs:
        for number in range(10, 16):
            jobs.enqueue(FUNC, {"n": number}, uniqkey=str(number))
    for _ in range(3):
        redis.lpop(f"resque:queue:{QUEUE}")  # done
    working, failed = ResqueWorker(resque, "host:1:*"), ResqueWorker(resque, "host:2:*")
    working.take(QUEUE)
    failed.fail(failed.take(QUEUE))
    text = json.loads(redis.lpop(f"resque:queue:{QUEUE}") or b"")  # type: ignore[arg-type]
    spread = {**text, "args": [1, 2]}  # no arg could give these
    elsewhere = {**text, "qudo": {**text["qudo"], "source": "other"}}
    redis.rpush(f"resque:queue:{QUEUE}", json.dumps(spread), json.dumps(elsewhere), '{"class":"X","args":["native"]}')
    enqueue(database, FUNC, b"{}", "13")
    with nothing_written(database, redis):
        expected = {"returned": 2, "returned_native": 2, "started": 2, "held": 1, "native": 1, "gone": 3}
        assert rollback("--include-native", "--dry-run", status=1) == expected
        assert rollback("--include-native", "--dry-run", "--func", "Worker::T*") == {}

    assert rollback("--include-native", status=1) == expected

    assert [json.loads(row.arg or b"") for row in job_rows(database)] == [{}, {"n": 14}, {"n": 15}]
    assert len(resque.queue(QUEUE)) == 4
    shown = cli("rollback", "--include-native")
    assert "cutover back --func 'Worker::Mail'" in shown.stdout
    assert cli("status", "--json").json()["history"][0]["options"]["include_native"] is True
    database.execute("DELETE FROM job WHERE arg = '{}'")
    put_step(redis_server, Step.SWITCHED, guard=KeyGuard.BOTH)
    assert rollback("--include-native", status=1)["returned"] == 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_its_arg_is_written_by_the_serializer_of_its_func(
    ready: Mapping[str, Database],
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    rollback: Rollback,
    write_config: WriteConfig,
) -> None:
    route = {"func": FUNC, "serializer": "messagepack", "args": "spread"}
    write_config([database], redis_server, [route])
    put_step(redis_server, Step.RESQUE)
    with Enqueuer(configured(ready, redis_server, route)) as jobs:
        for arg in ([1, "鮎"], [], {"a": 1}, [[2]]):
            jobs.enqueue(FUNC, arg)
    assert rollback("--include-native", status=1) == {"returned": 2, "returned_native": 2, "native": 2}
    assert [row.arg for row in job_rows(database)] == [b"\x92\x01\xa3\xe9\xae\x8e", b"\x90"]
    assert sorted(job.args[0].__class__.__name__ for job in Resque(redis).jobs()) == ["dict", "list"]


def test_a_key_on_its_way_is_held_and_a_collision_is_tried_again(
    ready: Mapping[str, Database],
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    rollback: Rollback,
) -> None:
    put_step(redis_server, Step.RESQUE, guard=KeyGuard.BOTH)
    with Enqueuer(configured(ready, redis_server)) as jobs:
        for number in range(30):
            jobs.enqueue(FUNC, {"n": number}, uniqkey=f"k{number}")
        cli.env[VARIABLE] = "rollback.fenced=kill"
        assert cli("rollback", "--include-native").status == -9
        del cli.env[VARIABLE]
        assert (redis.hlen(NATIVES), database.count()) == (30, 0)
        with pytest.raises(DuplicateJob):
            jobs.enqueue(FUNC, {"n": 1}, uniqkey="k7")
    target = Target.open(redis_server.url, "resque")
    held = [holder.decode() for holder in redis.hvals(UNIQUE)]  # type: ignore[union-attr]
    assert natives_over(target, held) == set()
    target.close()
    enqueue(database, FUNC, b"[1]", "k7")  # an app of Perl's, which can't know
    report = cli("verify", "--json").json()
    assert (report["totals"]["returning"], report["totals"]["native"]) == (30, 0)
    assert report["next"].startswith("qudo-migrate rollback")

    # Whatever it is asked for, a rollback ends what another has begun.
    assert rollback(status=1) == {"returned": 29, "returned_native": 29, "collided": 1}

    assert (redis.hlen(NATIVES), redis.hlen(UNIQUE), database.count()) == (1, 1, 30)
    database.execute("DELETE FROM job WHERE arg = '[1]'")
    assert rollback() == {"returned": 1, "returned_native": 1}
    assert without_id(job_rows(database))
    assert redis.hlen(UNIQUE) == 0
    nothing_left(database, redis)

"""What a job of `qudo-migrate work` can do and see, and what is left of it when it is over."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest
from redis import Redis

from migrate import DuplicateJob, Enqueuer
from migrate.resque.steps import KeyGuard, Step
from migrate.resque.unique_keys import Spelling
from tests.conftest import WriteConfig
from tests.integration.dualwriting import configured, put_step
from tests.integration.working import Pool, title
from tests.servers import Database, RedisServer
from tests.servers.command import Cli
from tests.servers.waiting import wait_until

APP = """
import functools, subprocess


@job.before
def before_all(running):
    note("before", running.class_name)


@job.after
async def after_all(running):
    await asyncio.sleep(0)
    note("after", running.class_name)


@job.failed
def failed_all(running, error):
    note("failed", running.class_name, type(error).__name__, "last" if running.is_last else "again")
    raise ValueError("a hook's own fault changes nothing")


def refuses(running):
    raise RuntimeError("not today")


@job("Worker::Sees", after=lambda running: note("own after"))
def sees(arg, running: RunningJob):
    assert current_job() is running
    note(running.id, running.source, running.identity, running.queue, running.uniqkey, running.attempt,
         running.priority, running.timeout, arg)


@job("Worker::Refused", before=refuses)
def refused(arg):
    note("never")


def logged(function):
    @functools.wraps(function)
    def inner(*args, **more):
        return function(*args, **more)
    return inner


@job("Worker::Async")
@logged
async def behind_a_decorator(arg, running: RunningJob):
    await asyncio.sleep(0)
    note("async", arg, current_job().class_name)


@job("Worker::AsyncSlow", timeout=0.2)
async def slow(arg):
    try:
        await asyncio.sleep(60)
    finally:
        note("cleaned up")


@job("Worker::Stubborn", timeout=0.2)
def stubborn(arg):
    note("stubborn", os.getpid(), subprocess.Popen(["sleep", "60"]).pid)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            note("stays")


@job("Worker::Exits", max_retries=1)
def exits(arg):
    raise SystemExit(3)


@job("Worker::Once")
def once(arg, running: RunningJob):
    note("once", arg, int(time.time()))


@job("Worker::Keyed", max_retries=1, retry_delay=1)
def keyed(arg, running: RunningJob):
    note("keyed", running.uniqkey, running.attempt)
    if arg == "fails":
        raise ValueError("it fails")


@job("Worker::Backs", max_retries=3, retry_delay=backoff(100, factor=10, longest=5000, jitter=0.5))
def backs(arg, running: RunningJob):
    note("backs", running.attempt)
    raise ValueError("it fails")
"""


@pytest.fixture
def pool(cli: Cli, redis_server: RedisServer, redis: Redis, sqlite: Database, write_config: WriteConfig) -> Pool:
    write_config([sqlite], redis_server, [{"func": "Worker::Routed", "max_retry": 1}, {"func": "*", "timeout": 77}])
    return Pool(cli, redis, APP)


@pytest.mark.parametrize("options", [(), ("--no-fork",)], ids=["fork", "no fork"])
def test_functions_and_hooks_see_the_job(options: tuple[str, ...], pool: Pool) -> None:
    origin = {"source": "main", "id": 7, "outbox": "00000000000000aa-3", "uniqkey": "k", "priority": 5, "retry_cnt": 2}
    pool.push("Worker::Sees", "0123", qudo=origin)
    pool.push("Worker::Refused")
    pool.push("Worker::Async", 9007199254740993)
    pool.push("Worker::AsyncSlow")
    pool.start(*options)
    pool.wait_ran(
        *("before Worker::Sees", "7 main 00000000000000aa-3 mail k 3 5 77.0 0123", "own after", "after Worker::Sees"),
        *("before Worker::Refused", "failed Worker::Refused RuntimeError last"),
        *("before Worker::Async", "async 9007199254740993 Worker::Async", "after Worker::Async"),
        *("before Worker::AsyncSlow", "cleaned up", "failed Worker::AsyncSlow Terminated last"),
    )
    wait_until(lambda: len(pool.failures) == 2, 10, "two are on record")
    assert [failure["error"] for failure in pool.failures] == ["not today", pool.failures[1]["error"]]
    assert "longer than" in pool.failures[1]["error"]


@pytest.mark.parametrize(
    ("options", "exception"), [((), "TimedOut"), (("--no-fork",), "DirtyExit")], ids=["fork", "no fork"]
)
def test_a_job_that_heeds_no_time_limit_is_killed(options: tuple[str, ...], exception: str, pool: Pool) -> None:
    pool.push("Worker::Stubborn")
    pool.push("Worker::Exits")
    pool.start("--grace", "0.3", *options)
    wait_until(lambda: len(pool.failures) == 3, 20, "it is on record, and the next job has run")
    assert "stays" in pool.ran  # it was asked to end first
    assert [failure["exception"] for failure in pool.failures] == [exception, "SystemExit", "SystemExit"]
    _, job, started = next(line for line in pool.ran if line.startswith("stubborn")).split()
    assert title(int(job)) == ""
    if not options:
        assert title(int(started)) == ""  # what it has started is killed too
    else:
        os.kill(int(started), signal.SIGKILL)


def test_a_job_that_came_too_early_runs_in_its_second(pool: Pool, redis: Redis) -> None:
    pool.start("--no-fork")
    due = int(redis.time()[0]) + 2
    jobs = [{"start_time": due, "args": [number]} for number in range(600)]  # more than one turn puts off
    jobs += [{"start_time": str(due), "args": ["text"]}, {"start_time": 5, "args": ["old"]}, {"args": ["now"]}]
    redis.rpush("resque:queue:mail", *(json.dumps({"class": "Worker::Once", **each}) for each in jobs))

    def ran() -> dict[str, int]:
        return {words[1]: int(words[2]) for words in map(str.split, pool.ran) if words[0] == "once"}

    wait_until(lambda: len(ran()) == 603, 20, "all have run")
    assert list(ran())[:2] == ["old", "now"]
    assert min(second for name, second in ran().items() if name not in ("old", "now")) >= due
    assert pool.failures == []
    assert not redis.keys("resque:timestamps:*")


def test_a_second_that_something_else_uses_loses_no_early_job(pool: Pool, redis: Redis) -> None:
    due = int(redis.time()[0]) + 1000
    redis.set(f"resque:delayed:{due}", "by something else")
    pool.push("Worker::Once", 1, start_time=due)
    pool.start("--no-scheduler")
    wait_until(
        lambda: [line for line in pool.ran if line.startswith("once 1 ")], 10, "it runs at once rather than never"
    )


def test_counts_survive_restarts_and_pauses_grow(pool: Pool, redis: Redis) -> None:
    """Each failure is on record with what was known, and the last is final; the pool is another one each time."""
    pool.push("Worker::Backs", retry_count=1)
    for attempt, longest in ((2, 1000), (3, 5000)):
        command = pool.start()
        wait_until(lambda: redis.zcard("resque:delayed_queue_schedule"), 10, "it is put off")
        pool.end(command, signal.SIGTERM)
        assert f"backs {attempt}" in pool.ran
        second: Any = redis.zrange("resque:delayed_queue_schedule", 0, 0)[0]
        pause = int(second) - time.time()
        assert longest / 2 - 2 < pause < longest + 2
        text = redis.lindex(f"resque:delayed:{int(second)}", 0)
        assert json.loads(text)["retry_count"] == attempt  # type: ignore[arg-type]
        redis.delete("resque:delayed_queue_schedule", f"resque:delayed:{int(second)}")
        redis.rpush("resque:queue:mail", text)  # type: ignore[arg-type]
    command = pool.start()
    wait_until(lambda: len(pool.failures) == 3, 10, "the last is final")
    assert ["retried_at" in failure for failure in pool.failures] == [True, True, False]
    assert pool.failures[2]["payload"]["retry_count"] == 3


def test_rules_come_from_the_decorator_then_the_payload_then_the_route(pool: Pool) -> None:
    pool.push("Worker::Exits", max_retry=5)  # its decorator says 1
    pool.push("Worker::Unknown", max_retry=2)
    pool.push("Worker::Routed")
    pool.start("--no-scheduler")
    wait_until(lambda: len(pool.failures) == 2 + 1 + 1, 10, "all are on record")
    by_class: dict[str, list[Any]] = {}
    for failure in pool.failures:
        by_class.setdefault(failure["payload"]["class"], []).append(failure)
    assert [failure["exception"] for failure in by_class["Worker::Exits"]] == ["SystemExit", "SystemExit"]
    assert len(by_class["Worker::Unknown"]) == 1  # a class that nobody knows isn't tried again
    assert "Worker::Keyed" in by_class["Worker::Unknown"][0]["error"]


def test_a_uniqkey_that_redis_guards_is_free_once_its_job_is_over(
    pool: Pool, redis: Redis, redis_server: RedisServer, sqlite: Database
) -> None:
    """And not before: while a retry waits, the key is held."""
    put_step(redis_server, Step.SWITCHED, func="Worker::Binds")
    with Enqueuer(configured({"main": sqlite}, redis_server)) as jobs:
        jobs.enqueue("Worker::Binds", {})
    put_step(redis_server, Step.RESQUE, func="Worker::Keyed", guard=KeyGuard.REDIS, spelling=Spelling.BYTES)
    held = "resque:qudo_migrate:unique:Worker::Keyed"
    with Enqueuer(configured({"main": sqlite}, redis_server)) as jobs:
        jobs.enqueue("Worker::Keyed", "fine", uniqkey="Fine")
        jobs.enqueue("Worker::Keyed", "fails", uniqkey="Fails")
        assert set(redis.hkeys(held)) == {b"Fine", b"Fails"}
        command = pool.start(queues="worker_keyed")
        wait_until(lambda: "keyed Fails 1" in pool.ran and len(pool.failures) == 1, 10, "one is done, one waits")
        assert redis.hkeys(held) == [b"Fails"]
        with pytest.raises(DuplicateJob):
            jobs.enqueue("Worker::Keyed", "fails", uniqkey="Fails")
        wait_until(lambda: len(pool.failures) == 2, 10, "it has failed for good")
        assert redis.hkeys(held) == []
        jobs.enqueue("Worker::Keyed", "fine", uniqkey="fails")
        jobs.enqueue("Worker::Keyed", "fine", uniqkey="fine")
        keyed = ["keyed Fine 1", "keyed Fails 1", "keyed Fails 2", "keyed fails 1", "keyed fine 1"]
        wait_until(lambda: [line for line in pool.ran if line.startswith("keyed")] == keyed, 10, "both are accepted")
        pool.end(command)
        assert redis.hkeys(held) == []

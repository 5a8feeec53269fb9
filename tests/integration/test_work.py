"""`qudo-migrate work`: real workers on a real Redis, seen from outside."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.working import Pool, children, parent, title, worker_of
from tests.servers import RedisServer
from tests.servers.command import Cli
from tests.servers.databases import Database
from tests.servers.waiting import wait_until

APP = """

@job("Worker::Mail")
def mail(arg):
    note("mail", arg["n"])


@job("Worker::Later")
async def later(arg, running: RunningJob):
    await asyncio.sleep(0)
    note("later", arg["n"], running.queue, current_job().attempt)


@job("Worker::Fails", max_retries=2, retry_delay=1)
def fails(arg, running: RunningJob):
    note("fails", running.attempt)
    raise ValueError("it fails")


@job("Worker::Aborts", max_retries=5)
def aborts(arg):
    note("aborts")
    raise Abort("never again")


@job("Worker::Slow", timeout=0.3)
def slow(arg):
    note("slow begins")
    time.sleep(30)


@job("Worker::Closes", timeout=0.3)
def closes(arg):
    note("closes")
    os.closerange(3, 64)
    time.sleep(30)


@job("Worker::Sleeps")
def sleeps(arg):
    note("sleeps", os.getpid())
    time.sleep(arg["seconds"])
    note("slept")
"""


@pytest.fixture
def pool(cli: Cli, redis_server: RedisServer, redis: Redis, sqlite: Database, write_config: WriteConfig) -> Pool:
    write_config([sqlite], redis_server)
    return Pool(cli, redis, APP)


def test_jobs_run_in_the_order_of_the_queues_and_term_ends_the_pool(pool: Pool, redis: Redis) -> None:
    pool.push("Worker::Later", {"n": 3}, queue="other")
    for number in (1, 2):
        pool.push("Worker::Mail", {"n": number})
    command = pool.start()
    wait_until(lambda: len(pool.ran) == 3, 10, "all run")
    assert pool.ran == ["mail 1", "mail 2", "later 3 other 1"]
    wait_until(lambda: redis.get("resque:stat:processed") == b"3", what="they are counted")
    assert pool.end(command, signal.SIGTERM) == {"command": "work", "done": 3, "failed": 0}
    assert redis.smembers("resque:workers") == set()
    assert redis.keys("resque:worker:*") == []
    assert pool.failures == []


def test_a_job_that_fails_is_tried_again_as_often_as_it_says(pool: Pool, redis: Redis) -> None:
    pool.push("Worker::Fails")
    pool.start()
    wait_until(lambda: len(pool.failures) == 3, 20, "three failures are on record")
    assert pool.ran == ["fails 1", "fails 2", "fails 3"]
    assert {failure["error"] for failure in pool.failures} == {"it fails"}
    assert {failure["exception"] for failure in pool.failures} == {"ValueError"}
    assert {failure["queue"] for failure in pool.failures} == {"mail"}
    time.sleep(1.5)  # longer than its delay: there is no fourth try
    assert len(pool.ran) == 3
    assert redis.zcard("resque:delayed_queue_schedule") == 0


def test_failures_without_another_try(pool: Pool) -> None:
    for name in ("Worker::Aborts", "Worker::Unknown", "Worker::Slow", "Worker::Closes"):
        pool.push(name)
    pool.start()
    wait_until(lambda: len(pool.failures) == 4, 20, "all four are on record")
    assert pool.ran == ["aborts", "slow begins", "closes"]
    by_class = {failure["payload"]["class"]: failure for failure in pool.failures}
    assert "never again" in by_class["Worker::Aborts"]["error"]
    assert "Worker::Unknown" in by_class["Worker::Unknown"]["error"]
    assert by_class["Worker::Slow"]["exception"].endswith("TimedOut")
    assert [line.rsplit(":in ")[1] for line in by_class["Worker::Slow"]["backtrace"]] == ["`slow'"]
    assert by_class["Worker::Closes"]["exception"].endswith("TimedOut")  # though it has hung up


@pytest.mark.parametrize("options", [(), ("--jobs-per-fork", "10"), ("--no-fork",)], ids=" ".join)
def test_each_way_of_forking_runs_each_job_once(pool: Pool, options: tuple[str, ...]) -> None:
    for number in range(200):
        pool.push("Worker::Mail", {"n": number})
    pool.start(*options, workers=2)
    wait_until(lambda: len(pool.ran) >= 200, 30, "all run")
    assert sorted(pool.ran) == sorted(f"mail {number}" for number in range(200))


def test_quit_lets_the_job_in_hand_end(pool: Pool) -> None:
    pool.push("Worker::Sleeps", {"seconds": 1})
    command = pool.start()
    wait_until(lambda: pool.ran, 10, "it sleeps")
    command.send(signal.SIGQUIT)
    assert command.wait(20).status == 0
    assert pool.ran[-1] == "slept"
    assert pool.failures == []


def test_a_child_that_is_killed_leaves_a_failure_and_the_worker_goes_on(pool: Pool) -> None:
    pool.push("Worker::Sleeps", {"seconds": 60})
    pool.start()
    wait_until(lambda: pool.ran, 10, "it sleeps")
    child = int(pool.ran[0].split()[1])
    assert Path(f"/proc/{child}").exists()
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: pool.failures, 10, "its failure is on record")
    pool.push("Worker::Mail", {"n": 1})
    wait_until(lambda: pool.ran[-1] == "mail 1", 10, "the next job runs")
    assert len(pool.failures) == 1


def test_the_processes_that_fork_are_replaced_when_they_are_killed(pool: Pool, redis: Redis) -> None:
    pool.push("Worker::Sleeps", {"seconds": 60})
    command = pool.start()
    wait_until(lambda: pool.ran, 10, "it sleeps")
    child = int(pool.ran[0].split()[1])
    worker, server = worker_of(child), parent(child)
    template = parent(server)
    assert parent(template) == command.pid

    os.kill(server, signal.SIGKILL)
    wait_until(lambda: pool.failures, 10, "its job ends with it, and is on record")
    assert "fork server was killed" in pool.failures[0]["error"]
    assert not Path(f"/proc/{child}").exists() or "Sleeps" not in title(child)
    pool.push("Worker::Mail", {"n": 1})
    wait_until(lambda: pool.ran[-1] == "mail 1", 10, "the same worker has another")
    assert pool.workers == {worker}

    os.kill(template, signal.SIGKILL)
    command.wait_for("template was killed by SIGKILL")
    wait_until(lambda: [pid for pid in children(command.pid) if "Template" in title(pid)], 10, "there is another")
    pool.push("Worker::Mail", {"n": 2})
    wait_until(lambda: redis.get("resque:stat:processed") == b"3", 10, "the worker needs none")
    os.kill(worker, signal.SIGKILL)
    pool.push("Worker::Mail", {"n": 3})
    wait_until(lambda: pool.ran[-1] == "mail 3", 20, "the next worker does")
    assert len(pool.failures) == 1
    pool.end(command)
    assert redis.scard("resque:workers") == 0


def test_a_worker_that_is_killed_leaves_a_failure_and_another_takes_its_place(pool: Pool, redis: Redis) -> None:
    pool.push("Worker::Sleeps", {"seconds": 60})
    command = pool.start()
    wait_until(lambda: pool.ran, 10, "it sleeps")
    worker = worker_of(int(pool.ran[0].split()[1]))
    assert worker != command.pid
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: pool.failures, 20, "its failure is on record")
    pool.push("Worker::Mail", {"n": 1})
    wait_until(lambda: pool.ran[-1] == "mail 1", 20, "another worker runs the next job")
    assert len(pool.failures) == 1
    assert redis.scard("resque:workers") == 1


def test_what_a_killed_pool_had_in_hand_is_on_record_once_the_next_one_runs(pool: Pool, redis: Redis) -> None:
    pool.push("Worker::Sleeps", {"seconds": 60})
    command = pool.start("--dead-after", "2")
    wait_until(lambda: pool.ran, 10, "it sleeps")
    command.kill()
    pool.start("--dead-after", "2")
    wait_until(lambda: pool.failures, 30, "its failure is on record")
    assert len(pool.failures) == 1
    assert pool.failures[0]["payload"]["class"] == "Worker::Sleeps"
    wait_until(lambda: redis.scard("resque:workers") == 1, 10, "the dead are pruned")


def tracked(redis: Redis) -> list[dict[str, str]]:
    """The clients that Redis tells of changes: workers that wait."""
    clients: Any = redis.client_list()
    return [each for each in clients if "t" in each["flags"]]


def test_a_pool_without_work_waits_without_asking_all_the_time(pool: Pool, redis: Redis) -> None:
    pool.start("--no-scheduler")
    wait_until(lambda: tracked(redis), what="it waits")
    before = redis.info("commandstats")
    time.sleep(3)
    after = redis.info("commandstats")

    def calls(stats: Any) -> int:
        return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")

    assert calls(after) - calls(before) < 60
    pushed = time.monotonic()
    pool.push("Worker::Mail", {"n": 1})
    wait_until(lambda: pool.ran, what="it runs")
    assert time.monotonic() - pushed < 8, "it was told: a look at random would be ten seconds later"


def test_a_worker_that_waits_hears_of_jobs_when_its_connections_were_ended(pool: Pool, redis: Redis) -> None:
    """A server with `timeout` ends idle clients; the next look at random would be ten seconds later."""
    pool.start("--no-scheduler")
    (asks,) = wait_until(lambda: tracked(redis), what="it waits")
    redis.client_kill_filter(_id=asks["id"])
    wait_until(lambda: [each for each in tracked(redis) if each["id"] != asks["id"]], 8, "it waits anew")
    pool.push("Worker::Mail", {"n": 1})
    wait_until(lambda: pool.ran, 8, "it runs")

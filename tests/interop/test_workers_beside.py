"""`qudo-migrate work` beside node-resque, coffee-resque and pyres: each runs the other's jobs, and tools show ours."""

from __future__ import annotations

import hashlib
import json
import signal
from typing import Any, cast

import pytest
from redis import Redis

from migrate.resque import lua
from tests.conftest import WriteConfig
from tests.interop.arguments import ARGUMENTS, differences
from tests.interop.conftest import Starts
from tests.resque_app import Resque
from tests.servers import RedisServer, wait_until
from tests.servers.command import Cli, RunningCommand
from tests.servers.proxy import Proxy

APP = """
import json, time
from migrate import RunningJob, job


def note(*words):
    with open("ran", "a") as file:
        file.write(json.dumps(words) + "\\n")


@job("Worker::Mail")
def mail(*args):
    note("mail", list(args))


@job("Worker::Fails", max_retries=1, retry_delay=1)
def fails(arg, running: RunningJob):
    note("fails", running.attempt)
    raise ValueError("it fails")


@job("Worker::Sleeps")
def sleeps(seconds):
    note("sleeps")
    time.sleep(seconds)
"""


class Pool:
    """`qudo-migrate work` in dialect node, and what its jobs have noted."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli

    def start(self, *options: str) -> RunningCommand:
        command = self._cli.start("work", "--queues", "mail", "--app", "shop_jobs", "--no-fork", *options)
        command.wait_for("workers are ready")
        return command

    def notes(self, name: str) -> list[Any]:
        path = self._cli.folder / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        return [note[1:] for note in map(json.loads, lines) if note[0] == name]


@pytest.fixture
def pool(cli: Cli, redis_server: RedisServer, redis: Redis, write_config: WriteConfig) -> Pool:
    write_config({"main": "sqlite:////nowhere.db"}, {"url": redis_server.url, "dialect": "node"})
    (cli.folder / "shop_jobs.py").write_text(APP)
    return Pool(cli)


def test_what_it_enqueues_runs_here_value_for_value(pool: Pool, resque: Resque, node_resque: Starts) -> None:
    pool.start()
    values = [value for name, value in ARGUMENTS.items() if name != "large"]  # longer than a command line
    with node_resque(
        enqueue=[["mail", "Worker::Mail", [value, "second"]] for value in values],
        enqueue_in=[[1000, "mail", "Worker::Mail", ["in a second"]]],
    ) as peer:
        assert (peer.answer("enqueued"), peer.answer("enqueued_in")) == (len(values), 1)
    wait_until(lambda: len(pool.notes("mail")) == len(values) + 1, what="all have run")
    *found, last = [args for (args,) in pool.notes("mail")]
    assert last == ["in a second"]
    for value, args in zip(values, found, strict=True):
        assert differences([value, "second"], args) == []
    assert (resque.jobs(), resque.failed()) == ([], [])


def test_what_other_clients_enqueue_runs_here(pool: Pool, resque: Resque, coffee_resque: Starts, pyres: Starts) -> None:
    """Of coffee-resque and pyres."""
    pool.start("--no-scheduler")
    values = [value for name, value in ARGUMENTS.items() if name != "large"]
    jobs = [["mail", "Worker::Mail", [value]] for value in values]
    for peer in (coffee_resque, pyres):
        before = len(pool.notes("mail"))
        with peer(enqueue=jobs, queues=["nobody"]):
            wait_until(lambda: len(pool.notes("mail")) >= before + len(jobs), what="all have run")  # noqa: B023
        for value, (args,) in zip(values, pool.notes("mail")[before:], strict=True):
            assert differences([value], args) == []
    assert (resque.jobs(), resque.failed()) == ([], [])


def test_its_tools_show_our_workers_jobs_failures_and_counters(pool: Pool, redis: Redis, node_resque: Starts) -> None:
    command = pool.start()
    (worker_id,) = cast("set[bytes]", redis.smembers("resque:workers"))
    name = worker_id.decode().rpartition(":")[0]
    jobs = [["mail", "Worker::Mail", [1]], ["mail", "Worker::Unknown", [2]], ["mail", "Worker::Sleeps", [60]]]
    with node_resque(enqueue=jobs):
        wait_until(lambda: pool.notes("sleeps"), what="the last one runs")
    with node_resque(look=True) as peer:
        seen = peer.answer("seen")
    assert seen["workers"] == {name: "mail"}
    working = seen["working"][name]
    assert (working["queue"], working["payload"]["class"], working["worker"]) == ("mail", "Worker::Sleeps", name)
    assert working["run_at"].endswith("(Coordinated Universal Time)")
    counts = {"processed": "2", "failed": "1", f"processed:{name}": "2", f"failed:{name}": "1"}
    assert seen["stats"] == counts
    (failure,) = seen["failed"]
    assert (failure["payload"]["class"], failure["queue"], failure["worker"]) == ("Worker::Unknown", "mail", name)
    command.send(signal.SIGTERM)
    assert command.wait().status == 0
    with node_resque(look=True) as peer:
        seen = peer.answer("seen")
    assert (seen["workers"], seen["working"]) == ({}, {})
    assert seen["stats"] == {"processed": "3", "failed": "2"}


def test_a_job_that_fails_here_is_delayed_for_its_scheduler_and_runs_there(
    pool: Pool, resque: Resque, node_resque: Starts
) -> None:
    command = pool.start("--no-scheduler")
    with node_resque(enqueue=[["mail", "Worker::Fails", [{"鮎": 1}]]]):
        wait_until(resque.failed, what="it has failed")
    command.send(signal.SIGTERM)
    command.wait()
    with node_resque(work=True, schedule=True, classes=["Worker::Fails"]) as peer:
        (job,) = peer.performed(1)
    assert job["args"] == [{"鮎": 1}]
    assert (resque.jobs(), len(resque.failed())) == ([], 1)


def test_no_delayed_job_is_doubled_or_lost_when_our_leader_is_killed_in_mid_move(
    redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, node_resque: Starts
) -> None:
    """Its scheduler moves them meanwhile."""
    client: Any = resque.client
    jobs = 700  # a call of ours moves 500
    move = hashlib.sha1(lua.source("guard", "schedule").encode()).hexdigest()
    with Proxy(redis_server) as proxy, node_resque(schedule=True) as peer:
        peer.answer("leads")
        write_config({"main": "sqlite:////nowhere.db"}, proxy.url(redis_server.url))
        ours = cli.start("schedule")
        ours.wait_for("schedule: leads")
        wait_until(lambda: client.script_exists(move)[0], what="its script is there")
        proxy.hold_request(move.encode())
        proxy.wait_held()
        ours.send(signal.SIGSTOP)  # it will never hear the answer
        second = int(client.time()[0])
        with client.pipeline() as pipe:
            for n in range(jobs):
                text = json.dumps({"class": "Worker::Mail", "args": [n], "queue": "mail"})
                pipe.rpush(f"resque:delayed:{second}", text)
                pipe.sadd(f"resque:timestamps:{text}", f"delayed:{second}")
            pipe.zadd("resque:delayed_queue_schedule", {str(second): second})
            pipe.execute()
        wait_until(lambda: client.llen("resque:queue:mail"), what="the other has moved some")
        calls = _calls(client)
        proxy.release()
        wait_until(lambda: _calls(client) > calls, what="the move is made")
        ours.kill()
        wait_until(lambda: client.llen("resque:queue:mail") >= jobs, 30, "all have moved")
        wait_until(lambda: not client.exists("resque:delayed_queue_schedule"), what="the schedule is empty")
    moved = resque.jobs()
    assert sorted(job.args[0] for job in moved) == list(range(jobs))
    by_us = sum(list(job.payload) == ["class", "args", "queue"] for job in moved)  # the other writes texts anew
    assert 0 < by_us < jobs, "one of the two did nothing: this test has proved nothing"
    assert not client.keys("resque:timestamps:*")


def _calls(client: Any) -> int:
    """How many scripts have run."""
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])

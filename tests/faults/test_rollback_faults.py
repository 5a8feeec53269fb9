"""Promises 1 to 3 on the way back: whatever is killed, sleeps or races, each job is in Qudo or runs in Resque, once."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from redis import Redis

from migrate.failpoints import POINTS, VARIABLE
from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.following import Following
from tests.qudo_app import enqueue, fill, job_rows
from tests.resque_app import Resque
from tests.servers import Database, RedisServer
from tests.servers.command import Cli, RunningCommand
from tests.servers.waiting import wait_until

OUTBOX, NOTES = "qudo_migrate_outbox", "qudo_migrate_returned"
RETURNING, RETURNED = "resque:qudo_migrate:returning:main", "resque:qudo_migrate:returned"
QUEUE = "resque:queue:worker_mail"


def numbers(database: Database) -> Counter[int]:
    """The jobs in Qudo, by the number in their arg."""
    return Counter(json.loads(row.arg or b"")["n"] for row in job_rows(database))


def in_resque(redis: Redis) -> Counter[int]:
    """The jobs that wait in Resque."""
    return Counter(job.args[0]["n"] for job in Resque(redis).jobs())


def age(database: Database) -> None:
    """Jobs with a uniqkey that were enqueued just now move one by one."""
    database.execute("UPDATE job SET enqueue_time = enqueue_time - 600")


def nothing_half_done(database: Database, redis: Redis) -> None:
    assert not redis.exists(RETURNING)
    assert database.count(NOTES) == 0
    assert database.count(where="grabbed_until > 0") == 0


def returned(redis: Redis) -> int:
    count: Any = redis.hget(RETURNED, "main")
    return int(count or 0)


class Kill(NamedTuple):
    engine: str
    point: str
    at: int = 1


def _kills() -> Iterator[Kill]:
    for point in ("paused", "claimed", "taken", "fenced", "forgotten", "ended"):
        yield Kill("innodb", f"rollback.{point}")
    for engine in ("innodb", "myisam", "sqlite"):
        yield Kill(engine, "rollback.taken", 4)
        yield Kill(engine, "rollback.forgotten", 2)
    for engine in ("innodb", "sqlite"):
        yield Kill(engine, "rollback.inserted", 2)
        yield Kill(engine, "rollback.committed")
    for point in ("leased", "noted", "freed"):
        yield Kill("myisam", f"rollback.{point}")
        yield Kill("myisam", f"rollback.{point}", 2)


KILLS = list(_kills())


@pytest.mark.parametrize(
    ("database", "kill"),
    [(kill.engine, kill) for kill in KILLS],
    ids=[f"{kill.engine}-{kill.point}-{kill.at}" for kill in KILLS],
    indirect=["database"],
)
def test_a_killed_rollback_is_ended_by_the_next(
    kill: Kill, database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    """1,300 queued jobs, 50 delayed ones, 300 that were never handed off."""
    jobs = Counter(range(1, 1651))
    fill(database, 1300, uniqkey="k{n}")
    age(database)
    write_config([database], redis_server)
    assert cli("run").status == 0
    for number in range(1301, 1351):
        enqueue(database, "Worker::Mail", b'{"n":%d}' % number, run_after=2000)
    assert cli("run").status == 0
    fill(database, 1650)
    database.execute("DELETE FROM job WHERE id <= (SELECT m FROM (SELECT MIN(id) + 1349 AS m FROM job) AS first)")
    cli.env[VARIABLE] = f"{'move.committed' if database.transactional else 'leasing.ready'}=kill"
    assert cli("run", "--batch-size", "300").status == -signal.SIGKILL
    assert (database.count(), in_resque(redis).total()) == (0, 1350)

    cli.env[VARIABLE] = f"{kill.point}=kill@{kill.at}"
    result = cli("rollback")
    assert result.status == -signal.SIGKILL, f"{kill.point} wasn't passed\n{result.stdout}{result.stderr}"
    del cli.env[VARIABLE]
    # At no moment is a job runnable twice; in Qudo only what nobody leases is.
    free = Counter(json.loads(row.arg or b"")["n"] for row in job_rows(database, "grabbed_until = 0"))
    assert max((free + in_resque(redis)).values(), default=0) <= 1

    again = cli("rollback")
    assert again.status == 0, again.stdout + again.stderr

    assert numbers(database) == jobs
    assert in_resque(redis) == Counter()
    assert returned(redis) == 1650
    assert database.count(OUTBOX) == 0
    nothing_half_done(database, redis)
    assert cli("resume").status == 0
    age(database)
    assert cli("run").status == 0
    assert in_resque(redis) == jobs


def test_a_kill_is_tried_at_every_point() -> None:
    assert {kill.point for kill in KILLS} == {point for point in POINTS if point.startswith("rollback.")}


class Workers:
    """Resque workers that pop as fast as they can, in threads."""

    def __init__(self, server: RedisServer, count: int) -> None:
        self._end = threading.Event()
        self.ran: list[int] = []
        self._threads = [threading.Thread(target=self._work, args=(server,)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self, server: RedisServer) -> None:
        with server.client() as client:
            while not self._end.is_set():
                text: Any = client.lpop(QUEUE)
                if text is None:
                    self._end.wait(0.002)
                else:
                    self.ran.append(json.loads(text)["args"][0]["n"])

    def stop(self) -> Counter[int]:
        """What they have run."""
        self._end.set()
        for thread in self._threads:
            thread.join()
        return Counter(self.ran)


def test_a_job_that_a_worker_pops_meanwhile_either_ran_or_is_in_qudo(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(database, 20_000)
    write_config([database], redis_server)
    assert cli("run").status == 0
    workers = Workers(redis_server, 3)
    wait_until(lambda: len(workers.ran) > 200, 30, "workers are at work")
    result = cli("rollback", "--json")
    wait_until(lambda: redis.llen(QUEUE) == 0, 30, "nothing waits any more")
    ran = workers.stop()

    assert result.status == 0, result.stdout
    (source,) = result.json()["sources"]
    assert ran
    assert numbers(database)
    assert ran + numbers(database) == Counter(range(1, 20_001))
    assert source["returned"] == database.count()
    assert source["gone"] == len(ran)
    nothing_half_done(database, redis)


def test_a_run_that_goes_on_meanwhile_takes_nothing_back(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(database, 3000)
    write_config([database], redis_server)
    running = cli.start("run", "--batch-size", "200", "--rate", "500/s")
    running.wait_until(lambda: redis.llen(QUEUE) > 500)
    result = cli("rollback")
    assert result.status == 0, result.stdout + result.stderr
    # What the run had in hand when the pause began may wait in the outbox, out of everybody's reach.
    assert cli("rollback").status == 0
    assert in_resque(redis) == Counter()
    assert numbers(database) == Counter(range(1, 3001))
    assert running.running, running.stdout + running.stderr
    assert cli("resume").status == 0
    assert running.wait().status == 0
    assert in_resque(redis) == Counter(range(1, 3001))
    assert database.count() == 0


def test_a_follow_that_goes_on_takes_nothing_back(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    """It brings what is freed within 100 ms, if it is let."""
    write_config([innodb], redis_server)
    follow = Following(cli)
    fill(innodb, 700)
    follow.command.wait_until(lambda: redis.llen(QUEUE) > 300)
    assert cli("rollback", "--func", "Worker::Mail").status == 0
    assert cli("rollback", "--func", "Worker::Mail").status == 0  # what it had in hand when the pause began
    enqueue(innodb, "Worker::Other", b"{}")
    follow.command.wait_until(lambda: redis.llen("resque:queue:worker_other") == 1)
    assert numbers(innodb) == Counter(range(1, 701))
    assert redis.llen(QUEUE) == 0
    assert cli("resume", "--func", "Worker::Mail").status == 0
    follow.command.wait_until(lambda: redis.llen(QUEUE) == 700)
    follow.end()
    redis.delete("resque:queue:worker_other")
    assert in_resque(redis) == Counter(range(1, 701))
    assert innodb.count() == 0


@pytest.mark.parametrize("point", ["handoff.begun", "move.committed"])
def test_a_mover_that_sleeps_between_move_and_hand_off_finds_its_jobs_taken(
    point: str, database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    if not database.transactional and point == "move.committed":
        point = "leasing.ready"
    fill(database, 600)
    write_config([database], redis_server)
    assert cli("run", "--limit", "200").status == 0
    mover = _stopped(cli, point, "run", "--batch-size", "200")
    if point == "leasing.ready":  # it sleeps with the database's lock in its hand
        result = cli("rollback")
        assert result.status == 3
        assert "another migrator is moving jobs" in result.stdout
    else:
        assert cli("rollback").status == 0
        assert numbers(database) == Counter(range(1, 601))
    mover.send(signal.SIGCONT)
    mover.wait_for("is paused by")
    assert cli("rollback").status == 0
    assert in_resque(redis) == Counter()
    assert numbers(database) == Counter(range(1, 601))
    assert cli("resume").status == 0
    assert mover.wait().status == 0
    assert in_resque(redis) == Counter(range(1, 601))


def _stopped(cli: Cli, point: str, *arguments: str, action: str = "stop") -> RunningCommand:
    cli.env[VARIABLE] = f"{point}={action}"
    command = cli.start(*arguments)
    del cli.env[VARIABLE]

    def sleeps() -> bool:
        with open(f"/proc/{command.pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] == "T"

    command.wait_until(sleeps)
    return command


@pytest.mark.parametrize("point", ["rollback.taken", "rollback.fenced", "rollback.inserted", "rollback.committed"])
def test_a_rollback_that_sleeps_while_another_ends_its_work_returns_nothing_twice(
    point: str, database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    if not database.transactional:
        point = {"rollback.inserted": "rollback.leased", "rollback.committed": "rollback.noted"}.get(point, point)
    fill(database, 1500)
    write_config([database], redis_server)
    assert cli("run").status == 0
    sleeper = _stopped(cli, point, "rollback")
    holds_a_lock = point in ("rollback.inserted", "rollback.leased", "rollback.noted")
    other = cli("rollback")
    # It may sleep in the middle of its beat as well, and so hold the lock of an SQLite file.
    possible = {3} if holds_a_lock else {0, 3} if database.engine == "SQLite" else {0}
    assert other.status in possible, other.stdout + other.stderr
    if other.status == 0:
        assert numbers(database) == Counter(range(1, 1501))
    sleeper.send(signal.SIGCONT)
    assert sleeper.wait().status == 0
    assert cli("rollback").status == 0
    assert numbers(database) == Counter(range(1, 1501))
    assert returned(redis) == 1500
    assert in_resque(redis) == Counter()
    nothing_half_done(database, redis)


def test_two_rollbacks_side_by_side_share_the_work(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(database, 10_000)
    write_config([database], redis_server)
    assert cli("run").status == 0
    both = [cli.start("rollback", "--json"), cli.start("rollback", "--json")]
    ended = [each.wait() for each in both]
    assert {each.status for each in ended} <= {0, 1, 3}
    assert cli("rollback").status == 0
    assert numbers(database) == Counter(range(1, 10_001))
    assert returned(redis) == 10_000
    nothing_half_done(database, redis)


def test_a_redis_that_forgets_what_it_was_told_before_the_fence_keeps_the_jobs(
    innodb: Database, cli: Cli, write_config: WriteConfig
) -> None:
    """The fence is what lets rows into `job`: before it, forgetting brings the jobs back into their queue."""
    fill(innodb, 300)
    with RedisServer(appendonly="no") as server:
        client = server.client()
        write_config([innodb], server)
        assert cli("run").status == 0
        first = _stopped(cli, "rollback.paused=stop,rollback.taken", "rollback", "--force", action="kill")
        client.save()
        first.send(signal.SIGCONT)
        assert first.wait().status == -signal.SIGKILL
        assert client.hlen(RETURNING) > 0
        server.restart(graceful=False)
        client = server.client()
        assert not client.exists(RETURNING)
        assert in_resque(client).total() == 300
        assert cli("rollback", "--force").status == 0
        assert numbers(innodb) == Counter(range(1, 301))
        assert in_resque(client) == Counter()


def test_the_delayed_layout_of_ruby_survives_two_rollbacks_at_once(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    """Jobs alike, without an identity: each entry accounts for one row, whoever takes it."""
    for _ in range(400):
        enqueue(innodb, "Worker::Mail", b'{"n":1}', run_after=5000)
    write_config([innodb], {"url": redis_server.url, "dialect": "ruby"})
    run()
    both = [cli.start("rollback"), cli.start("rollback")]
    for each in both:
        assert each.wait().status in (0, 3)
    assert cli("rollback").status == 0
    assert numbers(innodb) == Counter({1: 400})
    assert in_resque(redis) == Counter()
    assert returned(redis) == 400

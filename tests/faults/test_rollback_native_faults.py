"""Jobs born in Resque on their way into Qudo: whatever is killed, sleeps or races, each is there once, or runs once."""

from __future__ import annotations

import json
import signal
from collections import Counter

import pytest
from redis import Redis

from migrate import Enqueuer
from migrate.failpoints import POINTS, VARIABLE
from migrate.resque.steps import KeyGuard, Step
from tests.conftest import WriteConfig
from tests.faults.test_rollback_faults import Workers, _stopped, in_resque, nothing_half_done, numbers
from tests.integration.dualwriting import FUNC, configured, put_step
from tests.qudo_app import fill, job_rows
from tests.servers import Database, RedisServer
from tests.servers.command import Cli
from tests.servers.waiting import wait_until

RETURNED = "resque:qudo_migrate:returned:native"
UNIQUE = f"resque:qudo_migrate:unique:{FUNC}"


def give_birth(database: Database, server: RedisServer, cli: Cli, write_config: WriteConfig, crossing: int) -> int:
    """Jobs that crossed, then 700 born in Resque: queued, delayed, with and without keys. How many in all."""
    fill(database, crossing)
    write_config([database], server)
    assert cli("run").status == 0
    put_step(server, Step.RESQUE, guard=KeyGuard.BOTH)
    with Enqueuer(configured({"main": database}, server)) as jobs:
        for number in range(crossing + 1, crossing + 701):
            key = f"k{number}" if number % 3 else None
            jobs.enqueue(FUNC, {"n": number}, uniqkey=key, run_after=3000 if number % 10 == 0 else 0)
    return crossing + 700


#: What one command after another dies of, by engine: each goes on where the last one ended.
DEATHS = {
    "InnoDB": ("rollback.taken=kill@2", "native.read", "native.inserted", "native.committed", "native.released"),
    "MyISAM": ("native.leased", "native.noted", "native.freed"),
    "SQLite": ("native.inserted", "native.committed"),
}


def test_each_rollback_is_killed_and_ended_by_the_next(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    count = give_birth(database, redis_server, cli, write_config, 50)
    jobs = Counter(range(1, count + 1))
    for death in (*DEATHS[database.engine], "rollback.forgotten"):
        cli.env[VARIABLE] = death if "=" in death else f"{death}=kill"
        result = cli("rollback", "--include-native")
        assert result.status == -signal.SIGKILL, f"{death} wasn't passed\n{result.stdout}{result.stderr}"
        free = Counter(json.loads(row.arg or b"")["n"] for row in job_rows(database, "grabbed_until = 0"))
        assert max((free + in_resque(redis)).values(), default=0) <= 1, death
    del cli.env[VARIABLE]
    again = cli("rollback", "--include-native")
    assert again.status == 0, again.stdout + again.stderr
    assert numbers(database) == jobs
    assert (in_resque(redis), redis.hlen(UNIQUE)) == (Counter(), 0)
    assert redis.hget(RETURNED, "main") == b"700"
    nothing_half_done(database, redis)


def test_a_kill_is_tried_at_every_point() -> None:
    tried = {death for deaths in DEATHS.values() for death in deaths}
    assert {point for point in POINTS if point.startswith("native.")} <= tried


@pytest.mark.parametrize(
    ("database", "point"),
    [
        ("innodb", "native.read"),
        ("innodb", "native.committed"),
        ("myisam", "native.read"),
        ("sqlite", "native.read"),
    ],
    indirect=["database"],
)
def test_one_that_sleeps_while_another_ends_its_work_returns_nothing_twice(
    point: str, database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    """The other forgets in Redis and drops its notes: nothing in Qudo tells the sleeper that the jobs were returned."""
    count = give_birth(database, redis_server, cli, write_config, 0)
    sleeper = _stopped(cli, point, "rollback", "--include-native")
    other = cli("rollback", "--include-native")
    # It may sleep in the middle of its beat as well, and so hold the lock of an SQLite file.
    assert other.status in ({0, 3} if database.engine == "SQLite" else {0}), other.stdout + other.stderr
    sleeper.send(signal.SIGCONT)
    assert sleeper.wait().status == 0
    assert cli("rollback", "--include-native").status == 0
    assert numbers(database) == Counter(range(1, count + 1))
    assert (in_resque(redis), redis.hlen(UNIQUE)) == (Counter(), 0)
    assert redis.hget(RETURNED, "main") == b"700"
    nothing_half_done(database, redis)


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_job_that_a_worker_pops_meanwhile_either_ran_or_is_in_qudo(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    count = give_birth(database, redis_server, cli, write_config, 3000)
    workers = Workers(redis_server, 3)
    wait_until(lambda: len(workers.ran) > 50, 30, "workers are at work")
    result = cli("rollback", "--include-native", "--json")
    workers_ran = workers.stop()
    assert result.status == 0, result.stdout
    assert workers_ran
    assert workers_ran + numbers(database) == Counter(range(1, count + 1))
    assert result.json()["sources"][0]["returned"] == database.count()
    nothing_half_done(database, redis)

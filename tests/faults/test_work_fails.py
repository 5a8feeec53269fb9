"""`qudo-migrate work` when processes or Redis are killed: each job runs to its end or is on record, none vanishes.

`QUDO_MIGRATE_SOAK_KILLS=500` runs the random one long; `QUDO_MIGRATE_SOAK_SEED` repeats one choice of victims.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.working import Pool, children, title
from tests.servers import Database, Proxy, RedisServer
from tests.servers.command import Cli, RunningCommand
from tests.servers.waiting import wait_until

KILLS = int(os.environ.get("QUDO_MIGRATE_SOAK_KILLS", "9"))
SEED = int(os.environ.get("QUDO_MIGRATE_SOAK_SEED", str(time.time_ns())))

#: Kills after which everything must be accounted for; then a new round begins.
KILLS_PER_ROUND = 14
#: Seconds between two kills, at most.
LONGEST_DELAY_SECONDS = 0.3
#: The three ways in which a pool runs jobs.
WAYS = ((), ("--jobs-per-fork", "5"), ("--no-fork",))

APP = """
def run(arg):
    note("begin", arg["n"])
    until = time.monotonic() + arg["seconds"]
    while time.monotonic() < until:
        time.sleep(0.001)
    note("end", arg["n"])


@job("Worker::Once")
def once(arg):
    run(arg)


@job("Worker::Again", max_retries=2, retry_delay=0)
def again(arg):
    run(arg)


@job("Worker::Later", max_retries=20, retry_delay=0.1)
def later(arg):
    run(arg)


@job("Worker::Waits")
def waits(arg):
    note("begin", arg)
    while not Path("go").exists():
        time.sleep(0.005)
    note("end", arg)


@job("Worker::Fails", max_retries=1, retry_delay=0)
def fails(arg, running: RunningJob):
    note("begin", arg)
    while not Path("go").exists():
        time.sleep(0.005)
    raise ValueError("it fails")
"""


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """One that may be killed; it has on disk what it has answered."""
    with RedisServer(appendfsync="always") as server:
        yield server


@pytest.fixture
def pool(cli: Cli, own_redis: RedisServer, sqlite: Database, write_config: WriteConfig) -> Pool:
    write_config([sqlite], own_redis)
    return Pool(cli, own_redis.client(), APP)


def test_a_redis_that_is_killed_in_mid_job_and_comes_back(pool: Pool, own_redis: RedisServer, cli: Cli) -> None:
    """What ended meanwhile is settled once, by the worker that has run it; what was begun is begun only once."""
    client = own_redis.client()
    pool.push("Worker::Waits", "a")
    pool.push("Worker::Fails", "b", queue="other")
    forking = pool.start(workers=2)
    wait_until(lambda: len(pool.ran) == 2, 10, "two are at work")
    pool.push("Worker::Waits", "c")
    inline = pool.start("--no-fork", queues="mail")
    wait_until(lambda: len(pool.ran) == 3, 10, "three are at work")
    own_redis.kill()
    (cli.folder / "go").touch()
    wait_until(lambda: {"end a", "end c"} <= set(pool.ran), 10, "they end")
    forking.wait_for("waiting", 10)
    inline.wait_for("waiting", 10)
    own_redis.start()
    wait_until(lambda: client.get("resque:stat:processed") == b"4", 20, "two are done, one has failed twice")
    assert Counter(pool.ran) == {"begin a": 1, "end a": 1, "begin b": 2, "begin c": 1, "end c": 1}
    assert ["retried_at" in failure for failure in pool.failures] == [True, False]
    pool.push("Worker::Waits", "d")
    wait_until(lambda: "end d" in pool.ran, 20, "jobs run again")
    assert pool.end(forking)["failed"] + pool.end(inline)["failed"] == 2
    assert not client.keys("resque:worker:*")


def test_a_pool_that_is_ended_while_redis_is_away_loses_no_job(pool: Pool, own_redis: RedisServer, cli: Cli) -> None:
    pool.push("Worker::Waits", "a")
    pool.push("Worker::Fails", "b", queue="other")
    command = pool.start(workers=2)
    wait_until(lambda: len(pool.ran) == 2, 10, "two are at work")
    own_redis.kill()
    command.send(signal.SIGTERM)
    command.wait_for("waiting", 10)
    command.send(signal.SIGTERM)
    assert command.wait(10).status == 0
    own_redis.start()
    (cli.folder / "go").touch()
    pool.end(pool.start())
    by_class = Counter(failure["payload"]["class"] for failure in pool.failures)
    assert by_class == {"Worker::Waits": 1, "Worker::Fails": 2} or by_class == {"Worker::Waits": 1, "Worker::Fails": 1}
    assert not own_redis.client().keys("resque:worker:*")


@pytest.mark.parametrize("options", [(), ("--no-fork",)], ids=["fork", "no fork"])
def test_a_turn_whose_request_or_answer_is_lost_is_repeated_and_counts_once(
    options: tuple[str, ...],
    cli: Cli,
    redis: Redis,
    redis_server: RedisServer,
    sqlite: Database,
    write_config: WriteConfig,
) -> None:
    """Both kinds of turn: one that takes a job on an idle worker, and one that settles it and takes the next."""
    turn = b'"qudo_migrate":'
    jobs = 0
    with Proxy(redis_server) as proxy:
        write_config([sqlite], proxy.url(redis_server.url))
        pool = Pool(cli, redis, APP)
        command = pool.start("--no-scheduler", *options)
        for lose in (proxy.lose_reply, proxy.lose_request):
            for seconds in (0.0, 0.1):
                hits = proxy.hits
                if not seconds:
                    lose(turn)
                for _ in range(3):
                    pool.push("Worker::Once", {"n": jobs, "seconds": seconds})
                    jobs += 1
                if seconds:
                    wait_until(lambda: f"begin {jobs - 3}" in pool.ran, 10, "it runs")  # noqa: B023
                    lose(turn)  # the turn that settles this one
                proxy.wait_hit(hits + 1)
                wait_until(lambda: redis.get("resque:stat:processed") == b"%d" % jobs, 20, "all are settled")  # noqa: B023
        assert pool.ran == [f"{word} {number}" for number in range(jobs) for word in ("begin", "end")]
        assert pool.failures == []
        assert pool.end(command) == {"command": "work", "done": jobs, "failed": 0}
    assert pool.workers == set()


# --- killed at random -----------------------------------------------------------------------------------------------


#: At one instant: looked at one after the other, a job that moves from place to place could be missed.
_LEFT = """
local left = redis.call('ZCARD', 'resque:delayed_queue_schedule')
for _, key in ipairs(redis.call('KEYS', 'resque:queue:*')) do left = left + redis.call('LLEN', key) end
for _, key in ipairs(redis.call('KEYS', 'resque:worker:*')) do
  if not string.find(key, ':started$') then left = left + 1 end
end
return left
"""


class Load:
    """Jobs that are pushed, and what has become of them."""

    def __init__(self, pool: Pool, redis: Redis, chance: random.Random) -> None:
        self._pool = pool
        self._redis = redis
        self._chance = chance
        self.pushed: dict[int, str] = {}

    def push(self, count: int) -> None:
        """Some to queues, some to be due soon, some that come too early."""
        now = int(time.time())
        for _ in range(count):
            number, chance = len(self.pushed), self._chance
            name = self.pushed[number] = chance.choice(["Worker::Once", "Worker::Again", "Worker::Later"])
            arg = {"n": number, "seconds": chance.choice([0, 0.01, 0.05, 0.1])}
            queue = chance.choice(["mail", "other"])
            match chance.randrange(4):
                case 0:
                    second = now + chance.randrange(3)
                    text = json.dumps({"class": name, "args": [arg], "queue": queue})
                    self._redis.rpush(f"resque:delayed:{second}", text)
                    self._redis.zadd("resque:delayed_queue_schedule", {str(second): second})
                case 1:
                    self._pool.push(name, arg, queue, start_time=now + chance.randrange(3))
                case _:
                    self._pool.push(name, arg, queue)

    def left(self) -> int:
        """Jobs that are queued, delayed or at work."""
        left: int = self._redis.eval(_LEFT, 0)
        return left

    def check(self) -> Counter[str]:
        """Each has run to its end or has failed for good, and was begun once more only after a recorded failure."""
        begun: Counter[int] = Counter()
        ended: Counter[int] = Counter()
        for line in self._pool.ran:
            word, text = line.split()
            (begun if word == "begin" else ended)[int(text)] += 1
        again: Counter[int] = Counter()
        final: Counter[int] = Counter()
        for failure in self._pool.failures:
            (again if "retried_at" in failure else final)[failure["payload"]["args"][0]["n"]] += 1
        assert self.left() == 0, "something was pushed back when all had been settled"
        told: Counter[str] = Counter(jobs=len(self.pushed))
        for number, name in self.pushed.items():
            about = f"{name} {number}: begun {begun[number]}, ended {ended[number]}, again {again[number]}"
            assert ended[number] or final[number], f"vanished: {about}"
            assert begun[number] <= again[number] + 1, f"run twice: {about}"
            assert final[number] <= 1, f"failed twice: {about}"
            assert not (final[number] and name == "Worker::Later"), f"given up: {about}"
            told["ended"] += min(1, ended[number])
            told["failed"] += final[number]
            told["retries"] += again[number]
            told["ended twice"] += max(0, ended[number] - 1)
        return told


@pytest.mark.timeout(120 + 10 * KILLS)
def test_whatever_is_killed_each_job_runs_to_its_end_or_is_on_record(
    cli: Cli, redis: Redis, redis_server: RedisServer, sqlite: Database, write_config: WriteConfig
) -> None:
    """Workers, children, pools and the scheduler that leads, of three pools under load."""
    write_config([sqlite], redis_server)
    chance = random.Random(SEED)
    killed: Counter[str] = Counter()
    told: Counter[str] = Counter()
    while killed.total() < KILLS:
        redis.flushall()
        (cli.folder / "ran").unlink(missing_ok=True)
        pool = Pool(cli, redis, APP)
        load = Load(pool, redis, chance)
        try:
            _round(load, pool, chance, killed)
            told += load.check()
        except AssertionError as error:
            raise AssertionError(f"seed {SEED}: {error}") from error
    print(f"{dict(killed)} killed; {dict(told)}; seed {SEED}")


def _round(load: Load, pool: Pool, chance: random.Random, killed: Counter[str]) -> None:
    """Some kills under load, then time to settle everything."""
    load.push(60)
    pools = [pool.start(*way, workers=2) for way in WAYS]
    for _ in range(min(KILLS_PER_ROUND, KILLS - killed.total())):
        load.push(40)
        time.sleep(chance.uniform(0, LONGEST_DELAY_SECONDS))
        what = chance.choice(["worker", "worker", "child", "child", "server", "template", "pool", "leader"])
        killed[what] += _kill(what, chance, pool, pools)
    for command in pools:
        pool.end(command, chance.choice([signal.SIGQUIT, signal.SIGTERM]))
    last = pool.start("--no-fork", workers=4)
    wait_until(lambda: not load.left(), 60, "all is settled")
    pool.end(last)


def victims(pools: list[RunningCommand]) -> dict[str, list[int]]:
    """The processes of these pools, by what they are."""
    ours = [pid for command in pools for pid in children(command.pid)]
    templates = [pid for pid in ours if "Template of fork servers" in title(pid)]
    leaders = [pid for pid in ours if "Scheduler" in title(pid)]
    servers = [pid for template in templates for pid in children(template)]
    return {
        "template": templates,
        "leader": leaders,
        "worker": [pid for pid in ours if pid not in templates and pid not in leaders],
        "server": servers,
        "child": [pid for server in servers for pid in children(server)],
    }


def _kill(what: str, chance: random.Random, pool: Pool, pools: list[RunningCommand]) -> int:
    """Kill one of a kind, if there is one; how many that were."""
    if what == "pool":
        place = chance.randrange(len(pools))
        os.kill(pools[place].pid, signal.SIGKILL)  # it alone: its workers must follow by themselves
        pools[place].wait(10)
        pools[place] = pool.start(*WAYS[place], workers=2)
        return 1
    found = victims(pools)[what]
    if not found:
        return 0
    with contextlib.suppress(ProcessLookupError):
        if what == "leader":
            pool.depose()
            for pid in found:  # whichever of them leads
                os.kill(pid, signal.SIGKILL)
            return 1
        os.kill(chance.choice(found), signal.SIGKILL)
        return 1
    return 0

"""`qudo-migrate schedule`: due jobs reach their queues, each once, whoever else schedules and whatever dies."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from redis import Redis
from redis.lock import Lock

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.timing import delay_seconds
from tests.qudo_app import enqueue
from tests.resque_app import Resque
from tests.schemas import check
from tests.servers import MariaDBDatabase, Proxy, RedisServer, wait_until
from tests.servers.command import Cli, RunningCommand
from tests.servers.ports import free_port

#: Which scheduler leads, and where texts go that name no usable queue.
LEADER = "resque:qudo_migrate:scheduler"
UNSCHEDULED = "resque:qudo_migrate:unscheduled"

#: How EVALSHA names the script by which a leader keeps its lock.
KEEPS_LEAD = hashlib.sha1(Lock.LUA_REACQUIRE_SCRIPT.encode()).hexdigest().encode()


def now(client: Redis) -> int:
    """Redis's own clock: by it jobs fall due."""
    return int(client.time()[0])


def delay(client: Redis, jobs: list[tuple[int, bytes]], namespace: str = "resque") -> None:
    """Schedule texts, each at its second, as resque-scheduler writes them."""
    with client.pipeline(transaction=False) as pipe:
        for second, text in jobs:
            pipe.rpush(f"{namespace}:delayed:{second}", text)
            pipe.sadd(f"{namespace}:timestamps:".encode() + text, f"delayed:{second}")
            pipe.zadd(f"{namespace}:delayed_queue_schedule", {str(second): second})
        pipe.execute()


def text_of(queue: str, *args: object) -> bytes:
    """A text as resque-scheduler writes it."""
    return json.dumps({"class": "A", "args": args, "queue": queue}, separators=(",", ":"), ensure_ascii=False).encode()


def queued(resque: Resque) -> int:
    """How many jobs are in queues now. Not by SCAN, which may name a key twice while others come and go."""
    client: Any = resque.client
    return sum(client.llen(resque.key(f"queue:{name.decode()}")) for name in client.smembers(resque.key("queues")))


def texts(resque: Resque, queue: str) -> list[bytes]:
    """What a queue holds, the next one first."""
    return [job.text for job in resque.queue(queue)]


class Schedule(Protocol):
    """Starts `qudo-migrate schedule`; returns once it leads, unless told not to wait."""

    def __call__(self, *arguments: str, leads: bool = True) -> RunningCommand: ...


@pytest.fixture
def schedule(cli: Cli) -> Iterator[Schedule]:
    """At the end those that still run are told to stop and must end well, with no complaint of a bug."""
    running: list[RunningCommand] = []

    def schedule(*arguments: str, leads: bool = True) -> RunningCommand:
        command = cli.start("schedule", *arguments)
        running.append(command)
        if leads:
            command.wait_for("schedule: leads")
        return command

    yield schedule
    for command in running:
        if command.running:
            ended(command)


def ended(command: RunningCommand, number: signal.Signals = signal.SIGTERM) -> str:
    """Stop it; it must end 0. What it printed."""
    command.send(number)
    result = command.wait(30)
    assert result.status == 0, result.stderr
    return result.stdout


@pytest.fixture
def configured(write_config: WriteConfig, redis_server: RedisServer, resque: Resque) -> Resque:
    """A configuration for the session's Redis, and what is in it."""
    write_config({"main": "sqlite:////nowhere.db"}, redis_server)  # a scheduler has no use for the sources
    return resque


# --- what moves -----------------------------------------------------------------------------------------------------


def test_due_jobs_move_in_order_with_their_texts_unchanged_and_others_stay(
    configured: Resque, schedule: Schedule
) -> None:
    client = configured.client
    second = now(client)
    odd = [
        b'{"class":"A","args":[9007199254740993,1.0,1e2,"\\u9b8e"],"queue":"odd"}',
        b' { "queue" : "odd" , "args":[ ] ,"class":"A"}\n',
        b'{"class":"A","queue":"odd","args":[{}],"qudo":{"id":1},"max_retry":2}',
        '{"class":"A","args":["鮎","🐟"],"queue":"odd"}'.encode(),
        b'{"class":"A","args":["\\u0000"],"queue":"odd"}',
        b'{"class":"A","args":' + b"[" * 500 + b"]" * 500 + b',"queue":"odd"}',
    ]
    twice = text_of("twice", 1)
    delay(client, [(second - 5, text) for text in odd])
    delay(client, [(second - 5, twice), (second - 5, twice), (second - 9, twice), (second + 3600, twice)])
    delay(client, [(second - n, text_of("backwards", n)) for n in range(5)])
    delay(client, [(second - 60, text_of("鮎 queue", 1)), (second + 3600, text_of("later", 1))])

    schedule()
    wait_until(lambda: queued(configured) == len(odd) + 3 + 5 + 1, what="all that is due has moved")

    assert texts(configured, "odd") == odd
    assert texts(configured, "twice") == [twice] * 3
    assert [job.args for job in configured.queue("backwards")] == [[n] for n in range(4, -1, -1)]
    assert set(configured.queues()) == {"odd", "twice", "backwards", "鮎 queue"}
    later = configured.delayed()  # with each text's timestamps
    assert {due: [job.text for job in jobs] for due, jobs in later.items()} == {
        second + 3600: [twice, text_of("later", 1)]
    }
    assert not client.exists(UNSCHEDULED)


def test_thousands_of_jobs_move_within_their_seconds_and_never_early(configured: Resque, schedule: Schedule) -> None:
    client = configured.client
    running = schedule("--json")
    first = now(client) + 2
    jobs = [(first + n % 4, text_of(f"q{n % 3}", n, first + n % 4)) for n in range(6000)]
    delay(client, jobs)
    latest = 0
    while latest < len(jobs):
        before = queued(configured)
        second = now(client)
        due = sum(when <= second for when, _ in jobs)
        assert before <= due, "jobs moved before their time"
        wait_until(lambda: queued(configured) > before or before == len(jobs), 20, "due jobs move")  # noqa: B023
        latest = queued(configured)
    assert now(client) <= first + 3 + 5

    for queue in range(3):
        found = [(job.args[1], job.args[0]) for job in configured.queue(f"q{queue}")]
        assert found == sorted((when, n) for n, (when, _) in enumerate(jobs) if n % 3 == queue)
    assert json.loads(ended(running)) == {"command": "schedule", "moved": 6000}
    assert configured.delayed() == {}
    assert not client.keys("resque:timestamps:*")


@pytest.mark.parametrize("dialect", ["perl", "ruby"])
def test_migrated_jobs_run_when_qudo_would_have_run_them(
    dialect: str,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    schedule: Schedule,
) -> None:
    target = {"url": redis_server.url, "dialect": dialect}
    write_config([innodb], target, [{"func": "*", "max_retry": 2}])
    job_id = enqueue(innodb, "Worker::Mail", b'{"to": "ayu"}', "key", run_after=delay_seconds(run))
    enqueue(innodb, "Worker::Mail", b"{}", run_after=3600)
    due = int(innodb.value("SELECT run_after FROM job WHERE id = %s", [job_id]))
    run()
    ((job,),) = [jobs for second, jobs in resque.delayed().items() if second == due]

    schedule()
    wait_until(lambda: queued(resque), what="the job is due")

    assert now(resque.client) >= due
    (moved,) = resque.queue("worker_mail")
    assert moved.text == job.text
    assert (moved.class_name, moved.args) == ("Worker::Mail", [{"to": "ayu"}])
    check(moved.payload, "delayed", f"#/$defs/{dialect}")
    if dialect == "perl":
        assert (moved.id, moved.payload["max_retry"]) == (job_id, 2)
    assert len(resque.delayed()) == 1


def test_another_namespace_is_left_alone(
    redis_server: RedisServer, resque: Resque, write_config: WriteConfig, schedule: Schedule
) -> None:
    write_config({"main": "sqlite:////nowhere.db"}, {"url": redis_server.url, "namespace": "{shop}"})
    shop = Resque(resque.client, "{shop}")
    delay(shop.client, [(5, text_of("q", 1))])
    delay(shop.client, [(5, text_of("q", 2))], "{shop}")
    schedule()
    wait_until(shop.length)
    assert texts(shop, "q") == [text_of("q", 2)]
    assert list(resque.delayed()) == [5]


# --- nothing stops the rest -----------------------------------------------------------------------------------------

NO_QUEUE = [
    b'{"class":"A","args":[]}',
    b'{"class":"A","args":[],"queue":""}',
    b'{"class":"A","args":[],"queue":null}',
    b'{"class":"A","args":[],"queue":7}',
    b'{"class":"A","args":[],"queue":["q"]}',
    b"[]",
    b"null",
    b'"queue"',
    b"",
    b"not JSON",
    b'{"class":"A","args":[],"queue":"q"',
    b"\xff\xfe\x00",
    b"[" * 2000 + b"]" * 2000,
]


def test_texts_that_name_no_queue_are_put_aside_and_stop_nothing(configured: Resque, schedule: Schedule) -> None:
    client = configured.client
    good = [text_of("q", n) for n in range(len(NO_QUEUE))]
    delay(client, [(second, text) for second, pair in enumerate(zip(NO_QUEUE, good, strict=True)) for text in pair])
    delay(client, [(100, text) for text in NO_QUEUE])

    running = schedule("--json")
    wait_until(lambda: not client.exists("resque:delayed_queue_schedule"), what="the schedule is empty")

    assert texts(configured, "q") == good
    assert client.lrange(UNSCHEDULED, 0, -1) == NO_QUEUE * 2
    assert not client.keys("resque:timestamps:*")
    assert not client.keys("resque:delayed:*")
    assert json.loads(ended(running))["moved"] == len(good)
    assert f"{2 * len(NO_QUEUE)} delayed jobs name no queue: kept in {UNSCHEDULED}" in running.stderr
    assert "not JSON" not in running.stderr


def test_a_queue_that_is_no_list_is_put_aside_and_stops_nothing(configured: Resque, schedule: Schedule) -> None:
    client = configured.client
    client.set("resque:queue:taken", "by something else")
    delay(client, [(5, text_of("taken", 1)), (5, text_of("q", 1)), (6, text_of("taken", 2)), (7, text_of("q", 2))])
    schedule()
    wait_until(lambda: len(configured.queue("q")) == 2)
    assert client.lrange(UNSCHEDULED, 0, -1) == [text_of("taken", 1), text_of("taken", 2)]
    assert client.get("resque:queue:taken") == b"by something else"
    assert client.smembers("resque:queues") == {b"q"}


def test_a_schedule_with_odd_entries_is_worked_off(configured: Resque, schedule: Schedule) -> None:
    client = configured.client
    second = now(client)
    client.zadd("resque:delayed_queue_schedule", {"no number": 5, "late": second + 1, "17.5": 17.5, "-1": -1, "": 0})
    client.rpush("resque:delayed:17.5", text_of("q", 17))
    delay(client, [(second + 1, text_of("q", 1)), (second + 2, text_of("q", 2))])
    schedule()
    wait_until(lambda: len(configured.queue("q")) == 3, what="the good ones have moved")
    assert not client.exists("resque:delayed_queue_schedule")


def test_a_key_of_timestamps_that_is_no_set_does_not_matter(configured: Resque, schedule: Schedule) -> None:
    client = configured.client
    delay(client, [(5, text_of("q", n)) for n in range(3)])
    client.set(b"resque:timestamps:" + text_of("q", 1), "odd")
    schedule()
    wait_until(lambda: not client.exists("resque:delayed_queue_schedule"))
    assert texts(configured, "q") == [text_of("q", n) for n in range(3)]


@pytest.mark.parametrize("name", ["queues", "delayed_queue_schedule", "delayed:5"])
def test_a_key_that_something_else_uses_is_named_and_nothing_is_doubled(
    name: str, configured: Resque, cli: Cli
) -> None:
    client = configured.client
    delay(client, [(5, text_of("q", n)) for n in range(3)])
    client.delete(f"resque:{name}")
    client.set(f"resque:{name}", "by something else")
    for _ in range(2):  # as systemd starts it again
        result = cli("schedule", timeout=20)
        assert result.status == 2
        assert f"resque:{name} is a string" in result.stderr
    assert configured.queue("q") == []


# --- one leads, each job once ---------------------------------------------------------------------------------------


def test_one_leads_and_another_takes_over_when_it_is_killed(configured: Resque, schedule: Schedule) -> None:
    client = configured.client
    leader = schedule()
    standby = schedule(leads=False)
    standby.wait_for("schedule: stands by")
    delay(client, [(5, text_of("q", 1))])
    wait_until(lambda: queued(configured))
    leader.kill()
    killed = time.monotonic()
    delay(client, [(6, text_of("q", 2))])
    wait_until(lambda: queued(configured) == 2, 40, "the other takes over")
    assert time.monotonic() - killed < 30  # ten seconds of the lease, a look each 2.5 s, and a busy machine
    assert "schedule: leads" in standby.stderr


def test_a_leader_that_stops_lets_another_lead_at_once(configured: Resque, schedule: Schedule) -> None:
    leader = schedule()
    standby = schedule(leads=False)
    standby.wait_for("schedule: stands by")
    ended(leader)
    assert not configured.client.exists(LEADER)
    standby.wait_for("schedule: leads", 6)


def test_a_leader_that_was_away_stands_by(configured: Resque, schedule: Schedule) -> None:
    client = configured.client
    first = schedule()
    first.send(signal.SIGSTOP)
    client.delete(LEADER)  # as its lease runs out
    schedule()
    first.send(signal.SIGCONT)
    first.wait_for("schedule: stands by")
    delay(client, [(5, text_of("q", 1))])
    wait_until(lambda: queued(configured))


def test_a_leader_whose_lease_ends_in_the_middle_of_a_look_goes_on(
    redis_server: RedisServer, resque: Resque, write_config: WriteConfig, schedule: Schedule
) -> None:
    with Proxy(redis_server) as proxy:
        write_config({"main": "sqlite:////nowhere.db"}, proxy.url(redis_server.url))
        running = schedule()
        proxy.hold_request(KEEPS_LEAD)
        proxy.wait_held()
        resque.client.delete(LEADER)
        proxy.release()
        proxy.wait_hit()
        delay(resque.client, [(5, text_of("q", 1))])
        wait_until(lambda: queued(resque))
        ended(running)


def test_schedulers_killed_at_random_under_load_lose_and_double_nothing(
    redis_server: RedisServer, resque: Resque, write_config: WriteConfig, schedule: Schedule
) -> None:
    client = resque.client
    jobs = [(n // 2000, text_of(f"q{n % 2}", n)) for n in range(24_000)]
    delay(client, jobs)
    chance = random.Random(7)
    over = threading.Event()

    def depose() -> None:
        """Take the lead from whoever has it, so that all are at work at once."""
        while not over.wait(0.02):
            client.delete(LEADER)

    with Proxy(redis_server) as proxy:
        proxy.delay(0.1)  # or all would have moved before the first is killed
        write_config({"main": "sqlite:////nowhere.db"}, proxy.url(redis_server.url))
        deposing = threading.Thread(target=depose)
        deposing.start()
        try:
            running = [schedule(leads=False) for _ in range(3)]
            for killed in running[:2]:
                begun = queued(resque)
                wait_until(lambda: queued(resque) > begun, what="jobs move")  # noqa: B023
                time.sleep(chance.uniform(0, 0.05))  # any moment will do
                killed.kill()
            proxy.delay(0)
            assert queued(resque) < len(jobs), "all had moved before the killing was over"
            wait_until(lambda: queued(resque) == len(jobs), 60, "all jobs have moved")
        finally:
            over.set()
            deposing.join()
        ended(running[2])
    for queue in range(2):
        assert texts(resque, f"q{queue}") == [text for n, (_, text) in enumerate(jobs) if n % 2 == queue]
    assert resque.delayed() == {}


# --- servers that go and come ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("graceful", [True, False], ids=["restarted", "killed"])
def test_it_goes_on_when_redis_comes_back(graceful: bool, write_config: WriteConfig, schedule: Schedule) -> None:
    with RedisServer(appendfsync="always") as server:
        write_config({"main": "sqlite:////nowhere.db"}, server)
        running = schedule("--json")
        due = now(server.client()) + 2
        delay(server.client(), [(due, text_of("q", n)) for n in range(1000)])
        server.stop() if graceful else server.kill()
        running.wait_for("can't be reached")
        server.start()
        resque = Resque(server.client())
        wait_until(lambda: queued(resque) == 1000, what="it goes on")
        assert texts(resque, "q") == [text_of("q", n) for n in range(1000)]
        assert resque.delayed() == {}
        ended(running)


def test_a_full_redis_is_waited_for(write_config: WriteConfig, schedule: Schedule) -> None:
    with RedisServer() as server:
        write_config({"main": "sqlite:////nowhere.db"}, server)
        client = server.client()
        running = schedule()
        with client.pipeline() as pipe:
            pipe.rpush("resque:delayed:5", *(text_of("q", n, "x" * 1000) for n in range(1500)))
            pipe.zadd("resque:delayed_queue_schedule", {"5": 5})
            pipe.config_set("maxmemory", "1mb")
            pipe.execute()
        running.wait_for("out of memory")
        client.config_set("maxmemory", "0")
        resque = Resque(client)
        wait_until(lambda: queued(resque) == 1500)
        assert [job.args[0] for job in resque.queue("q")] == list(range(1500))
        ended(running)


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        pytest.param(lambda: f"redis://127.0.0.1:{free_port()}/0", 3, "can't be reached", id="nobody-there"),
        pytest.param(lambda: "redis://nowhere.invalid/0", 3, "can't be reached", id="no-such-host"),
        pytest.param(lambda: "http://127.0.0.1/0", 2, "target.url", id="no-redis-url"),
    ],
)
def test_an_unknown_redis_ends_it(target: Any, status: int, words: str, cli: Cli, write_config: WriteConfig) -> None:
    write_config({"main": "sqlite:////nowhere.db"}, target())
    result = cli("schedule", "--json")
    assert result.status == status
    document = result.json()
    check(document, "error")
    assert words in document["error"]


def test_a_redis_that_throws_jobs_away_is_refused(cli: Cli, write_config: WriteConfig) -> None:
    with RedisServer(maxmemory_policy="allkeys-lru") as server:
        write_config({"main": "sqlite:////nowhere.db"}, server)
        result = cli("schedule")
        assert result.status == 2
        assert "allkeys-lru" in result.stderr


# --- how it ends, what it prints ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well_on_a_signal_and_prints_one_object(
    number: signal.Signals, configured: Resque, schedule: Schedule
) -> None:
    delay(configured.client, [(5, text_of("q", n)) for n in range(7)])
    running = schedule("--json")
    wait_until(lambda: queued(configured) == 7)
    assert running.stdout == ""
    assert ended(running, number) == '{"command":"schedule","moved":7}\n'


def test_it_ends_well_while_it_stands_by_and_while_redis_is_away(write_config: WriteConfig, schedule: Schedule) -> None:
    with RedisServer() as server:
        write_config({"main": "sqlite:////nowhere.db"}, server)
        leader = schedule("--json")
        standby = schedule("--json", leads=False)
        standby.wait_for("stands by")
        assert ended(standby) == '{"command":"schedule","moved":0}\n'
        server.kill()
        leader.wait_for("can't be reached")
        assert ended(leader) == '{"command":"schedule","moved":0}\n'


def test_messages_are_lines_of_text_or_of_json_or_none(configured: Resque, schedule: Schedule) -> None:
    as_json = schedule("--log-format", "json")
    assert ended(as_json) == ""
    assert [json.loads(line)["message"] for line in as_json.stderr.splitlines()] == ["schedule: leads"]
    silent = schedule("--quiet", leads=False)
    wait_until(lambda: configured.client.exists(LEADER), what="it leads")
    assert (ended(silent), silent.stderr) == ("", "")

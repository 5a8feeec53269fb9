"""`rehearse` does it all in a scratch namespace and leaves nothing behind."""

from __future__ import annotations

import signal
from typing import Any, Protocol

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.snapshots import nothing_left, nothing_written
from tests.qudo_app import enqueue, fill, load_fixture
from tests.resque_app import whole_redis
from tests.servers import Database, MariaDB, MariaDBDatabase, Proxy, RedisServer
from tests.servers.command import Cli


class Rehearse(Protocol):
    """What `rehearse --json` prints; the exit status must be `status`."""

    def __call__(self, *arguments: str, status: int = 0) -> dict[str, Any]: ...


@pytest.fixture
def rehearse(cli: Cli) -> Rehearse:
    def rehearse(*arguments: str, status: int = 0) -> dict[str, Any]:
        result = cli("rehearse", "--json", *arguments)
        assert result.status == status, result.stdout + result.stderr
        document: dict[str, Any] = result.json()
        assert document["exit_status"] == status
        assert document["verdict"] == "ok"
        assert document["differences"] == []
        return document

    return rehearse


@pytest.mark.parametrize("dialect", ["perl", "ruby", "node"])
def test_a_rehearsal_of_the_real_qudos_jobs_finds_no_difference_and_leaves_nothing(
    dialect: str,
    mariadb: MariaDB,
    redis: Redis,
    redis_server: RedisServer,
    write_config: WriteConfig,
    rehearse: Rehearse,
) -> None:
    databases = {"a": mariadb.create_database(), "b": mariadb.create_database()}
    load_fixture(databases["a"], "a")
    load_fixture(databases["b"], "b")
    redis.set("resque:of somebody else", "kept")
    target = {"url": redis_server.url, "dialect": dialect}
    write_config(databases, target, [{"func": "Batch::*", "bytes": "latin1"}])

    with nothing_left(*databases.values(), redis), nothing_written(*databases.values()):
        document = rehearse()

    assert document["rehearsed"] == 183 + 129
    assert [source["in_flight"] for source in document["sources"]] == [2, 0]
    assert document["jobs_per_second"] > 0


@pytest.mark.parametrize("database", ["innodb", "sqlite"], indirect=True)
def test_a_rehearsal_counts_what_would_stay(
    database: Database, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, rehearse: Rehearse
) -> None:
    fill(database, 1200, uniqkey="key-{n}", priorities=3)
    fill(database, 5, run_after=1000)
    fill(database, 4, "Worker::Kept")
    bad = enqueue(database, "Worker::Mail", b"\xff\xfe")
    write_config([database], redis_server, [{"func": "Worker::Kept", "move": False}])

    with nothing_left(redis), nothing_written(database):
        document = rehearse(status=1)

    (source,) = document["sources"]
    assert {key: source[key] for key in ("rehearsed", "kept", "untranslatable", "waiting")} == {
        "rehearsed": 1205,
        "kept": 4,
        "untranslatable": 1,
        "waiting": 0,
    }
    assert [job["id"] for job in document["untranslatable_jobs"]] == [bad]


def test_a_rehearsal_may_follow_a_run(
    innodb: MariaDBDatabase,
    redis: Redis,
    redis_server: RedisServer,
    write_config: WriteConfig,
    run: Run,
    rehearse: Rehearse,
) -> None:
    fill(innodb, 10)
    write_config([innodb], redis_server)
    run("--limit", "4")
    with nothing_left(redis), nothing_written(innodb):
        assert rehearse()["rehearsed"] == 6


def test_func_and_source_choose_what_is_rehearsed(
    mariadb: MariaDB, redis_server: RedisServer, write_config: WriteConfig, rehearse: Rehearse
) -> None:
    one, other = mariadb.create_database(), mariadb.create_database()
    fill(one, 3, "Worker::Mail")
    fill(one, 4, "Worker::Image")
    fill(other, 5)
    write_config({"one": one, "other": other}, redis_server)
    document = rehearse("--source", "one", "--func", "*Image")
    assert document["rehearsed"] == 4
    assert [source["name"] for source in document["sources"]] == ["one"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_rehearsal_leaves_nothing(
    number: signal.Signals,
    innodb: MariaDBDatabase,
    redis: Redis,
    redis_server: RedisServer,
    write_config: WriteConfig,
    cli: Cli,
) -> None:
    fill(innodb, 50_000)
    write_config([innodb], redis_server)
    with nothing_left(redis):
        running = cli.start("rehearse", "--json")
        running.wait_until(redis.dbsize, what="it is at work")
        running.send(number)
        result = running.wait()
    assert result.status == result.json()["exit_status"] == 130
    assert result.json()["rehearsed"] < 50_000


@pytest.mark.parametrize(("command", "keys"), [(b"LRANGE", 4), (b"EXPIRE", 1)])
def test_what_a_killed_rehearsal_leaves_goes_by_itself(
    command: bytes,
    keys: int,
    innodb: MariaDBDatabase,
    redis: Redis,
    redis_server: RedisServer,
    write_config: WriteConfig,
    cli: Cli,
) -> None:
    fill(innodb, 1000)
    fill(innodb, 10, run_after=1000)
    with Proxy(redis_server) as proxy:
        write_config([innodb], proxy.url(redis_server.url))
        proxy.hold_request(command)
        running = cli.start("rehearse")
        proxy.wait_held()
        running.send(signal.SIGKILL)
        running.wait()

    left = whole_redis(redis)

    assert len(left) >= keys
    assert all(key.startswith(b"resque-rehearsal-") and expires for key, (_, expires) in left.items())

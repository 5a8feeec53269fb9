"""Status shows what stands where, cheaply, and what was done last; it writes nothing."""

from __future__ import annotations

import contextlib
import json
import signal

import pytest
from redis import Redis

from migrate.config import load
from migrate.engine import status
from tests.conftest import WriteConfig
from tests.qudo_app.enqueueing import enqueue, fill
from tests.servers import Database, MariaDBDatabase, RedisServer
from tests.servers.command import Cli
from tests.servers.waiting import wait_until


def test_it_counts_both_sides_and_what_waits_between(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(database, 40)
    enqueue(database, "Worker::Later", b"{}", run_after=600)
    write_config({"main": database}, redis_server, routes=[{"func": "Worker::Kept", "move": False}])
    before = cli("status", "--json").json()
    assert {func["func"]: (func["ready"], func["delayed"]) for func in before["sources"][0]["funcs"]} == {
        "Worker::Mail": (40, 0),
        "Worker::Later": (0, 1),
    }
    cli.env["QUDO_MIGRATE_FAILPOINTS"] = "handoff.begun=kill"
    cli("run")
    del cli.env["QUDO_MIGRATE_FAILPOINTS"]
    between = cli("status", "--json").json()
    assert between["sources"][0]["not_handed_off"] > 0
    assert between["sources"][0]["not_handed_off_for"] >= 0
    assert "outbox" in cli("status").stdout
    cli("run")
    enqueue(database, "Worker::Kept", b"{}")
    after = cli("status", "--json").json()
    assert (after["handed_off"], after["queues"], after["delayed"]) == (41, {"worker_mail": 40}, 1)
    assert after["sources"][0]["not_handed_off"] == 0
    assert after["sources"][0]["funcs"] == [
        {"func": "Worker::Kept", "moves": False, "ready": 1, "delayed": 0, "in_flight": 0}
    ]


def test_commands_that_change_something_leave_a_record_without_secrets(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 7)
    write_config({"main": innodb}, redis_server)
    cli("plan")
    cli("run", "--dry-run")
    cli("run", "--limit", "5", "--rate", "20000/s", "--max-load", "Threads_running=250")
    cli("pause", "--func", "Worker::*")
    cli("resume", "--func", "Worker::*")
    cli("purge", "--older-than", "0")
    records = cli("status", "--json").json()["history"]
    assert [record["command"] for record in records] == ["purge", "resume", "pause", "run"]
    assert records[-1]["counts"] == {"moved": 5, "handed_off": 5, "kept": 2}
    assert records[-1]["options"] == {"limit": 5, "rate": "20000/s", "max_load": "Threads_running=250"}
    assert records[0]["counts"] == {"purged": 5}
    assert all(record["user"] and record["host"] and record["version"] for record in records)
    assert innodb.password not in json.dumps(records)
    cli.env["COLUMNS"] = "250"  # no cell is wrapped, however long its neighbours are
    shown = cli("status").stdout
    for typed in (
        "run --limit 5 --rate 20000/s --max-load Threads_running=250",
        "pause --func 'Worker::*'",
        "purge --older-than 0 ",
    ):
        assert f" {typed} " in shown


def test_a_look_that_would_be_dear_reads_a_few_rows_only(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    cli: Cli,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The count of `job` is a scan: it is taken anew only when the last one was cheap for the time since."""
    fill(innodb, 12_000)
    path = write_config({"main": innodb}, redis_server)
    assert cli("run", "--limit", "6000").status in (0, 1)
    config = load(path)
    looking = status.Status(config, config.source)
    with contextlib.closing(looking), contextlib.closing(innodb.server.root()) as root:

        def rows_read() -> int:
            return sum(int(str(row[1])) for row in root.rows("SHOW GLOBAL STATUS LIKE 'Handler_read%'"))

        def cost() -> int:
            before = rows_read()
            looking.look()
            return rows_read() - before

        assert cost() > 6000
        monkeypatch.setattr(status, "COUNT_SHARE", 0.0)
        assert cost() < 3000  # the catalogue's own tables: no row of job but the oldest, no row of the outbox


def test_watching_shows_the_rate_and_ends_well(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 2000)
    write_config({"main": innodb}, redis_server)
    watching = cli.start("status", "--watch", "--interval", "0.3", "--json")
    wait_until(lambda: watching.stdout.count("\n") >= 1, 20, "the first look")
    cli("run", "--rate", "1000/s")
    wait_until(lambda: '"handed_off":2000' in watching.stdout, 20, "the end is seen")
    watching.send(signal.SIGTERM)
    assert watching.wait().status == 0
    looks = [json.loads(line) for line in watching.stdout.splitlines()]
    assert looks[0]["rate"] is None
    assert max(look["rate"] for look in looks[1:]) > 100
    assert any(look["migrators_at_work"] for look in looks)


def test_a_server_that_is_away_is_shown_and_the_rest_too(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 3)
    write_config({"main": innodb, "gone": "mysql+pymysql://q:secret@127.0.0.1:1/qudo"}, redis_server)
    result = cli("status", "--json")
    assert result.status == 3
    document = result.json()
    assert [source["name"] for source in document["sources"]] == ["main"]
    assert document["errors"][0]["source"] == "gone"
    assert "secret" not in result.stdout + result.stderr

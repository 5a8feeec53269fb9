"""What each command prints with `--json` is one object, and is what its schema says: scripts rely on both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.qudo_app import enqueue, fill
from tests.schemas import check
from tests.servers import RedisServer, SQLiteDatabase
from tests.servers.command import Cli

MAIL = "Worker::Mail"


class Printed(Protocol):
    """What a command prints with `--json`, checked against the schema of its name or another."""

    def __call__(self, *arguments: str, status: int = 0, schema: str = "") -> dict[str, Any]: ...


@pytest.fixture
def printed(cli: Cli) -> Printed:
    def printed(*arguments: str, status: int = 0, schema: str = "") -> dict[str, Any]:
        result = cli(*arguments, "--json")
        assert result.status == status, result.stdout + result.stderr
        assert result.stdout.startswith("{")
        assert result.stdout.endswith("}\n")
        assert result.stdout.count("\n") == 1
        document: dict[str, Any] = result.json()
        check(document, schema or arguments[0])
        assert document.get("exit_status", status) == status
        return document

    return printed


def some(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: document[name] for name in names}


def test_every_step_of_a_migration(sqlite: SQLiteDatabase, redis_server: RedisServer, printed: Printed) -> None:
    fill(sqlite, 3, MAIL, uniqkey="key-{n}")
    enqueue(sqlite, MAIL, b"{}", priority=5)
    later = enqueue(sqlite, "Worker::Later", b"[9007199254740993]", run_after=1000)
    bad = enqueue(sqlite, "Worker::Broken", b"\x05\x0b\x03 broken")
    held = enqueue(sqlite, MAIL, b"{}")
    sqlite.execute("UPDATE job SET grabbed_until = %s WHERE id = %s", [sqlite.now() + 1000, held])

    made = printed("init", "--source", f"main={sqlite.url}", "--target", redis_server.url)
    assert some(made, "file", "ddl", "errors") == {"file": "qudo-migrate.toml", "ddl": None, "errors": []}

    plan = printed("plan", status=1)
    assert plan["target"] is not None
    assert plan["estimate"]["jobs"] == 6
    assert [job["id"] for job in plan["untranslatable_jobs"]] == [bad]

    rehearsal = printed("rehearse", status=1)
    assert some(rehearsal, "verdict", "rehearsed") == {"verdict": "ok", "rehearsed": 5}
    assert [job["id"] for job in rehearsal["untranslatable_jobs"]] == [bad]

    paused = printed("pause", "--func", MAIL)
    assert paused["changed"]
    assert [pause["func"] for pause in paused["paused"]] == [MAIL]
    assert not printed("pause", "--func", MAIL, schema="pause")["changed"]
    assert some(printed("resume", "--func", MAIL, schema="pause"), "changed", "paused") == {
        "changed": True,
        "paused": [],
    }
    assert not printed("resume", "--func", MAIL, schema="pause")["changed"]

    assert printed("where", f"main:{later}")["state"] == "not_moved"
    assert printed("run", "--dry-run", status=1)["dry_run"]
    totals = printed("run", status=1)["totals"]
    counts = {"moved": 5, "handed_off": 5, "untranslatable": 1, "in_flight": 1}
    assert some(totals, *counts) == counts
    for job, state in ((1, "queued"), (later, "delayed"), (bad, "untranslatable"), (held, "in_flight")):
        assert printed("where", f"main:{job}")["state"] == state
    assert printed("where", "main:999", status=1)["state"] == "unknown"


def test_what_comes_after_a_run(
    sqlite: SQLiteDatabase, redis_server: RedisServer, redis: Redis, write_config: WriteConfig, printed: Printed
) -> None:
    fill(sqlite, 5, MAIL)
    enqueue(sqlite, "Worker::Later", b"{}", run_after=1000)
    write_config([sqlite], redis_server)
    assert printed("status")["sources"][0]["in_job"] == 6
    printed("run")
    printed("pause", "--func", "Worker::X")
    status = printed("status")
    assert some(status, "handed_off", "queues", "delayed") == {
        "handed_off": 6,
        "queues": {"worker_mail": 5},
        "delayed": 1,
    }
    assert [record["command"] for record in status["history"]] == ["pause", "run"]
    assert printed("verify", schema="report")["totals"]["queued"] == 5
    assert printed("rollback", "--dry-run")["sources"][0]["returned"] == 6
    assert printed("rollback", "--func", "Worker::Later")["sources"][0]["returned"] == 1
    assert printed("purge", "--dry-run")["sources"][0]["young"] == 5
    assert printed("purge", "--older-than", "0")["sources"][0]["purged"] == 5

    redis.flushall()
    assert printed("recover", "--redis-lost", "hold", "--dry-run")["sources"][0]["problem"]
    assert printed("recover", "--redis-lost", "hand-off", "--yes")["sources"][0]["jobs"] == 0


def test_what_ends_early_prints_one_object_too(
    sqlite: SQLiteDatabase, redis_server: RedisServer, printed: Printed
) -> None:
    source = ("--source", f"main={sqlite.url}")
    assert printed("init", *source, "--target", "redis://127.0.0.1:1/0", status=3, schema="error")["error"]
    assert printed("plan", status=2, schema="error")["error"]  # no configuration yet
    printed("init", *source, "--target", redis_server.url)
    printed("init", *source, "--target", redis_server.url, status=2, schema="error")
    printed("where", "main:x", status=2, schema="error")

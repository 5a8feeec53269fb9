"""`plan` says what would move and what stands in the way; it writes nothing."""

from __future__ import annotations

from typing import Any, Protocol

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.conftest import SECRET_ARGUMENT
from tests.integration.snapshots import nothing_written
from tests.qudo_app import enqueue, fill, load_fixture
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer
from tests.servers.command import Cli


class Plan(Protocol):
    """What `plan --json` prints; the exit status must be `status`."""

    def __call__(self, *arguments: str, status: int = 0) -> dict[str, Any]: ...


@pytest.fixture
def plan(cli: Cli) -> Plan:
    def plan(*arguments: str, status: int = 0) -> dict[str, Any]:
        result = cli("plan", "--json", *arguments)
        assert result.status == status, result.stdout + result.stderr
        document: dict[str, Any] = result.json()
        assert document["exit_status"] == status
        assert document["ready"] == (status == 0)
        return document

    return plan


def checks(document: dict[str, Any], level: str) -> str:
    """All checks of a level, in one text."""
    return "\n".join(f"{each['about']}: {each['message']}" for each in document["checks"] if each["level"] == level)


def test_plan_counts_by_source_func_and_state_and_writes_nothing(
    database: Database, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, plan: Plan
) -> None:
    fill(database, 10, "Worker::Mail", uniqkey="key-{n}", priorities=2)
    fill(database, 5, "Worker::Mail", run_after=1000)
    fill(database, 3, "Worker::Kept")
    held = enqueue(database, "Worker::Mail", b"{}")
    database.execute("UPDATE job SET grabbed_until = %s WHERE id = %s", [database.now() + 1000, held])
    database.execute("UPDATE job SET grabbed_until = 1, retry_cnt = 1 WHERE id = 1")
    routes: list[dict[str, object]] = [
        {"func": "Worker::Kept", "move": False},
        {"func": "*", "bands": [{"min_priority": 1, "queue": "high"}]},
    ]
    write_config([database], redis_server, routes)

    with nothing_written(database, redis):
        document = plan()

    (source,) = document["sources"]
    funcs = {func["func"]: func for func in source["funcs"]}
    assert (source["name"], source["jobs"], source["engine"]) == ("main", 19, database.engine)
    mail = {key: funcs["Worker::Mail"][key] for key in ("jobs", "ready", "delayed", "in_flight", "expired", "retried")}
    assert mail == {"jobs": 16, "ready": 10, "delayed": 5, "in_flight": 1, "expired": 1, "retried": 1}
    assert funcs["Worker::Mail"]["with_uniqkey"] == 10
    assert funcs["Worker::Mail"]["queues"] == ["high", "worker_mail"]
    assert (funcs["Worker::Mail"]["serializer"], funcs["Worker::Mail"]["sure"]) == ("json", 1.0)
    assert not funcs["Worker::Kept"]["moves"]
    assert document["estimate"]["jobs"] == 15
    assert document["estimate"]["redis_bytes"] > 15 * 100


def test_plan_recognises_what_the_real_qudo_wrote(
    mariadb: MariaDB, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, plan: Plan, cli: Cli
) -> None:
    databases = {"a": mariadb.create_database(), "b": mariadb.create_database()}
    load_fixture(databases["a"], "a")
    load_fixture(databases["b"], "b")
    write_config(databases, redis_server)

    with nothing_written(*databases.values(), redis):
        document = plan(status=1)
        text = cli("plan")

    found = {func["func"]: func["serializer"] for source in document["sources"] for func in source["funcs"]}
    assert found == {
        "Worker::Flaky": "json",
        "Worker::Dead": "json",
        "Worker::Mail": "json",
        "Worker::Slow": "json",
        "Worker::Thumbnail": "json",
        "Batch::Storable": "storable",
        "Batch::Pack": "messagepack",
        "Batch::Raw": "raw",
    }
    assert {(job["source"], job["id"]) for job in document["untranslatable_jobs"]} == {("b", 128), ("b", 129)}
    assert "2 of 26 sampled jobs can't be translated" in checks(document, "problem")
    assert text.status == 1
    assert "a person is needed" in text.stdout


def test_plan_names_the_samples_that_do_not_translate_and_shows_no_data(
    innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, plan: Plan, cli: Cli
) -> None:
    enqueue(innodb, "Worker::Mail", b"{}")
    bad = enqueue(innodb, "Worker::Mail", b'{"' + SECRET_ARGUMENT.encode() + b'": ')
    write_config([innodb], redis_server)

    document = plan(status=1)

    (job,) = document["untranslatable_jobs"]
    assert (job["source"], job["id"], job["func"]) == ("main", bad, "Worker::Mail")
    assert cli("plan").status == 1


@pytest.mark.parametrize(
    ("options", "level", "words", "status"),
    [
        pytest.param({"appendonly": "no"}, "warning", "no append-only file", 0, id="no-aof"),
        pytest.param({"appendfsync": "no"}, "warning", "appendfsync is no", 0, id="unsynced"),
        pytest.param({"maxmemory": "2mb"}, "problem", "of maxmemory only", 1, id="full"),
        pytest.param(
            {"maxmemory": "200mb", "maxmemory_policy": "allkeys-lru"}, "problem", "allkeys-lru", 2, id="evicting"
        ),
        pytest.param({"replicaof": "127.0.0.1 1"}, "problem", "read-only replica", 3, id="replica"),
    ],
)
def test_plan_judges_the_redis(
    options: dict[str, str],
    level: str,
    words: str,
    status: int,
    innodb: MariaDBDatabase,
    write_config: WriteConfig,
    plan: Plan,
) -> None:
    fill(innodb, 1000, arg='{"n":{n},"text":"' + "x" * 3000 + '"}')
    with RedisServer(**options) as server:
        write_config([innodb], server)
        assert words in checks(plan(status=status), level)


def test_plan_judges_the_mysql(redis_server: RedisServer, write_config: WriteConfig, plan: Plan) -> None:
    with MariaDB(log_bin=True, binlog_format="STATEMENT", innodb_flush_log_at_trx_commit=2) as server:
        database = server.create_database()
        reader = server.create_account("p", [f"SELECT ON {database.name}.*"])
        write_config([database], redis_server)
        warnings = checks(plan(), "warning")
        assert "binlog_format is STATEMENT" in warnings
        assert "innodb_flush_log_at_trx_commit is 2" in warnings

        write_config({"main": database.url_for(reader)}, redis_server)
        assert "lack INSERT, UPDATE, DELETE, CREATE" in checks(plan(status=1), "problem")


def test_plan_looks_at_what_it_can_reach(
    innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, plan: Plan
) -> None:
    fill(innodb, 3)
    write_config({"alive": innodb, "dead": "mysql+pymysql://u:p@127.0.0.1:1/qudo"}, redis_server)
    document = plan(status=3)
    assert [source["jobs"] for source in document["sources"]] == [3]
    assert [error["source"] for error in document["errors"]] == ["dead"]

    write_config({"alive": innodb}, "redis://127.0.0.1:1/0")
    document = plan(status=3)
    assert [source["jobs"] for source in document["sources"]] == [3]
    assert [error["source"] for error in document["errors"]] == ["target"]


def test_plan_tells_what_workers_need(
    innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, plan: Plan, cli: Cli
) -> None:
    fill(innodb, 2, "Worker::Mail")
    fill(innodb, 2, "Worker::Late", run_after=1000)
    routes: list[dict[str, object]] = [
        {"func": "Worker::Late", "delayed": "start_time"},
        {"func": "*", "max_retry": 3},
    ]
    write_config([innodb], redis_server, routes)
    needs = "\n".join(plan()["workers_need"])
    assert "classes: Worker::Late, Worker::Mail" in needs
    assert "queues: worker_late, worker_mail" in needs
    assert "Resque::Plugin::Delay" in needs
    assert "Resque::Plugin::Retry" in needs
    assert "Next: qudo-migrate rehearse" in cli("plan").stdout

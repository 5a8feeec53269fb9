"""`run --dry-run` says what a run would do, to the number, and writes nothing anywhere."""

from __future__ import annotations

import shlex

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.snapshots import nothing_written
from tests.qudo_app import enqueue, fill, load_fixture
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer


def _shop(database: Database) -> None:
    """Jobs of every kind: free, delayed, held, unreadable, kept by route or hold."""
    fill(database, 10, "Worker::Mail", uniqkey="key-{n}", priorities=3)
    fill(database, 5, "Worker::Mail", run_after=1000)
    fill(database, 4, "Worker::Held", run_after=1000)
    fill(database, 3, "Worker::Kept")
    enqueue(database, "Worker::Mail", b"\xff\xfe")
    held = enqueue(database, "Worker::Mail", b"{}")
    database.execute("UPDATE job SET grabbed_until = %s WHERE id = %s", [database.now() + 1000, held])


def _routes() -> list[dict[str, object]]:
    return [
        {"func": "Worker::Held", "delayed": "hold"},
        {"func": "Worker::Kept", "move": False},
        {"func": "*", "bands": [{"min_priority": 2, "queue": "high"}]},
    ]


@pytest.mark.parametrize(
    ("database", "options"),
    [
        ("innodb", ()),
        ("myisam", ()),
        ("sqlite", ()),
        ("innodb", ("--limit", "4")),
        ("innodb", ("--func", "Worker::[MK]*")),
    ],
    indirect=["database"],
)
def test_a_dry_run_foretells_the_run_and_writes_nothing(
    options: tuple[str, ...],
    database: Database,
    redis: Redis,
    redis_server: RedisServer,
    write_config: WriteConfig,
    run: Run,
) -> None:
    _shop(database)
    write_config([database], redis_server, _routes())

    with nothing_written(database, redis):
        dry = run("--dry-run", *options, status=1)
    real = run(*options, status=1)

    assert dry.document["dry_run"]
    assert not real.document["dry_run"]
    assert dry.counts == real.counts
    assert dry.funcs == real.funcs
    assert dry.untranslatable == real.untranslatable
    assert dry.document["next"] == f"qudo-migrate {' '.join(['run', *map(shlex.quote, options)])}"


def test_a_dry_run_counts_what_waits_for_its_key_and_what_an_earlier_run_left(
    innodb: MariaDBDatabase, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, run: Run
) -> None:
    enqueue(innodb, "Worker::Mail", b"[1]", "key")
    write_config([innodb], redis_server)
    run()
    enqueue(innodb, "Worker::Mail", b"[2]", "key")
    enqueue(innodb, "Worker::Mail", b"[3]")
    with nothing_written(innodb, redis):
        dry = run("--dry-run", status=1)
    assert dry.counts == {"moved": 1, "handed_off": 1, "waiting": 1}


def test_a_dry_run_over_the_real_qudos_dumps_writes_nothing(
    mariadb: MariaDB, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, run: Run
) -> None:
    databases = {"a": mariadb.create_database(), "b": mariadb.create_database()}
    load_fixture(databases["a"], "a")
    load_fixture(databases["b"], "b")
    write_config(databases, redis_server)
    with nothing_written(*databases.values(), redis):
        report = run("--dry-run", status=1)
    assert report.counts_of("a")["moved"] == 183
    assert report.counts_of("b") == {"moved": 127, "handed_off": 127, "untranslatable": 2}

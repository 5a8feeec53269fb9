"""Qudo's ids come back, identities never do: a job whose id has crossed before is another job."""

from __future__ import annotations

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.qudo_app import enqueue, job_ids
from tests.resque_app import Resque, ResqueWorker
from tests.schemas import check
from tests.servers import Database, MariaDB, RedisServer
from tests.servers.command import Cli


def begin_ids_anew(database: Database) -> None:
    """What a restart of an old InnoDB with a drained queue does, or TRUNCATE."""
    assert database.count() == 0
    if database.engine == "SQLite":
        database.execute("DELETE FROM sqlite_sequence WHERE name = 'job'")
    else:
        database.execute("ALTER TABLE job AUTO_INCREMENT = 1")


def test_jobs_under_ids_that_crossed_before_are_not_lost(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    write_config([database], redis_server)
    for turn in range(3):
        for number in range(20):
            enqueue(database, "Worker::Mail", b"[%d,%d]" % (turn, number))
        assert job_ids(database) == list(range(1, 21))
        assert run().counts == {"moved": 20, "handed_off": 20}
        begin_ids_anew(database)

    jobs = resque.queue("worker_mail")
    assert [job.args[0] for job in jobs] == [[turn, number] for turn in range(3) for number in range(20)]
    assert [job.id for job in jobs] == [*range(1, 21)] * 3
    assert len({job.identity for job in jobs}) == 60


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_where_tells_all_crossings_of_an_id(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run, cli: Cli
) -> None:
    write_config([database], redis_server)
    for func in ("Worker::First", "Worker::Second"):
        enqueue(database, func, b"{}")
        run()
        begin_ids_anew(database)
        database.execute("UPDATE qudo_migrate_outbox SET moved_at = moved_at - 60")
    identities = [resque.queue(name)[0].identity for name in ("worker_first", "worker_second")]
    ResqueWorker(resque).pop("worker_first")

    result = cli("where", "main:1", "--json")

    story = result.json()
    check(story, "where")
    assert (result.status, story["state"], story["func"], story["in_job"]) == (0, "queued", "Worker::Second", False)
    assert [(each["outbox"], each["func"], each["queue"], each["state"]) for each in story["crossings"]] == [
        (identities[0], "Worker::First", "worker_first", "consumed"),
        (identities[1], "Worker::Second", "worker_second", "queued"),
    ]

    enqueue(database, "Worker::Third", b"{}")
    text = cli("where", "main:1").stdout
    assert "main:1, Worker::Third: not moved" in text
    assert all(identity in text for identity in identities)
    assert "in Qudo's job table again" in text


def test_the_same_id_in_two_sources_is_two_jobs(
    mariadb: MariaDB, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run, cli: Cli
) -> None:
    sources = {name: mariadb.create_database() for name in ("one", "two")}
    for name, database in sources.items():
        enqueue(database, "Worker::Mail", f'"{name}"'.encode())
    write_config(sources, redis_server, [{"func": "*", "serializer": "json"}])

    run()

    assert {job.source: (job.id, job.args) for job in resque.jobs()} == {"one": (1, ["one"]), "two": (1, ["two"])}
    identity = next(job.identity for job in resque.jobs() if job.source == "two")
    assert identity in cli("where", "two:1").stdout
    assert identity not in cli("where", "one:1").stdout


@pytest.mark.parametrize("engine", ["InnoDB", "MyISAM"])
def test_a_restored_backup_of_the_job_table_brings_new_jobs(
    engine: str, mariadb: MariaDB, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    """Rows that a person puts back are jobs to run: the very same rows cross again, under identities of their own."""
    database = mariadb.create_database(engine)
    for number in range(5):
        enqueue(database, "Worker::Mail", b"[%d]" % number)
    database.execute("CREATE TABLE backup AS SELECT * FROM job")
    write_config([database], redis_server)
    run()
    database.execute("INSERT INTO job SELECT * FROM backup")

    assert run().counts == {"moved": 5, "handed_off": 5}

    jobs = resque.queue("worker_mail")
    assert [job.id for job in jobs] == [1, 2, 3, 4, 5] * 2
    assert len({job.identity for job in jobs}) == 10

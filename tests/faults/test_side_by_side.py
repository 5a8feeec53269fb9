"""Several migrators at once, killed, asleep or slow; clocks that differ; ids that come back; late commits."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest
from redis import Redis

from migrate.failpoints import VARIABLE
from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.faults.stopping import asleep
from tests.integration.conftest import Run
from tests.integration.reports import Report
from tests.qudo_app import QudoWorker, func_id
from tests.resque_app import Resque
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer, wait_until
from tests.servers.binaries import need_program
from tests.servers.command import Cli

# --- several migrators ----------------------------------------------------------------------------------------------


def test_of_three_migrators_two_are_killed_and_nothing_is_lost_or_doubled(
    database: Database, books: Books, cli: Cli, run: Run
) -> None:
    books.fill(600, priorities=2)
    runs = [cli.start("run", "--json", "--batch-size", "20", "--rate", "300/s") for _ in range(3)]
    for victim, crossed in ((runs[0], 60), (runs[1], 200)):
        runs[2].wait_until(lambda: books.standing().resque.total() > crossed, 30, f"{crossed} jobs cross")  # noqa: B023
        assert victim.kill().status == -signal.SIGKILL

    assert runs[2].wait().status == 0
    assert run().complete
    books.check_all_crossed()


@pytest.mark.parametrize(
    ("database", "point"),
    [
        ("innodb", "move.committed"),
        ("innodb", "handoff.done"),
        ("sqlite", "handoff.begun"),
        ("myisam", "handoff.begun"),
    ],
    indirect=["database"],
)
def test_a_migrator_that_slept_while_another_did_all_its_work_hands_off_nothing_again(
    point: str, database: Database, books: Books, cli: Cli, run: Run
) -> None:
    books.fill(100, priorities=2)  # one chunk: nobody sleeps in the middle of the next move, which would hold locks
    with asleep(cli, point) as sleeper:
        other = run("--retry-for", "20")
        assert other.complete
        books.check_all_crossed()
        assert cli("purge", "--older-than", "0").status == 0
        assert database.count("qudo_migrate_outbox") == 0
        books.purged = True
        sleeper.send(signal.SIGCONT)
        woken = Report(sleeper.wait())

    assert woken.status == 0
    assert woken.counts["moved"] == 100
    assert other.counts.get("moved", 0) == 0
    books.check_all_crossed()


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL], ids=["wakes", "is killed"])
def test_a_migrator_that_sleeps_in_the_middle_of_a_move_is_waited_for_visibly(
    end: signal.Signals,
    myisam: MariaDBDatabase,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    books = Books(myisam, redis)
    books.fill(100)
    write_config([myisam], redis_server)
    with asleep(cli, "leasing.claimed", "--batch-size", "20") as sleeper:
        other = cli.start("run", "--json", "--batch-size", "20")
        other.wait_for("another migrator is moving jobs")
        sleeper.send(end)
        assert sleeper.wait().status == (0 if end is signal.SIGCONT else -end)
        assert Report(other.wait()).status == 0
    books.check_all_crossed()


def test_of_three_follows_each_is_killed_and_they_share_what_comes(database: Database, books: Books, cli: Cli) -> None:
    """While apps enqueue all the time; the last one ends by itself."""
    follows = [cli.start("follow", "--until-idle", "1000") for _ in range(3)]
    for follow in follows:
        follow.wait_for("follows main")
    for crossed, victim in ((40, 0), (80, 1), (120, 2)):
        for number in range(40):
            books.enqueue(uniqkey=f"key-{crossed}-{number}" if number % 4 == 0 else None)
        wait_until(lambda: books.standing().resque.total() >= crossed - 30, 30, "some cross")  # noqa: B023
        assert follows[victim].kill().status == -signal.SIGKILL
        books.check_safe()
        follows[victim] = cli.start("follow", "--until-idle", "1", "--json")

    assert [follow.wait().status for follow in follows] == [0, 0, 0]
    books.check_all_crossed()


# --- clocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", ["+2h", "-2h"])
def test_the_clock_of_the_migrators_machine_matters_nowhere(
    skew: str, innodb: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    need_program("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    books = Books(innodb, redis)
    books.fill(10)
    books.fill(5, run_after=3600)
    books.fill(1, "Worker::Slow")
    assert QudoWorker([innodb], ["Worker::Slow"]).find_and_grab() is not None
    write_config([innodb], redis_server)
    due = innodb.value("SELECT MAX(run_after) FROM job")

    cli.env |= {"LD_PRELOAD": str(library), "FAKETIME": skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    report = Report(cli("run", "--json"))

    assert report.counts == {"moved": 15, "handed_off": 15, "in_flight": 1}
    books.check_each_once()
    delayed = Resque(redis).delayed()
    assert {second: len(jobs) for second, jobs in delayed.items()} == {due: 5}


@pytest.mark.parametrize("skew", [7200, -7200], ids=["ahead", "behind"])
def test_mariadb_and_redis_may_disagree_about_the_time(
    skew: int, redis_server: RedisServer, redis: Redis, cli: Cli, run: Run, write_config: WriteConfig
) -> None:
    # Each connection of an app, a worker or a migrator gets a clock that is wrong by so much.
    with MariaDB(init_connect=f"SET timestamp = UNIX_TIMESTAMP() + {skew}") as server:
        database = server.create_database()
        books = Books(database, redis)
        books.fill(10)
        books.fill(5, run_after=20_000)
        books.fill(1, "Worker::Slow")
        database.execute(f"UPDATE job SET run_after = run_after + {min(skew, 0)}")
        worker = QudoWorker([database], ["Worker::Slow"])
        assert worker.find_and_grab() is not None
        worker.close()
        write_config([database], redis_server)

        report = run(status=1)

        assert report.counts == {"moved": 15, "handed_off": 15, "in_flight": 1}
        books.check_each_once()
        assert sum(len(jobs) for jobs in Resque(redis).delayed().values()) == 5
        assert run(status=1).counts == {"in_flight": 1}


# --- ids that come back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed_at", [None, "move.committed", "handoff.done"])
@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_second_job_under_the_same_id_is_another_job(
    killed_at: str | None, database: Database, books: Books, cli: Cli, run: Run
) -> None:
    """InnoDB forgets its counter at a restart; the first job may not even have been handed off yet."""
    books.fill(20)
    if killed_at is None:
        run()
    else:
        cli.env[VARIABLE] = f"{killed_at}=kill"
        assert cli("run", "--json").status == -signal.SIGKILL
        del cli.env[VARIABLE]
    database.execute("ALTER TABLE job AUTO_INCREMENT = 1")
    books.fill(20)
    assert database.value("SELECT MIN(id) FROM job") == 1

    assert run().complete
    books.check_all_crossed()


def test_an_id_that_comes_back_while_its_first_job_is_moving_takes_nothing_away(
    myisam: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, run: Run, write_config: WriteConfig
) -> None:
    books = Books(myisam, redis)
    books.fill(20)
    write_config([myisam], redis_server)
    cli.env[VARIABLE] = "leasing.deleted=kill"
    assert cli("run", "--json").status == -signal.SIGKILL
    del cli.env[VARIABLE]
    myisam.execute("ALTER TABLE job AUTO_INCREMENT = 1")
    books.fill(20)
    assert myisam.value("SELECT MIN(id) FROM job") == 1

    assert run().complete
    books.check_all_crossed()


# --- late commits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_job_whose_transaction_commits_late_is_named_and_then_taken(
    database: Database, books: Books, run: Run
) -> None:
    func_id(database, "Worker::Mail")  # or the open transaction would hold the func's row too
    with contextlib.closing(database.session()) as session:
        session.execute("BEGIN")
        late = books.enqueue(session=session)  # the lowest id of all
        books.fill(50)

        report = run("--retry-for", "6", status=1)
        assert "open transactions" in report.errors["main"]
        assert [error["advice"] for error in report.document["errors"]] == ["run again, or follow"]
        assert report.counts["moved"] == report.counts["handed_off"] == 50
        session.execute("COMMIT")

    assert run().counts == {"moved": 1, "handed_off": 1}
    assert late in books.standing().resque
    books.check_all_crossed()


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_job_whose_transaction_is_rolled_back_never_existed(database: Database, books: Books, run: Run) -> None:
    with contextlib.closing(database.session()) as session:
        session.execute("BEGIN")
        ghost = books.enqueue(session=session)
        run(status=1)
        session.execute("ROLLBACK")
    books.enqueued.remove(ghost)

    assert run().counts == {}
    books.check_all_crossed()

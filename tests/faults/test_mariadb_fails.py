"""MariaDB is killed in mid-batch, hangs up, or makes the migrator wait for locks: the run goes on, its counts exact."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from redis import Redis
from sqlalchemy import text

from migrate.errors import Unavailable
from migrate.qudo import leasing, source
from migrate.qudo.source import Source
from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.integration.conftest import Run
from tests.integration.reports import Report
from tests.servers import Database, MariaDB, MariaDBDatabase, Proxy, RedisServer, wait_until
from tests.servers.command import Cli
from tests.servers.proxy import MYSQL_COMMIT

#: Jobs of a test, and of each of its chunks.
JOBS, BATCH_SIZE = 100, "20"

OUTBOX = b"INSERT INTO qudo_migrate_outbox"


@pytest.fixture
def own_database(request: pytest.FixtureRequest, broken_mariadb: MariaDB) -> Iterator[MariaDBDatabase]:
    """A database of the engine that the test names, on the server that may be killed."""
    broken_mariadb.start()
    database = broken_mariadb.create_database(request.param)
    yield database
    broken_mariadb.start()
    database.drop()


# --- the server dies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own_database", "statement"),
    [
        ("InnoDB", OUTBOX),
        ("InnoDB", b"DELETE job FROM"),
        ("MyISAM", b"UPDATE job SET grabbed_until"),
        ("MyISAM", b"DELETE FROM job"),
    ],
    indirect=["own_database"],
)
def test_a_run_outlives_a_mariadb_that_is_killed_in_mid_batch(
    statement: bytes,
    own_database: MariaDBDatabase,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    books = Books(own_database, redis)
    books.fill(JOBS, priorities=2)
    order = books.order()
    with Proxy(own_database.server) as proxy:
        write_config({"main": proxy.url(own_database.url)}, redis_server)
        proxy.hold_request(statement)
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
        proxy.wait_held()

        own_database.server.kill()
        proxy.release()
        running.wait_for("waiting")
        own_database.server.start()
        report = Report(running.wait())

    assert report.counts == {"moved": JOBS, "handed_off": JOBS}
    assert report.complete
    books.check_all_crossed()
    books.check_order(order)


@pytest.mark.parametrize("own_database", ["InnoDB"], indirect=True)
def test_a_run_gives_up_after_retry_for_and_a_later_one_completes(
    own_database: MariaDBDatabase,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    run: Run,
    write_config: WriteConfig,
) -> None:
    books = Books(own_database, redis)
    books.fill(JOBS)
    order = books.order()
    with Proxy(own_database.server) as proxy:
        write_config({"main": proxy.url(own_database.url)}, redis_server)
        proxy.hold_request(OUTBOX)
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE, "--retry-for", "1")
        proxy.wait_held()
        own_database.server.kill()
        proxy.release()
        report = Report(running.wait())

        assert report.status == 3
        assert "source main" in report.errors["main"]
        own_database.server.start()
        later = run()

    assert later.complete
    assert report.counts.get("moved", 0) + later.counts["moved"] == JOBS
    books.check_all_crossed()
    books.check_order(order)


# --- the connection dies --------------------------------------------------------------------------------------------

INNODB_STATEMENTS = [b"FOR UPDATE", b"INSERT INTO qudo_migrate_chunk", OUTBOX, b"DELETE job FROM", MYSQL_COMMIT]
MYISAM_STATEMENTS = [
    b"get_lock",
    b"UPDATE job SET grabbed_until",
    OUTBOX,
    b"DELETE FROM job",
    b"UPDATE qudo_migrate_chunk",
]


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize(
    ("database", "statement"),
    [
        *(("innodb", statement) for statement in INNODB_STATEMENTS),
        *(("myisam", statement) for statement in [*MYISAM_STATEMENTS, MYSQL_COMMIT]),
    ],
    indirect=["database"],
)
def test_a_connection_lost_at_any_statement_changes_no_count(
    lost: str,
    statement: bytes,
    database: MariaDBDatabase,
    books: Books,
    redis_server: RedisServer,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    books.fill(JOBS, priorities=2)
    order = books.order()
    with Proxy(database.server) as proxy:
        write_config({"main": proxy.url(database.url)}, redis_server)
        # From the middle of a move on: the COMMIT that is lost must not be one of those before the first.
        middle = b"INSERT INTO qudo_migrate_chunk" if statement == MYSQL_COMMIT else b"FROM job"
        proxy.hold_request(middle)
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
        proxy.wait_held()
        (proxy.lose_request if lost == "request" else proxy.lose_reply)(statement)
        proxy.release()
        proxy.wait_hit(2)
        report = Report(running.wait())

    assert report.counts == {"moved": JOBS, "handed_off": JOBS}
    assert report.complete
    books.check_all_crossed()
    books.check_order(order)


@pytest.mark.parametrize("database", ["innodb", "myisam"], indirect=True)
def test_cuts_half_closed_connections_and_a_network_that_is_away_are_waited_out(
    database: MariaDBDatabase, books: Books, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    books.fill(200)
    order = books.order()
    with Proxy(database.server) as proxy:
        write_config({"main": proxy.url(database.url)}, redis_server)
        proxy.delay(0.002)
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
        faults = [proxy.cut, proxy.half_close, proxy.black_hole, proxy.refuse]
        for number, fault in enumerate(faults):
            proxy.hold_request(OUTBOX)
            proxy.wait_held()
            fault()
            proxy.release()
            if fault == proxy.refuse:
                running.wait_for("can't connect" if "can't connect" in running.stderr else "waiting")
            elif fault == proxy.black_hole:
                _stands_still(books)
            proxy.heal()
            proxy.delay(0.002)
            assert running.running, f"ended after fault {number}\n{running.stderr}"
        report = Report(running.wait())

    assert report.counts == {"moved": 200, "handed_off": 200}
    books.check_all_crossed()
    books.check_order(order)


def _stands_still(books: Books) -> None:
    """Until nothing has moved between two looks."""
    looks = [books.standing()]

    def same() -> bool:
        looks.append(books.standing())
        return looks[-2] == looks[-1]

    wait_until(same, 10, "nothing moves through a black hole")


@pytest.mark.parametrize("own_database", ["InnoDB"], indirect=True)
def test_connections_that_the_server_closed_while_they_were_idle_are_made_anew(
    own_database: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    books = Books(own_database, redis)
    books.fill(JOBS)
    own_database.execute("SET GLOBAL wait_timeout = 1")
    with Proxy(redis_server) as proxy:
        write_config([own_database], f"redis://127.0.0.1:{proxy.port}/0")
        proxy.hold_request(b'"class"')  # of the first job that is handed off
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
        proxy.wait_held()

        wait_until(lambda: _connections(own_database) == 0, 15, "wait_timeout closes all connections")
        proxy.release()
        report = Report(running.wait())

    own_database.execute("SET GLOBAL wait_timeout = 28800")
    assert report.counts == {"moved": JOBS, "handed_off": JOBS}
    books.check_all_crossed()


def _connections(database: MariaDBDatabase) -> int:
    query = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s"
    return int(database.value(query, [database.account.user]))


@pytest.mark.parametrize("database", ["innodb", "myisam"], indirect=True)
def test_connections_that_an_operator_kills_are_made_anew(
    database: MariaDBDatabase, books: Books, redis_server: RedisServer, cli: Cli
) -> None:
    books.fill(600)
    order = books.order()
    running = cli.start("run", "--json", "--batch-size", BATCH_SIZE, "--rate", "400/s")

    for crossed in (50, 150, 250):
        running.wait_until(lambda: sum(books.standing().resque.values()) > crossed, 30, f"{crossed} jobs cross")  # noqa: B023
        _kill_connections(database)
    report = Report(running.wait())

    assert report.counts == {"moved": 600, "handed_off": 600}
    books.check_all_crossed()
    books.check_order(order)


def _kill_connections(database: MariaDBDatabase) -> None:
    query = "SELECT id FROM information_schema.processlist WHERE user = %s"
    for (connection,) in database.rows(query, [database.account.user]):
        with contextlib.suppress(Exception):  # it may have ended by itself
            database.execute(f"KILL {int(connection)}")


# --- locks ----------------------------------------------------------------------------------------------------------


def test_rows_that_another_session_has_locked_are_waited_for_visibly(
    innodb: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    books = Books(innodb, redis)
    books.fill(JOBS)
    order = books.order()
    write_config([innodb], redis_server)
    with contextlib.closing(innodb.session()) as session:
        session.execute("BEGIN")
        session.rows("SELECT id FROM job WHERE id = 30 FOR UPDATE")
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
        running.wait_for("Lock wait timeout")
        session.execute("ROLLBACK")
        report = Report(running.wait())

    assert report.counts == {"moved": JOBS, "handed_off": JOBS}
    assert report.complete
    books.check_all_crossed()
    books.check_order(order)


def test_a_move_that_loses_a_deadlock_is_simply_tried_again(
    innodb: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    books = Books(innodb, redis)
    books.fill(JOBS)
    order = books.order()
    write_config([innodb], redis_server)
    with contextlib.closing(innodb.session()) as session:
        # InnoDB gives up the transaction that has changed fewer rows: the move.
        session.execute("CREATE TABLE weight (n INT) ENGINE=InnoDB")
        session.execute("BEGIN")
        session.execute("INSERT INTO weight SELECT id FROM job")
        session.rows("SELECT id FROM job WHERE id = 15 FOR UPDATE")
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
        wait_until(lambda: _waiting_for_locks(innodb), 30, "the move waits for a row")
        session.rows("SELECT id FROM job WHERE id = 1 FOR UPDATE")
        assert _deadlocks(innodb)
        session.execute("ROLLBACK")
        report = Report(running.wait())

    assert report.counts == {"moved": JOBS, "handed_off": JOBS}
    books.check_all_crossed()
    books.check_order(order)


def _waiting_for_locks(database: Database) -> int:
    # Not information_schema.innodb_trx: who reads that more often than each 0.1 s always gets the same answer.
    ((_, waiting),) = database.rows("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
    return int(waiting)


def _deadlocks(database: Database) -> bool:
    return "LATEST DETECTED DEADLOCK" in str(database.rows("SHOW ENGINE INNODB STATUS"))


def test_a_table_lock_of_another_session_is_waited_for(
    myisam: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    """`mysqldump` of MyISAM tables holds such locks."""
    books = Books(myisam, redis)
    books.fill(JOBS)
    write_config([myisam], redis_server)
    with contextlib.closing(myisam.session()) as session:
        session.execute("LOCK TABLES job READ")
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
        waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table%'"
        wait_until(lambda: myisam.value(waiting), 30, "the move waits for the table")
        session.execute("UNLOCK TABLES")
        report = Report(running.wait())
    assert report.counts == {"moved": JOBS, "handed_off": JOBS}
    books.check_all_crossed()


# --- nobody answers -------------------------------------------------------------------------------------------------


def test_a_server_that_accepts_and_never_greets_is_given_up_soon(
    innodb: MariaDBDatabase, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "CONNECT_TIMEOUT_SECONDS", 1)
    with Proxy(mariadb) as proxy, contextlib.closing(Source("main", proxy.url(innodb.url))) as opened:
        proxy.black_hole()
        with pytest.raises(Unavailable, match="no greeting from the server within 1 s"), opened.reading():
            pass
        proxy.heal()
        with opened.reading() as connection:  # what a statement may take is another matter
            assert connection.execute(text("SELECT SLEEP(1.2)")).scalar_one() == 0


def test_a_host_that_vanishes_in_the_middle_of_a_move_does_not_keep_its_lock(
    myisam: MariaDBDatabase, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "IDLE_SECONDS", 1)
    other = Source("main", myisam.url)
    with (  # noqa: PT012
        Proxy(mariadb) as proxy,
        contextlib.closing(Source("main", proxy.url(myisam.url))) as vanished,
        pytest.raises(Unavailable),
        leasing.migration_lock(vanished),
    ):
        proxy.black_hole()
        with leasing.migration_lock(other) as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
        proxy.heal()
    other.close()

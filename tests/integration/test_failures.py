"""Qudo's failures become Resque's: which rows of exception_log, in what form, and each once whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from migrate import config
from migrate.engine import final_failures
from migrate.engine.failures import FailuresImport
from migrate.engine.results import Tally
from migrate.engine.routing import Routing
from migrate.engine.stopping import Stop
from migrate.qudo import exceptions
from migrate.qudo.exceptions import BUCKET_ROWS, Mark
from migrate.qudo.source import Source
from migrate.resque import lua
from migrate.resque.target import Target
from tests.conftest import WriteConfig
from tests.integration.conftest import SECRET_ARGUMENT, Run
from tests.integration.reports import Report
from tests.integration.snapshots import nothing_written
from tests.qudo_app import (
    Outcome,
    QudoWorker,
    copy_tables,
    enqueue,
    func_id,
    load_fixture,
    retry_by_operator,
)
from tests.qudo_app.enqueueing import fill
from tests.resque_app import Resque
from tests.servers import Database, MariaDB, MariaDBDatabase, Proxy, RedisServer, wait_until
from tests.servers.command import Cli

MAIL = "Worker::Mail"

#: How EVALSHA names the script that enters failures.
ENTERS = hashlib.sha1(lua.source("guard", "failures").encode()).hexdigest().encode()

#: Seconds ago that something happened, unless a test says otherwise.
AGO = 3600


def failed(
    db: Database,
    arg: bytes | None,
    uniqkey: str | bytes | None = None,
    func: str = MAIL,
    *,
    ago: int = AGO,
    message: bytes = b"died at Mail.pm line 3.\n",
    retried: int = 0,
    row_id: int | None = None,
) -> int:
    """A row of exception_log, as Qudo writes it for each failure. Its id."""
    columns, values = "func_id, message, uniqkey, arg, exception_time, retried", [func_id(db, func), db.now() - ago]
    sql = f"%s, {db.arg(message)}, {db.text(uniqkey)}, {db.arg(arg)}, %s, {retried}"
    if row_id is not None:
        columns, sql = f"{columns}, id", f"{sql}, {row_id}"
    return db.insert(f"INSERT INTO exception_log ({columns}) VALUES ({sql})", values)


def ended(db: Database, arg: bytes, uniqkey: str | None = None, status: str = "completed", *, ago: int) -> None:
    """A row of job_status, as workers with set_job_status write it."""
    started = db.now() - ago
    db.insert(
        "INSERT INTO job_status (func_id, arg, uniqkey, status, job_start_time, job_end_time)"
        f" VALUES (%s, {db.arg(arg)}, {db.text(uniqkey)}, '{status}', {started}, {started + 1})",
        [func_id(db, MAIL)],
    )


def marked(db: Database) -> list[int]:
    """The rows with Qudo's own mark."""
    return [row_id for (row_id,) in db.rows("SELECT id FROM exception_log WHERE retried = 1 ORDER BY id")]


def imported(resque: Resque, source: str = "main") -> list[int]:
    """The rows that are in Resque's list of failures, in its order, as often as they are there."""
    notes = [failure["payload"]["qudo"] for failure in resque.failed()]
    return [note["exception_log"] for note in notes if note["source"] == source]


# --- which rows -----------------------------------------------------------------------------------------------------


def _cases(db: Database) -> dict[str, list[int]]:
    """Jobs that failed, each in its own way; the rows of exception_log by what is told of them."""
    cases = {
        "failed once": [failed(db, b'{"n":1}')],
        "failed three times": [failed(db, b'{"n":2}', ago=ago) for ago in (900, 600, 300)],
        "keys and NULL are apart": [failed(db, b"{}", key) for key in (None, "", "key", "鮎")],
        "args and NULL are apart": [failed(db, arg, "arg") for arg in (None, b"[]", b"[0]")],
        "the same of another func": [failed(db, b'{"n":1}', func="Other::Worker")],
        "put back by an operator, and done": [
            failed(db, b'{"n":3}', ago=900),
            failed(db, b'{"n":3}', ago=300, retried=1),
        ],
        "put back, and failed again": [failed(db, b'{"n":4}', retried=1), failed(db, b'{"n":4}', ago=300)],
        "its retry is held by a worker": [failed(db, b'{"n":5}', "鮎5")],
        "its retry waits for its time": [failed(db, b'{"n":6}', "鮎6"), failed(db, b'{"n":6}', "鮎6")],
        "its retry is free": [failed(db, b'{"n":7}')],
        "completed later": [failed(db, b'{"n":8}', "k8")],
        "completed before": [failed(db, b'{"n":9}')],
        "given up later": [failed(db, b'{"n":10}')],
        "another key completed later": [failed(db, b'{"n":11}', "k11")],
        "kept by its route": [failed(db, b"{}", func="Kept::Worker")],
    }
    held = enqueue(db, MAIL, b'{"n":5}', "鮎5")
    db.execute("UPDATE job SET grabbed_until = %s WHERE id = %s", [db.now() + 3600, held])
    enqueue(db, MAIL, b'{"n":6}', "鮎6", run_after=3600)
    enqueue(db, MAIL, b'{"n":7}')
    ended(db, b'{"n":8}', "k8", ago=AGO - 1)
    ended(db, b'{"n":9}', ago=AGO + 60)
    ended(db, b'{"n":10}', status="abort", ago=10)
    ended(db, b'{"n":10}', status="failed", ago=10)
    ended(db, b'{"n":11}', "k12", ago=10)
    return cases


KEPT = [{"func": "Kept::*", "move": False}]


def test_final_failures_are_imported_and_marked_and_the_others_stay(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    cases = _cases(database)
    before = marked(database)
    write_config([database], redis_server, KEPT)

    report = run(status=1)

    final = sorted(
        cases["failed once"]
        + cases["failed three times"][-1:]
        + cases["keys and NULL are apart"]
        + cases["args and NULL are apart"]
        + cases["the same of another func"]
        + cases["put back, and failed again"][-1:]
        + cases["completed before"]
        + cases["given up later"]
        + cases["another key completed later"]
    )
    assert imported(resque) == final
    assert report.counts == {"moved": 2, "handed_off": 2, "in_flight": 1, "imported": len(final)}
    assert marked(database) == sorted(before + final)

    assert run(status=1).counts == {"in_flight": 1}
    assert imported(resque) == final
    assert marked(database) == sorted(before + final)


def test_all_imports_every_row_that_nobody_put_back(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    cases = _cases(database)
    before = marked(database)
    everything = sorted({row for rows in cases.values() for row in rows}.difference(before, cases["kept by its route"]))
    write_config([database], redis_server, KEPT, failures={"import": "all"})

    assert run(status=1).counts["imported"] == len(everything)
    assert imported(resque) == everything
    assert marked(database) == sorted(before + everything)
    assert "imported" not in run(status=1).counts
    assert imported(resque) == everything


def test_none_imports_nothing(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    failed(innodb, b"{}")
    write_config([innodb], redis_server, failures={"import": "none"})
    assert run().counts == {}
    assert (resque.failed(), marked(innodb)) == ([], [])


def test_func_takes_the_failures_that_match(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    mail, other = failed(innodb, b"{}"), failed(innodb, b"{}", func="Other::Worker")
    write_config([innodb], redis_server)
    assert run("--func", "Other::*").counts == {"imported": 1}
    assert (imported(resque), marked(innodb)) == ([other], [other])
    assert run().counts == {"imported": 1}
    assert imported(resque) == [other, mail]


def test_each_source_imports_its_own(
    mariadb: MariaDB, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    sources = {"one": mariadb.create_database(), "other": mariadb.create_database("MyISAM")}
    for number, database in enumerate(sources.values(), start=1):
        for n in range(number * 10):
            failed(database, b"[%d]" % n)
    write_config(sources, redis_server)

    report = run()

    assert report.counts == {"imported": 30}
    assert (report.counts_of("one"), report.counts_of("other")) == ({"imported": 10}, {"imported": 20})
    assert imported(resque, "one") == list(range(1, 11))
    assert imported(resque, "other") == list(range(1, 21))


def test_what_the_real_qudo_logged_is_imported_by_the_rule(
    database: Database,
    mariadb: MariaDB,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    original = mariadb.create_database()
    load_fixture(original, "a")
    copy_tables(original, database)
    put_back = marked(database)
    assert database.count("exception_log") == 26
    expected = _final_by_the_rule(database)
    assert 0 < len(expected) < 26 - len(put_back)
    write_config([database], redis_server)

    report = run(status=1)  # two jobs are held by a worker

    assert report.counts["imported"] == len(expected)
    assert imported(resque) == sorted(expected)
    assert marked(database) == sorted([*put_back, *expected])
    for failure in resque.failed():
        logged = expected[failure["payload"]["qudo"]["exception_log"]]
        assert failure["payload"]["class"] == logged.func
        assert failure["error"] == logged.message.decode().strip().split("\n")[0].strip()
        assert failure["failed_at"] == time.strftime("%Y/%m/%d %H:%M:%S UTC", time.gmtime(logged.time))
        assert failure["payload"]["qudo"].get("uniqkey") == (logged.uniqkey.decode() if logged.uniqkey else None)


class Logged(NamedTuple):
    """A row of exception_log."""

    id: int
    func: str
    message: bytes
    uniqkey: bytes | None
    arg: bytes | None
    time: int
    retried: int


def _final_by_the_rule(db: Database) -> dict[int, Logged]:
    """design.md's rule, read off the tables: the newest of each job, not put back, not waiting, not completed later."""
    name, message, uniqkey, arg = (db.as_bytes(column) for column in ("func.name", "message", "uniqkey", "arg"))
    by_func = "JOIN func ON func.id = func_id"
    logged = [
        Logged(row_id, func.decode(), *rest)
        for row_id, func, *rest in db.rows(
            f"SELECT exception_log.id, {name}, {message}, {uniqkey}, {arg}, exception_time, retried"
            f" FROM exception_log {by_func} ORDER BY exception_log.id"
        )
    ]
    waiting = set(db.rows(f"SELECT {name}, {uniqkey}, {arg} FROM job {by_func}"))
    completed = db.rows(
        f"SELECT {name}, {uniqkey}, {arg}, job_start_time FROM job_status {by_func} WHERE status = 'completed'"
    )
    newest = {(row.func.encode(), row.uniqkey, row.arg): row for row in logged}
    return {
        row.id: row
        for job, row in newest.items()
        if not row.retried
        and job not in waiting
        and not any(tuple(same) == job and started >= row.time for *same, started in completed)
    }


# --- jobs that go on ------------------------------------------------------------------------------------------------


def test_a_failed_job_whose_retry_has_crossed_is_never_imported_but_a_later_one_like_it_is(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    enqueue(database, MAIL, b'{"n":1}', "鮎")
    enqueue(database, MAIL, b'{"n":2}')
    enqueue(database, MAIL, b'{"n":3}')
    with contextlib.closing(
        QudoWorker([database], [MAIL], lambda _job: Outcome.FAILED, max_retries=1, retry_delay=3600)
    ) as worker:
        assert [worker.work_once() for _ in range(4)] == [True, True, True, False]
    write_config([database], redis_server)
    assert run().counts == {"moved": 3, "handed_off": 3}

    later = failed(database, b'{"n":3}', ago=-1)  # another job with this arg, which a Qudo worker took
    assert run().counts == {"imported": 1}
    for table in ("qudo_migrate_outbox", "qudo_migrate_pending"):  # as a purge does, once they are over
        database.execute(f"DELETE FROM {table}")
    assert run().counts == {}

    assert imported(resque) == [later]
    assert len(resque.jobs()) == 3


def test_a_purge_notes_failures_whose_job_has_crossed(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    """Also one that nobody has looked at before: without its outbox row it would look final."""
    enqueue(database, MAIL, b'{"n":1}')
    enqueue(database, MAIL, b'{"n":2}')
    database.execute("UPDATE job SET retry_cnt = 1 WHERE id = 2")
    write_config([database], redis_server)
    assert run().counts == {"moved": 2, "handed_off": 2}
    failed(database, b'{"n":1}')
    in_job = failed(database, b'{"n":3}')
    enqueue(database, MAIL, b'{"n":3}')
    assert cli("purge", "--older-than", "0", "--json").json()["sources"][0]["young"] == 1
    failed(database, b'{"n":2}', ago=20)  # its worker had put it back, and logged the failure only behind the move
    database.execute("UPDATE qudo_migrate_outbox SET moved_at = moved_at - 25, enqueue_time = enqueue_time - 25")
    assert cli("purge", "--older-than", "0").status == 0
    assert database.count("qudo_migrate_outbox") == 0

    assert (run().counts, resque.failed()) == ({"moved": 1, "handed_off": 1}, [])
    assert cli("run", "--purge").status == 0
    failed(database, b'{"n":4}')
    assert run().counts == {"imported": 1}
    assert imported(resque) == [in_job + 2]


def test_a_second_import_reads_of_the_outbox_what_moved_since_not_how_much_it_holds(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    """By the server's own counters of rows and keys that were read, in whichever way."""
    write_config([innodb], redis_server)
    final = [failed(innodb, b'{"final":%d}' % n) for n in range(20)]
    failed(innodb, b"\xff\xfe", func="Batch::Raw", ago=10_000)  # stays, and is asked about each time
    read = []
    for rows in (1000, 9000):
        enqueue(innodb, MAIL, b'{"retried":%d}' % rows)  # crosses before the others: found last, reading backwards
        failed(innodb, b'{"retried":%d}' % rows, ago=10_000)
        fill(innodb, rows)
        run()
        innodb.execute("UPDATE qudo_migrate_outbox SET moved_at = moved_at - 7200, enqueue_time = enqueue_time - 7200")
        new = failed(innodb, b'{"new":%d}' % rows, ago=5)
        before = _rows_read(innodb)
        assert run().counts == {"imported": 1}
        read.append(_rows_read(innodb) - before)
        assert imported(resque)[-1] == new
    assert sorted(imported(resque)[:-2]) == final
    assert read[1] - read[0] < 100, read


def _rows_read(db: MariaDBDatabase) -> int:
    """What all connections have read so far; the question itself reads some hundreds, each time the same."""
    return sum(int(value) for _, value in db.rows("SHOW GLOBAL STATUS LIKE 'Handler_read%'"))


def test_a_job_whose_retry_a_worker_completes_meanwhile_is_not_imported(
    database: Database, redis_server: RedisServer, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(database, MAIL, b'{"n":1}')
    outcomes = iter([Outcome.FAILED, Outcome.COMPLETED])
    worker = QudoWorker([database], [MAIL], lambda _job: next(outcomes), max_retries=1)
    assert worker.work_once()
    in_hand = worker.find_and_grab()
    assert in_hand is not None
    source = Source("main", database.url)
    routing = Routing(source, config.load(write_config([database], redis_server)))
    routing.refresh()
    read_failures = exceptions.failures

    def failures(*where: Any) -> Iterator[Mark]:
        yield from read_failures(*where)
        worker.run(in_hand)

    monkeypatch.setattr(exceptions, "failures", failures)
    with contextlib.closing(worker), contextlib.closing(source):
        whole = final_failures.look(exceptions.buckets(source), None, ())
        (part,) = final_failures.candidates(source, list(routing.funcs), whole)
    assert database.count() == 0
    assert part.candidates == []


def test_a_job_that_a_rollback_puts_back_meanwhile_is_not_imported(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has left `job` when that is read, and the outbox when that is."""
    enqueue(innodb, MAIL, b'{"n":1}')
    loaded = config.load(write_config([innodb], redis_server))
    assert run().counts == {"moved": 1, "handed_off": 1}
    failed(innodb, b'{"n":1}')
    read_moved = exceptions.moved_jobs

    def moved(*where: Any) -> Iterator[Mark]:
        innodb.execute("DELETE FROM qudo_migrate_outbox")
        enqueue(innodb, MAIL, b'{"n":1}')
        yield from read_moved(*where)

    monkeypatch.setattr(exceptions, "moved_jobs", moved)
    with importing(innodb, redis_server, loaded) as failures:
        failures.run(config.FailureImport.FINAL)
    assert (innodb.count(), resque.failed()) == (1, [])


def test_what_is_dealt_with_is_not_read_again(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    """But for its header, by the server itself: that says what is new."""
    fill(innodb, 500, arg='{"n":{n}}')
    loaded = config.load(write_config([innodb], redis_server))
    assert run().counts == {"moved": 500, "handed_off": 500}
    innodb.execute(
        "INSERT INTO exception_log (func_id, message, arg, exception_time)"
        " SELECT func_id, 'died', arg, moved_at - 10 FROM qudo_migrate_outbox"
    )
    read = []
    with importing(innodb, redis_server, loaded) as failures:
        for _ in range(2):
            before = _rows_read(innodb)
            failures.run(config.FailureImport.FINAL)
            read.append(_rows_read(innodb) - before)
    assert read[0] > 4 * 500
    assert read[1] < 3 * 500, read  # its buckets, and whether funcs are unknown
    assert resque.failed() == []


def test_what_was_open_or_comes_late_is_found_among_what_is_dealt_with(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    """An import reads what has changed since the last one: in the order of ids that is not always the end."""
    write_config([database], redis_server)
    failed(database, b'{"again":1}', ago=900, row_id=1)  # history: its job has failed again since
    waits = failed(database, b'{"waits":1}', row_id=3)
    held = enqueue(database, MAIL, b'{"waits":1}')
    database.execute("UPDATE job SET grabbed_until = %s", [database.now() + 3600])
    newest = failed(database, b'{"again":1}', ago=600, row_id=5 * BUCKET_ROWS)
    assert run(status=1).counts == {"in_flight": 1, "imported": 1}
    for _ in range(2):  # the first of them sees the mark of what was imported
        assert run(status=1).counts == {"in_flight": 1}
    assert imported(resque) == [newest]

    late = failed(database, b'{"late":1}', ago=800, row_id=2)  # its transaction was open for long
    assert run(status=1).counts == {"in_flight": 1, "imported": 1}
    assert run(status=1).counts == {"in_flight": 1}
    database.execute("DELETE FROM job WHERE id = %s", [held])  # aborted by its worker
    new = failed(database, b'{"new":1}', ago=10, row_id=5 * BUCKET_ROWS + 1)
    assert run().counts == {"imported": 2}
    assert imported(resque) == [newest, late, waits, new]
    assert run().counts == {}
    assert marked(database) == [late, waits, newest, new]


@contextlib.contextmanager
def importing(database: Database, server: RedisServer, loaded: config.Config) -> Iterator[FailuresImport]:
    """The import of one source, as `follow` keeps it."""
    source, target = Source("main", database.url), Target.open(server.url, "resque")
    routing = Routing(source, loaded)
    routing.refresh()
    with contextlib.closing(source), contextlib.closing(target):
        yield FailuresImport(source, target, routing, Tally(), Stop())


def test_a_job_that_an_operator_puts_back_crosses_as_a_job(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    rows = [failed(innodb, b"[%d]" % n, f"key-{n}") for n in range(3)]
    again = retry_by_operator(innodb, rows[1])
    write_config([innodb], redis_server)
    assert run().counts == {"moved": 1, "handed_off": 1, "imported": 2}
    assert resque.ids() == [again]
    assert imported(resque) == [rows[0], rows[2]]


# --- promise 3: each once -------------------------------------------------------------------------------------------


def test_a_row_is_known_by_its_content_even_when_its_mark_is_lost_or_its_id_comes_back(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    rows = [failed(database, b"[%d]" % n) for n in range(110)]
    write_config([database], redis_server)
    assert run().counts == {"imported": 110}
    database.execute("UPDATE exception_log SET retried = 0")
    database.execute("DELETE FROM exception_log WHERE id <= 4")  # as an old InnoDB does at a restart
    failed(database, b"[0]", ago=60, row_id=1)
    failed(database, b"[1]", message=b"other\n", row_id=2)
    failed(database, b"[1002]", row_id=3)
    failed(database, b"[3]", "key", row_id=4)

    assert run().counts == {"imported": 4}

    assert imported(resque) == [*rows, 1, 2, 3, 4]
    assert [failure["payload"]["args"] for failure in resque.failed()[-4:]] == [[[0]], [[1]], [[1002]], [[3]]]
    assert marked(database) == rows


def _many(db: Database, rows: int) -> list[int]:
    """So many failures, quickly: several pushes."""
    number = func_id(db, MAIL)
    with contextlib.closing(db.session()) as session, session.transaction():
        for n in range(rows):
            session.execute(
                "INSERT INTO exception_log (func_id, message, arg, exception_time, retried)"
                f" VALUES ({number}, 'died', {db.arg(b'[%d]' % n)}, {int(time.time()) - AGO}, 0)"
            )
    return list(range(1, rows + 1))


@pytest.mark.parametrize("engine", ["innodb", "myisam"])
def test_a_crash_between_push_and_mark_imports_nothing_twice(
    engine: str,
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    resque: Resque,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
) -> None:
    database: MariaDBDatabase = request.getfixturevalue(engine)
    rows = _many(database, 450)
    write_config([database], redis_server)
    with contextlib.closing(database.server.root(database.name)) as locking:
        locking.execute("LOCK TABLES exception_log READ")
        running = cli.start("run", "--json")
        wait_until(lambda: _waits_to_mark(database), what="the run is about to mark rows")
        running.kill()
    assert imported(resque) == rows
    wait_until(lambda: not _waits_to_mark(database), what="the server has seen that the run is gone")
    # The server may still finish the statement that it had received.
    assert len(marked(database)) <= 1

    assert run().counts == {}

    assert imported(resque) == rows
    assert marked(database) == rows


def _waits_to_mark(database: MariaDBDatabase) -> bool:
    with contextlib.closing(database.server.root()) as session:
        statements = [str(row[7]) for row in session.rows("SHOW FULL PROCESSLIST")]
    return any(statement.startswith("UPDATE exception_log") for statement in statements)


def test_a_run_killed_at_any_time_imports_nothing_twice_and_loses_nothing(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    rows = _many(database, 1000)
    write_config([database], redis_server)
    chance = random.Random(database.engine)
    for stage in range(3):
        running = cli.start("run", "--json", "--quiet")
        wait_until(lambda: len(resque.failed()) >= min(1, stage) or not running.running)  # noqa: B023
        time.sleep(chance.uniform(0, 0.15))  # any moment will do: killed in a push, a fence, a mark, or at the end
        running.kill()
    run()
    assert imported(resque) == rows
    assert marked(database) == rows


def test_runs_side_by_side_import_each_failure_once(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    rows = _many(database, 1000)
    write_config([database], redis_server)
    runs = [cli.start("run", "--json") for _ in range(2)]
    reports = [Report(each.wait()) for each in runs]
    assert [report.errors for report in reports] == [{}, {}]
    assert sum(report.counts.get("imported", 0) for report in reports) == 1000
    assert sorted(imported(resque)) == rows
    assert marked(database) == rows


def test_a_signal_stops_between_two_pushes_and_the_next_run_goes_on(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    rows = _many(innodb, 450)
    with Proxy(redis_server) as proxy:
        write_config([innodb], proxy.url(redis_server.url))
        proxy.hold_request(ENTERS)
        running = cli.start("run", "--json")
        proxy.wait_held()
        running.send(signal.SIGTERM)
        running.wait_for("stopping")
        proxy.release()
        report = Report(running.wait())
    assert report.status == 130
    assert report.counts == {"imported": 200}
    assert (imported(resque), marked(innodb)) == (rows[:200], [])
    write_config([innodb], redis_server)
    assert run().counts == {"imported": 250}
    assert (imported(resque), marked(innodb)) == (rows, rows)


@pytest.mark.parametrize("what", ["lose_request", "lose_reply"])
def test_a_connection_lost_in_a_push_imports_each_failure_once(
    what: str, innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    rows = _many(innodb, 250)
    with Proxy(redis_server) as proxy:
        write_config([innodb], proxy.url(redis_server.url))
        getattr(proxy, what)(ENTERS)
        run("--retry-for", "20")
        assert proxy.hits == 1
    assert (imported(resque), marked(innodb)) == (rows, rows)


# --- the mark waits for proof ---------------------------------------------------------------------------------------


def test_a_redis_without_append_only_file_proves_it_by_a_snapshot(
    innodb: MariaDBDatabase, write_config: WriteConfig, run: Run
) -> None:
    rows = [failed(innodb, b"[%d]" % n) for n in range(10)]
    with RedisServer(appendonly="no") as server:
        write_config([innodb], server)
        assert run().counts == {"imported": 10}
        assert marked(innodb) == rows
        server.restart(graceful=False)
        assert imported(Resque(server.client())) == rows
        assert run().counts == {}


def test_without_any_proof_rows_keep_their_mark_and_are_imported_once_all_the_same(
    innodb: MariaDBDatabase, write_config: WriteConfig, run: Run
) -> None:
    rows = [failed(innodb, b"[%d]" % n) for n in range(10)]
    with RedisServer(appendfsync="no") as server:
        write_config([innodb], server)
        for counts in ({"imported": 10}, {}):
            report = run()
            assert report.counts == counts
            assert _findings(report) == [("not marked as retried", 10)]
            assert marked(innodb) == []
            assert imported(Resque(server.client())) == rows


def _findings(report: Report) -> list[tuple[str, int]]:
    """What the report says of failures: the telling words, and how many they concern."""
    telling = re.compile("not marked as retried|stays? in exception_log")
    found = [(telling.search(each["finding"]), each["jobs"]) for each in report.document["findings"]]
    return [(match[0], jobs) for match, jobs in found if match]


# --- what Resque gets -----------------------------------------------------------------------------------------------


def test_a_failure_looks_as_resque_web_shows_it(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    message = "no such user 鮎 at Mail.pm line 3.\n  Worker::Mail::work at Job.pm line 8\n".encode()
    row = failed(database, b'{"to": "ayu", "0": "0123"}', "鮎", message=message)
    (when,) = database.rows("SELECT exception_time FROM exception_log")[0]
    route: dict[str, Any] = {"func": "*", "class": "My::{func}", "queue": "mail", "max_retry": 3}
    write_config({"shop-1": database}, redis_server, [route])

    run()

    assert resque.failed() == [
        {
            "failed_at": time.strftime("%Y/%m/%d %H:%M:%S UTC", time.gmtime(when)),
            "payload": {
                "class": "My::Worker::Mail",
                "args": [{"to": "ayu", "0": "0123"}],
                "qudo": {"source": "shop-1", "exception_log": row, "uniqkey": "鮎"},
                "max_retry": 3,
                "retry_count": 0,
            },
            "exception": "Qudo::Job",
            "error": "no such user 鮎 at Mail.pm line 3.",
            "backtrace": ["Worker::Mail::work at Job.pm line 8"],
            "worker": "qudo:shop-1",
            "queue": "mail",
        }
    ]


def test_messages_in_any_bytes_can_be_read(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    messages = [b"", b"\xff\xfe at A.pm line 1\nand \xe9", "死んだ".encode("euc_jp"), bytes(range(256)), b"a\0b"]
    for n, message in enumerate(messages):
        failed(database, b"[%d]" % n, message=message)
    write_config([database], redis_server)

    assert run().counts == {"imported": len(messages)}

    shown = ["\n".join([failure["error"], *failure["backtrace"]]) for failure in resque.failed()]
    assert shown[:3] == ["", "\xff\xfe at A.pm line 1\nand \xe9", "死んだ".encode("euc_jp").decode("latin-1")]
    assert re.sub(r"\s", "", shown[3]) == re.sub(r"\s", "", bytes(range(256)).decode("latin-1"))
    assert shown[4] == "a\0b"


def test_a_failure_whose_arg_cannot_be_expressed_stays_and_is_reported(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    good = failed(database, b'{"n":1}')
    bad = [failed(database, arg, func="Batch::Raw") for arg in (b"\xff\xfe", f"\xff{SECRET_ARGUMENT}".encode("latin1"))]
    write_config([database], redis_server, [{"func": "Batch::*", "serializer": "raw"}])

    report = run()

    assert report.counts == {"imported": 1}
    assert _findings(report) == [("stays in exception_log", 2)]
    assert (imported(resque), marked(database)) == ([good], [good])

    write_config([database], redis_server, [{"func": "Batch::*", "serializer": "raw", "bytes": "latin1"}])
    assert run().counts == {"imported": 2}
    assert (imported(resque), marked(database)) == ([good, *bad], [good, *bad])


def test_a_run_that_looks_several_times_reads_the_failures_once(
    innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, run: Run
) -> None:
    failed(innodb, b"\xff\xfe", func="Batch::Raw")
    enqueue(innodb, MAIL, b"{}")
    innodb.execute("UPDATE job SET grabbed_until = %s", [innodb.now() + 3600])
    write_config([innodb], redis_server)
    innodb.execute("SET GLOBAL userstat = 1")
    try:
        read = []
        for wait in ("0", "1.2"):
            innodb.execute("FLUSH TABLE_STATISTICS")
            report = run("--in-flight-wait", wait, status=1)
            assert _findings(report) == [("stays in exception_log", 1)]
            statistics = "information_schema.table_statistics WHERE table_name = 'exception_log'"
            read.append(innodb.value(f"SELECT SUM(rows_read) FROM {statistics} AND table_schema = DATABASE()"))
        assert 0 < read[0] == read[1]
    finally:
        innodb.execute("SET GLOBAL userstat = 0")


@pytest.mark.parametrize("mode", ["final", "all"])
def test_failures_of_a_func_that_nobody_knows_are_reported(
    mode: str, innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, run: Run
) -> None:
    failed(innodb, b"{}")
    for retried in (0, 0, 1):
        failed(innodb, b"{}", func="Worker::Gone", retried=retried)
    innodb.execute("DELETE FROM func WHERE name = 'Worker::Gone'")
    write_config([innodb], redis_server, failures={"import": mode})
    report = run()
    assert report.counts == {"imported": 1}
    assert _findings(report) == [("stay in exception_log", 2)]


def test_large_failures_cross_whole(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    args = [b'["%s"]' % (b"%d" % n * 1_000_000) for n in range(8)]
    rows = [failed(innodb, arg, message=b"x" * 500_000) for arg in args]
    write_config([innodb], redis_server)
    assert run().counts == {"imported": 8}
    assert imported(resque) == rows
    assert [len(failure["payload"]["args"][0][0]) for failure in resque.failed()] == [1_000_000] * 8


def test_a_list_of_failures_that_is_none_is_refused_and_nothing_is_marked(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    failed(innodb, b"{}")
    resque.client.set("resque:failed", "not a list")
    write_config([innodb], redis_server)
    report = run(status=2)
    assert report.counts == {}
    assert "resque:failed is a string" in report.errors["main"]
    assert marked(innodb) == []
    resque.client.delete("resque:failed")
    assert run().counts == {"imported": 1}


# --- --dry-run ------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_a_run_would_import_and_writes_nothing(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    _cases(database)
    failed(database, b"\xff\xfe", func="Batch::Raw")
    write_config([database], redis_server, KEPT)

    with nothing_written(database, resque.client):
        told = run("--dry-run", status=1)
    done = run(status=1)

    assert told.counts == done.counts
    assert told.document["findings"] == done.document["findings"]


def test_a_dry_run_knows_what_the_ledger_knows(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    rows = [failed(innodb, b"[%d]" % n) for n in range(250)]
    write_config([innodb], redis_server)
    run()
    innodb.execute("UPDATE exception_log SET retried = 0")
    failed(innodb, b"[1]", ago=10)
    assert run("--dry-run").counts == {"imported": 1}
    assert imported(resque) == rows

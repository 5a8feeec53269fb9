"""The one-shot migration as a whole: what crosses, what stays, what is counted."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.reports import Report
from tests.integration.snapshots import nothing_left
from tests.qudo_app import (
    ExpectedJob,
    Outcome,
    QudoJob,
    QudoWorker,
    copy_tables,
    enqueue,
    expected_jobs,
    fill,
    job_ids,
    job_rows,
    load_fixture,
)
from tests.qudo_app.fixtures import Which
from tests.resque_app import Resque, ResqueJob, unlike
from tests.schemas import check
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer, SQLiteDatabase, ValkeyServer, wait_until
from tests.servers.command import Cli

#: Raw bytes that aren't UTF-8 need a decision of the operator.
BYTES_AS_LATIN1 = [{"func": "Batch::Raw", "bytes": "latin1"}]


# --- every waiting job, each once -----------------------------------------------------------------------------------


def test_every_waiting_job_reaches_resque_once(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    ids = [enqueue(database, "Worker::Mail", b'{"n": %d}' % n, f"key-{n}" if n % 3 else None, n % 5) for n in range(50)]
    ids += [enqueue(database, "Other::Worker", b"[]") for _ in range(10)]
    write_config([database], redis_server)

    report = run()

    assert report.counts == {"moved": 60, "handed_off": 60}
    assert report.funcs == [
        ("main", "Other::Worker", "other_worker", 10),
        ("main", "Worker::Mail", "worker_mail", 50),
    ]
    assert report.complete
    assert database.count() == 0
    assert resque.ids() == ids
    assert {name: len(jobs) for name, jobs in resque.queues().items()} == {"other_worker": 10, "worker_mail": 50}


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_payload_says_where_the_job_came_from(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    job_id = enqueue(database, "Worker::Mail", b'{"to": "ayu"}', "鮎", priority=7)
    database.execute("UPDATE job SET retry_cnt = 2")
    (row,) = job_rows(database)
    write_config([database], redis_server)

    run()

    (job,) = resque.queue("worker_mail")
    check(job.payload, "payload")
    assert job.class_name == "Worker::Mail"
    assert job.args == [{"to": "ayu"}]
    assert job.qudo == {
        "source": "main",
        "id": job_id,
        "outbox": job.identity,
        "uniqkey": "鮎",
        "priority": 7,
        "retry_cnt": 2,
        "enqueue_time": row.enqueue_time,
    }


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_second_run_finds_nothing_to_do(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    fill(database, 100)
    write_config([database], redis_server)
    run()
    before = [job.text for job in resque.queue("worker_mail")]

    report = run()

    assert report.counts == {}
    assert report.complete
    assert [job.text for job in resque.queue("worker_mail")] == before


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_an_empty_database_is_a_success(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    write_config([database], redis_server)
    assert run().counts == {}
    assert resque.jobs() == []


def test_several_sources_cross_at_once(
    mariadb: MariaDB,
    innodb: MariaDBDatabase,
    myisam: MariaDBDatabase,
    sqlite: SQLiteDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    sources = {"inno": innodb, "my-isam": myisam, "lite.1": sqlite}
    for number, database in enumerate(sources.values(), start=1):
        fill(database, 300 * number, uniqkey="the-same-key-everywhere-{n}")
        database.execute("UPDATE job SET enqueue_time = enqueue_time - 3600")  # else keys make rows move one by one
    write_config(sources, redis_server)

    report = run()

    assert report.counts == {"moved": 1800, "handed_off": 1800}
    for number, (name, database) in enumerate(sources.items(), start=1):
        assert report.counts_of(name) == {"moved": 300 * number, "handed_off": 300 * number}
        assert resque.ids(name) == list(range(1, 300 * number + 1))
        assert database.count() == 0


# --- what the real Qudo wrote ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["a", "b"])
def test_jobs_of_the_real_qudo_arrive_value_for_value(
    which: Which,
    database: Database,
    mariadb: MariaDB,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    original = mariadb.create_database()
    load_fixture(original, which)
    copy_tables(original, database)
    expected = {job.id: job for job in expected_jobs(which)}
    rows = {row.id: row for row in job_rows(database)}
    held = {row.id for row in rows.values() if row.grabbed_until > database.now()}
    write_config([database], redis_server, routes=BYTES_AS_LATIN1, failures={"import": "none"})

    report = run(status=1 if held else 0)

    moved = len(rows) - len(held)
    in_flight = {"in_flight": len(held)} if held else {}
    assert report.counts == {"moved": moved, "handed_off": moved, **in_flight}
    assert job_ids(database) == sorted(held)
    assert resque.ids() == sorted(rows.keys() - held)
    delayed = {job.id: second for second, jobs in resque.delayed().items() for job in jobs}
    assert delayed == {job_id: row.run_after for job_id, row in rows.items() if row.run_after > database.now()}
    compared = [job for job in resque.jobs() if job.id in expected]
    assert len(compared) >= moved - 1  # an operator's retry has an id of its own
    for job in compared:
        _assert_is(job, expected[job.id])


def _assert_is(job: ResqueJob, expected: ExpectedJob) -> None:
    assert (job.class_name, job.queue) == (expected.func, expected.func.lower().replace("::", "_"))
    assert (job.qudo.get("uniqkey"), job.qudo.get("priority", 0)) == (expected.uniqkey, expected.priority)
    assert len(job.args) == 1
    assert unlike(_as_a_worker_sees(expected), job.args[0], storable=expected.serializer == "storable") == []


def _as_a_worker_sees(expected: ExpectedJob) -> object:
    """Raw bytes are text where they are UTF-8, by this test's route Latin-1 elsewhere."""
    if not isinstance(expected.arg, bytes):
        return expected.arg
    try:
        return expected.arg.decode()
    except UnicodeDecodeError:
        return expected.arg.decode("latin-1")


def test_both_dumps_of_the_real_qudo_cross_together_from_their_own_engines(
    mariadb: MariaDB,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    myisam = mariadb.create_database()
    load_fixture(innodb, "a")
    load_fixture(myisam, "b")
    rows = {"a": job_ids(innodb, "grabbed_until <= UNIX_TIMESTAMP()"), "b": job_ids(myisam)}
    write_config(
        {"a": innodb, "b": myisam}, redis_server, [{"func": "Batch::*", "bytes": "base64"}], {"import": "none"}
    )

    report = run(status=1)

    assert report.counts_of("b") == {"moved": 129, "handed_off": 129}
    assert report.counts_of("a") == {"moved": 183, "handed_off": 183, "in_flight": 2}
    assert {name: resque.ids(name) for name in rows} == rows
    for job in resque.jobs():
        check({key: value for key, value in job.payload.items() if key != "queue"}, "payload")


def test_bytes_that_are_no_text_stay_in_qudo_until_the_route_allows_them(
    mariadb: MariaDB, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    database = mariadb.create_database()
    load_fixture(database, "b")
    write_config([database], redis_server)

    report = run(status=1)

    assert report.counts == {"moved": 127, "handed_off": 127, "untranslatable": 2}
    assert set(report.untranslatable) == {("main", 128), ("main", 129)}
    assert "Batch::Raw" in str(report.document["untranslatable_jobs"])
    assert job_ids(database) == [128, 129]

    write_config([database], redis_server, routes=BYTES_AS_LATIN1)
    assert run().counts == {"moved": 2, "handed_off": 2}
    assert resque.ids() == list(range(1, 130))


# --- rows that Qudo's workers hold ----------------------------------------------------------------------------------


def _lease_over_for(database: Database, seconds: int, func: str = "Worker::Mail") -> int:
    """A job whose worker died so long ago that its lease is over for `seconds`; negative: it still holds."""
    job_id = enqueue(database, func, b"{}")
    database.execute("UPDATE job SET grabbed_until = %s WHERE id = %s", [database.now() - seconds, job_id])
    return job_id


def test_rows_that_workers_hold_are_left_alone(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    free = enqueue(database, "Worker::Mail", b"{}")
    held = [_lease_over_for(database, -3600), _lease_over_for(database, -1_000)]
    rows = job_rows(database, "grabbed_until > 0")
    write_config([database], redis_server)

    report = run(status=1)

    assert report.counts == {"moved": 1, "handed_off": 1, "in_flight": 2}
    assert not report.complete
    assert job_rows(database) == rows
    assert (job_ids(database), resque.ids()) == (held, [free])


def test_a_lease_must_be_over_for_its_grace_before_the_row_is_taken(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    fresh = _lease_over_for(database, 30)
    stale = _lease_over_for(database, 90)
    patient = _lease_over_for(database, 90, "Patient::Worker")
    hasty = _lease_over_for(database, 5, "Hasty::Worker")
    routes = [{"func": "Hasty::*", "lease_grace": 0}, {"func": "Patient::*", "lease_grace": 1000}]
    write_config([database], redis_server, routes)

    report = run(status=1)

    assert report.counts == {"moved": 2, "handed_off": 2, "in_flight": 2}
    assert job_ids(database) == [fresh, patient]
    assert resque.ids() == [stale, hasty]


class HeldJob:
    """A worker that holds one job until it is told how the job ends."""

    def __init__(self, database: Database, max_retries: int = 0) -> None:
        self._may_end = threading.Event()
        self._outcome = Outcome.COMPLETED
        self.worker = QudoWorker([database], ["Worker::Mail"], self._work, max_retries=max_retries, retry_delay=3600)

    def ends(self, outcome: Outcome) -> None:
        """Let it end so. The worker then takes no other."""
        self._outcome = outcome
        self._may_end.set()

    def _work(self, _job: QudoJob) -> Outcome:
        assert self._may_end.wait(60)
        return self._outcome


@pytest.fixture
def held_job(database: Database) -> Iterator[HeldJob]:
    """A job in the hands of a Qudo worker."""
    enqueue(database, "Worker::Mail", b"{}", "key")
    held = HeldJob(database, max_retries=1)
    with held.worker:
        held.worker.wait_ran(1)
        yield held
        held.ends(Outcome.COMPLETED)


@pytest.mark.parametrize(
    ("database", "outcome"),
    [
        ("innodb", Outcome.COMPLETED),
        ("innodb", Outcome.ABORTED),
        ("innodb", Outcome.FAILED),
        ("myisam", Outcome.FAILED),
        ("sqlite", Outcome.FAILED),
    ],
    indirect=["database"],
)
def test_in_flight_wait_waits_for_a_worker_to_end_its_job(
    outcome: Outcome,
    database: Database,
    held_job: HeldJob,
    redis_server: RedisServer,
    resque: Resque,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    write_config([database], redis_server)
    running = cli.start("run", "--json", "--in-flight-wait", "60")
    running.wait_for("in flight")
    held_job.ends(outcome)

    result = running.wait()

    assert result.status == 0, result.stderr
    totals = result.json()["totals"]
    failed = outcome is Outcome.FAILED
    assert (totals["moved"], totals["handed_off"], totals["in_flight"]) == (failed, failed, 0)
    assert [job.qudo["retry_cnt"] for job in resque.jobs()] == [1] * failed
    assert database.count() == 0


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_in_flight_wait_gives_up_in_time(
    database: Database, redis_server: RedisServer, write_config: WriteConfig, run: Run
) -> None:
    _lease_over_for(database, -3600)
    write_config([database], redis_server)
    begun = time.monotonic()
    assert run("--in-flight-wait", "1.5", status=1).counts == {"in_flight": 1}
    assert 1.5 <= time.monotonic() - begun < 15


# --- beside a shop that goes on -------------------------------------------------------------------------------------


def test_no_job_runs_on_both_sides_while_qudo_workers_go_on(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    fill(database, 3000, priorities=3)
    write_config([database], redis_server)

    def work(_job: QudoJob) -> Outcome:
        time.sleep(0.005)  # on SQLite, workers that never pause keep everybody else from writing
        return Outcome.COMPLETED

    with (
        QudoWorker([database], ["Worker::Mail"], work=work) as first,
        QudoWorker([database], ["Worker::Mail"], work=work) as second,
    ):
        wait_until(lambda: len(first.ran) + len(second.ran) >= 20, what="Qudo's workers are at work")
        report = run("--in-flight-wait", "30", "--batch-size", "200")
        ran = first.ran_ids + second.ran_ids
    assert database.count() == 0
    assert resque.ids() == sorted(set(range(1, 3001)) - set(ran))
    assert len(ran) == len(set(ran))
    assert report.counts == {"moved": 3000 - len(ran), "handed_off": 3000 - len(ran)}


@pytest.mark.parametrize("database", ["innodb", "myisam"], indirect=True)
def test_jobs_that_apps_enqueue_meanwhile_are_lost_by_nobody(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, run: Run
) -> None:
    fill(database, 2000)
    write_config([database], redis_server)
    running = cli.start("run", "--json", "--batch-size", "100")
    running.wait_until(resque.length, what="jobs cross")
    with contextlib.closing(database.session()) as app:
        later = [enqueue(app, "Worker::Later", b"{}", f"key-{n}" if n % 2 else None) for n in range(100)]
    first = Report(running.wait())

    second = run()

    assert first.status == 0
    assert first.counts["moved"] + second.counts.get("moved", 0) == 2100
    assert database.count() == 0
    assert resque.ids() == sorted([*range(1, 2001), *later])


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_func_takes_those_that_match_and_keeps_the_others(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    for func in ("Worker::Mail", "Worker::Image", "Batch::Mail"):
        fill(database, 3, func)
    write_config([database], redis_server)

    assert run("--func", "Worker::*").counts == {"moved": 6, "handed_off": 6, "kept": 3}
    assert set(resque.queues()) == {"worker_mail", "worker_image"}
    assert run("--func", "Batch::Mail").counts == {"moved": 3, "handed_off": 3}


def test_source_takes_one_and_does_not_touch_the_others(
    mariadb: MariaDB, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run, cli: Cli
) -> None:
    one, other = mariadb.create_database(), mariadb.create_database()
    fill(one, 3)
    fill(other, 4)
    write_config({"one": one, "other": other}, redis_server)

    with nothing_left(other):
        report = run("--source", "one")

    assert [source["name"] for source in report.document["sources"]] == ["one"]
    assert resque.ids("one") == [1, 2, 3]
    assert resque.ids("other") == []
    assert run("--source", "other", "--source", "one").counts == {"moved": 4, "handed_off": 4}
    result = cli("run", "--source", "owner")
    assert result.status == 2
    assert "--source owner: no such source; known: one, other" in result.stderr


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_limit_moves_so_many_of_each_source_and_says_that_others_are_kept(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    fill(database, 10, priorities=2)
    write_config([database], redis_server)

    report = run("--limit", "4")
    assert report.counts == {"moved": 4, "handed_off": 4, "kept": 6}
    assert [job.id for job in resque.queue("worker_mail")] == [1, 3, 5, 7]
    assert run("--limit", "0").counts == {"kept": 6}
    assert run("--limit", "100").counts == {"moved": 6, "handed_off": 6}


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_batch_size_is_what_a_move_carries_at_most(
    database: Database, redis_server: RedisServer, write_config: WriteConfig, run: Run
) -> None:
    with RedisServer(appendonly="no") as forgetful:  # no proof of durability: the records of moves stay
        fill(database, 25)
        write_config([database], forgetful)
        run("--batch-size", "10")
    assert sorted(jobs for (jobs,) in database.rows("SELECT jobs FROM qudo_migrate_chunk")) == [5, 10, 10]


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_moves_that_overlap_never_meet(database: Database, write_config: WriteConfig, run: Run) -> None:
    """Two chunks with one decision that isn't stored yet would wait for each other: any fault begins another batch."""
    with RedisServer(appendonly="no") as forgetful:  # no proof of durability: the records of moves stay
        for number in range(10):
            fill(database, 200, f"Worker::{number % 7}")
        write_config([database], forgetful)
        assert run("--batch-size", "100").counts == {"moved": 2000, "handed_off": 2000}
    (row,) = database.rows("SELECT COUNT(*), COUNT(DISTINCT batch), MIN(jobs), MAX(jobs) FROM qudo_migrate_chunk")
    assert row == (20, 1, 100, 100)
    order = "SELECT first_seq FROM qudo_migrate_chunk ORDER BY moved_at_us"
    assert [seq for (seq,) in database.rows(order)] == list(range(0, 2000, 100))


# --- the durable fence ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "records"),
    [
        pytest.param(RedisServer, {"appendfsync": "everysec"}, 0, id="redis-everysec"),
        pytest.param(ValkeyServer, {"appendfsync": "everysec"}, 0, id="valkey-waitaof"),
        pytest.param(RedisServer, {"appendfsync": "no"}, 1, id="redis-unsynced"),
        pytest.param(RedisServer, {"appendonly": "no"}, 1, id="redis-without-aof"),
    ],
)
def test_records_of_moves_go_once_all_is_known_to_be_durable(
    kind: type[RedisServer],
    options: dict[str, str],
    records: int,
    innodb: MariaDBDatabase,
    write_config: WriteConfig,
    run: Run,
) -> None:
    with kind(**options) as server:
        fill(innodb, 10)
        write_config([innodb], server)
        assert run().counts == {"moved": 10, "handed_off": 10}
        assert innodb.count("qudo_migrate_chunk") == records
        assert run().counts == {}
        assert Resque(server.client()).ids() == list(range(1, 11))

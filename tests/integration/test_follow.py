"""`qudo-migrate follow`: what unchanged apps enqueue in Qudo is in Resque at once, and whatever falls free is found."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.failpoints import VARIABLE
from tests.conftest import WriteConfig
from tests.integration.following import Following
from tests.qudo_app import Outcome, QudoWorker, enqueue, fill, func_id, log_exception
from tests.resque_app import Resque, ResqueWorker
from tests.servers import Database, MariaDBDatabase, RedisServer, SQLiteDatabase, wait_until
from tests.servers.command import Cli

MAIL = "Worker::Mail"
#: Seconds that a test waits for what takes some hundredths of one.
SOON = 60.0


def arrive(resque: Resque, ids: list[int], what: str = "", source: str = "main") -> None:
    """Until these jobs, and no others, are in Resque."""
    wait_until(lambda: resque.ids(source) == sorted(ids), SOON, f"in Resque are {ids} {what}")


# --- what is new ----------------------------------------------------------------------------------------------------


def test_what_an_app_enqueues_is_in_resque_at_once(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    """The promise (a median of 100 ms) is measured by scripts/bench; here the machine may be busy with anything."""
    write_config([database], redis_server)
    fill(database, 20, priorities=2)
    follow = Following(cli, metrics=True)
    wait_until(lambda: resque.length() == 20, SOON, "what was there crosses")
    seconds = []
    for number in range(10):
        began = time.monotonic()
        enqueue(database, f"Worker::New{number}", json.dumps({"n": number}).encode(), priority=number % 3)
        wait_until(lambda: resque.length() == 21 + number, SOON, "a new job crosses")  # noqa: B023
        seconds.append(time.monotonic() - began)
    print(f"median {statistics.median(seconds) * 1000:.0f} ms")

    metrics = follow.metrics()
    assert metrics['qudo_migrate_jobs_moved_total{source="main",func="Worker::Mail",queue="worker_mail"}'] == 20
    assert metrics['qudo_migrate_jobs_handed_off_total{source="main"}'] == 30
    assert metrics['qudo_migrate_batch_seconds_count{source="main"}'] >= 11
    assert metrics['qudo_migrate_outbox_backlog_jobs{source="main"}'] == 0
    assert metrics['qudo_migrate_up{source="main"}'] == 1
    result = follow.end()
    assert (result["ended_by"], result["moved"], result["handed_off"]) == ("signal", 30, 30)
    assert len(resque.jobs()) == 30
    assert database.count("job") == 0


def test_at_rest_it_asks_at_most_30_statements_a_second(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([innodb], redis_server, [{"func": "Worker::Kept", "move": False}])
    fill(innodb, 50, priorities=5)
    fill(innodb, 20, "Worker::Kept", priorities=5)
    follow = Following(cli, metrics=True)
    arrive(resque, list(range(1, 51)))

    def asked() -> int:
        return int(
            innodb.value(
                "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'QUESTIONS'"
            )
        )

    before, began = asked(), time.monotonic()
    looks = follow.metrics()['qudo_migrate_last_look_seconds{source="main"}']
    wait_until(lambda: time.monotonic() - began > 5, 10, "five seconds")
    rate = (asked() - before) / (time.monotonic() - began)
    print(f"{rate:.1f} statements a second")
    assert looks < 2
    assert rate <= 30
    follow.end()


def test_many_at_once_come_in_qudos_order(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([database], redis_server)
    follow = Following(cli)
    with contextlib.closing(database.session()) as session:
        func_number = func_id(session, MAIL)
        rows = ",".join(f"({func_number}, '{{}}', {number % 3}, 1, 0, 0)" for number in range(300))
        session.execute(
            f"INSERT INTO job (func_id, arg, priority, enqueue_time, grabbed_until, run_after) VALUES {rows}"
        )
    wait_until(lambda: len(resque.queue("worker_mail")) == 300, SOON, "all cross")
    order = [(-int(job.qudo.get("priority", 0)), job.id) for job in resque.queue("worker_mail")]
    assert order == sorted(order)
    assert follow.end()["moved"] == 300


# --- what falls free ------------------------------------------------------------------------------------------------


def test_leases_that_end_retries_and_due_jobs_are_found(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config(
        [database],
        redis_server,
        [{"func": "Worker::Later", "delayed": "hold"}, {"func": "*", "lease_grace": 1}],
    )
    expires, retried, held = (enqueue(database, func, b"{}") for func in ("Worker::A", "Worker::B", "Worker::C"))
    now = database.now()
    database.execute(f"UPDATE job SET grabbed_until = {now + 3} WHERE id = {expires}")
    database.execute(f"UPDATE job SET grabbed_until = {now + 3600} WHERE id IN ({retried}, {held})")
    due = enqueue(database, "Worker::Later", b"{}", run_after=5)
    follow = Following(cli, metrics=True)
    new = enqueue(database, MAIL, b"{}")
    arrive(resque, [new], "for the others aren't free")
    wait_until(
        lambda: follow.metrics()['qudo_migrate_remaining_jobs{source="main",state="held"}'] == 1, SOON, "it remembers"
    )
    # As Qudo does after a failure: the row changes in place.
    database.execute(f"UPDATE job SET grabbed_until = 0, retry_cnt = 1, run_after = {now} WHERE id = {retried}")

    def are_where_they_belong() -> bool:
        ids, second = resque.ids(), database.now()
        assert expires not in ids or second >= now + 4
        assert due not in ids or second >= now + 5
        return ids == sorted([expires, retried, new, due])

    wait_until(are_where_they_belong, SOON, "all but the one that a worker holds")
    metrics = follow.metrics()
    assert metrics['qudo_migrate_remaining_jobs{source="main",state="in_flight"}'] == 1
    assert follow.end()["sources"][0]["in_flight"] == 1


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_transaction_that_commits_late_is_found(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([database], redis_server)
    func_id(database, MAIL)
    follow = Following(cli)
    with contextlib.closing(database.session()) as session:
        session.execute("BEGIN")
        late = enqueue(session, MAIL, b"{}")  # the lowest id of all
        others = [enqueue(database, MAIL, b"{}") for _ in range(5)]
        arrive(resque, others, "while the transaction is open")
        others.append(enqueue(database, MAIL, b"{}"))
        arrive(resque, others)
        begun = time.monotonic()
        wait_until(lambda: time.monotonic() - begun > 2.5, 10, "ids up to the last one are old")
        session.execute("COMMIT")
    arrive(resque, [late, *others])
    follow.end()


@pytest.mark.parametrize("database", ["innodb", "sqlite"], indirect=True)
def test_ids_that_begin_again_are_found(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([database], redis_server)
    fill(database, 30)
    follow = Following(cli)
    wait_until(lambda: resque.length() == 30, SOON, "all cross")
    if database.engine == "SQLite":
        database.execute("DELETE FROM sqlite_sequence WHERE name = 'job'")
    else:
        database.execute("ALTER TABLE job AUTO_INCREMENT = 1")
    for number in range(3):
        assert enqueue(database, MAIL, b"{}") < 30
        wait_until(lambda: resque.length() == 31 + number, SOON, "a low id crosses")  # noqa: B023
    assert follow.end()["moved"] == 33


def test_outbox_rows_that_another_migrator_commits_late_are_delivered(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([innodb], redis_server)
    enqueue(innodb, MAIL, b"{}")
    cli.env[VARIABLE] = "move.deleted=stop,move.committed=kill"
    other = cli.start("run", "--json")
    cli.env.pop(VARIABLE)
    stat = Path(f"/proc/{other.pid}/stat")
    other.wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] in ("T", "t"), 30, "it sleeps")
    follow = Following(cli)
    new = enqueue(innodb, "Worker::Other", b"{}")
    arrive(resque, [new], "while the other's move is open, which holds a lock")
    other.send(signal.SIGCONT)
    assert other.wait().status == -signal.SIGKILL
    arrive(resque, [1, new])
    assert follow.end()["handed_off"] == 2


def test_a_job_waits_for_its_uniqkey_and_moves_when_the_first_is_over(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([innodb], redis_server)
    first = enqueue(innodb, MAIL, b"[1]", "key")
    follow = Following(cli, metrics=True)
    arrive(resque, [first])
    second = enqueue(innodb, MAIL, b"[2]", "key")
    other = enqueue(innodb, MAIL, b"[3]", "another key")
    wait_until(lambda: follow.metrics()['qudo_migrate_waiting_jobs{source="main"}'] == 1, SOON, "it waits")
    arrive(resque, [first, other])
    worker = ResqueWorker(resque)
    assert worker.take("worker_mail").id == first
    worker.finish()
    arrive(resque, [other, second])
    assert follow.metrics()['qudo_migrate_waiting_jobs{source="main"}'] == 0
    follow.end()


# --- what stays -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_translated_is_said_once_and_tried_again_after_a_reload(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([innodb], redis_server, [{"func": "*", "serializer": "json"}])
    bad = enqueue(innodb, MAIL, b"no JSON")
    follow = Following(cli, "--log-format", "json", metrics=True)
    more = enqueue(innodb, MAIL, b"no JSON either")
    state = 'qudo_migrate_remaining_jobs{source="main",state="untranslatable"}'
    wait_until(lambda: follow.metrics()[state] == 2, SOON, "both are known")
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 2.5, 10, "a sweep has met them once more")
    lines = [json.loads(line) for line in follow.command.stderr.splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    said = [line for line in lines if "stays in Qudo" in line["message"]]
    assert [(line["source"], line["level"], line["message"].split()[0]) for line in said] == [
        ("main", "warning", f"main:{bad}"),
        ("main", "warning", f"main:{more}"),
    ]

    path = cli.folder / "qudo-migrate.toml"
    right = path.read_text().replace('"json"', '"raw"')
    path.write_text("[nonsense]\n")
    follow.command.send(signal.SIGHUP)
    follow.command.wait_for("the old configuration stays")
    assert resque.ids() == []
    path.write_text(right)
    follow.command.send(signal.SIGHUP)
    arrive(resque, [bad, more])
    result = follow.end()
    assert result["moved"] == 2
    assert len(result["untranslatable_jobs"]) == 2


def test_paused_funcs_stay_until_they_are_resumed(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([innodb], redis_server)
    follow = Following(cli)
    assert cli("pause", "--func", MAIL).status == 0
    stays = [enqueue(innodb, MAIL, b"{}") for _ in range(3)]
    goes = [enqueue(innodb, "Worker::Other", b"{}")]
    arrive(resque, goes)
    goes.append(enqueue(innodb, "Worker::Other", b"{}"))
    arrive(resque, goes)
    assert cli("resume", "--func", MAIL).status == 0
    arrive(resque, stays + goes)
    follow.end()


def test_a_full_queue_is_fed_as_fast_as_workers_drain_it(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([innodb], redis_server)
    fill(innodb, 60, priorities=1)
    follow = Following(cli, "--max-queue-length", "20", metrics=True)
    follow.command.wait_for("queue worker_mail holds")
    urgent = enqueue(innodb, MAIL, b"{}", priority=9)
    taken: list[int] = []

    def drain() -> bool:
        assert resque.length() <= 20
        text = resque.client.lpop("resque:queue:worker_mail")
        if isinstance(text, bytes):
            taken.append(json.loads(text)["qudo"]["id"])
        return len(taken) == 61

    assert follow.metrics()['qudo_migrate_lag_seconds{source="main"}'] > 0
    wait_until(drain, 60, "all come")
    assert taken.index(urgent) < 60, "an urgent job overtakes what is held back"
    assert sorted(taken) == [*range(1, 61), urgent]
    follow.end()


def test_failures_are_imported_at_the_start(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([innodb], redis_server)
    log_exception(innodb, func_id(innodb, MAIL), "died", b"{}", None)
    with QudoWorker([innodb], [MAIL], work=lambda _job: Outcome.COMPLETED):
        follow = Following(cli)
        wait_until(lambda: len(resque.failed()) == 1, SOON, "the failure is imported")
    wait_until(lambda: innodb.count("exception_log", "retried = 1") == 1, SOON, "Qudo knows it")
    assert follow.end()["imported"] == 1


# --- how it ends ----------------------------------------------------------------------------------------------------


def test_it_ends_when_there_was_nothing_to_do_for_long_enough(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([database], redis_server)
    fill(database, 20)
    keyed = enqueue(database, MAIL, b"[1]", "key")
    held = enqueue(database, "Worker::Held", b"[2]")
    database.execute(f"UPDATE job SET grabbed_until = {database.now() + 1000} WHERE id = {held}")
    result = Following(cli, "--until-idle", "0.5").wait()
    assert (result["ended_by"], result["moved"]) == ("idle", 21)
    assert [source["in_flight"] for source in result["sources"]] == [1]
    assert resque.ids() == [*range(1, 21), keyed]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_after_the_batch_in_hand(
    number: signal.Signals,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    write_config([innodb], redis_server)
    fill(innodb, 3000)
    follow = Following(cli, "--batch-size", "50", "--rate", "500/s")
    wait_until(lambda: resque.length() > 100, SOON, "some cross")
    result = follow.end(number)
    assert 100 < result["moved"] == result["handed_off"] == resque.length() < 3000
    assert innodb.count("job") == 3000 - result["moved"]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (("main", "pa55", "wrong"), 3, "source main"),
        (("redis://127.0.0.1:", "redis://127.0.0.1:1", ""), 3, "can't be reached"),
        (("dialect", "dialekt", ""), 2, "dialekt"),
    ],
)
def test_what_cannot_work_ends_at_once(
    change: tuple[str, str, str],
    status: int,
    words: str,
    sqlite: SQLiteDatabase,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    path = write_config([innodb], redis_server)
    text = path.read_text()
    if status == 2:
        text = text.replace("[target]", '[target]\ndialekt = "perl"')
    elif change[0] == "main":
        text = text.replace("user_", "nobody_")
    else:
        text = text.replace(redis_server.url, "redis://127.0.0.1:1/0")
    path.write_text(text)
    result = cli("follow", timeout=30)
    assert result.status == status
    assert words in result.stderr + result.stdout


# --- whoever supervises it ------------------------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path, cli: Cli) -> Iterator[socket.socket]:
    """What systemd would hear."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(20)
        cli.env |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        yield server


def hear(manager: socket.socket, what: bytes) -> None:
    """Until this was said."""
    while not manager.recv(4096).startswith(what):
        pass


def test_systemd_is_told_how_it_is_doing(
    manager: socket.socket,
    sqlite: SQLiteDatabase,
    redis_server: RedisServer,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    write_config([sqlite], redis_server)
    follow = Following(cli)
    hear(manager, b"READY=1")
    hear(manager, b"STATUS=main: 0 jobs handed off")
    hear(manager, b"WATCHDOG=1")
    hear(manager, b"WATCHDOG=1")
    follow.command.send(signal.SIGHUP)
    hear(manager, b"RELOADING=1\nMONOTONIC_USEC=")
    hear(manager, b"READY=1")
    follow.command.send(signal.SIGTERM)
    hear(manager, b"STOPPING=1")
    follow.wait()

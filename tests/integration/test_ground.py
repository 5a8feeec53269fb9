"""The test ground itself: servers start, hold their data and leave nothing; Qudo's app behaves as Qudo's does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pymysql
import pytest
from redis import Redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.conftest import WriteConfig
from tests.qudo_app import (
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
    log_exception,
    retry_by_operator,
)
from tests.qudo_app.fixtures import Which
from tests.qudo_app.worker_process import WorkerProcess
from tests.servers import (
    Database,
    MariaDB,
    MariaDBDatabase,
    Proxy,
    RedisServer,
    SQLiteDatabase,
    ValkeyServer,
    wait_until,
)
from tests.servers.command import Cli
from tests.servers.mariadb import session_at
from tests.servers.proxy import MYSQL_COMMIT

TABLES = ("func", "job", "exception_log", "job_status")


# --- what an app puts into Qudo -------------------------------------------------------------------------------------


def test_enqueue_stores_what_qudo_stores(database: Database) -> None:
    key = "鮎の魚拓".encode()
    before = int(time.time())

    job_id = enqueue(database, "Worker::Mail", bytes(range(256)), uniqkey=key, priority=5, run_after=60)

    (row,) = job_rows(database)
    assert (row.id, row.func, row.arg, row.uniqkey) == (job_id, "Worker::Mail", bytes(range(256)), key)
    assert before <= row.enqueue_time <= time.time()
    assert row.run_after == row.enqueue_time + 60
    assert (row.priority, row.grabbed_until, row.retry_cnt) == (5, 0, 0)


def test_enqueue_refuses_a_uniqkey_that_waits(database: Database) -> None:
    enqueue(database, "Worker::Mail", None, uniqkey="welcome-1")
    enqueue(database, "Worker::Other", None, uniqkey="welcome-1")
    with pytest.raises(Exception, match=r"Duplicate|UNIQUE"):
        enqueue(database, "Worker::Mail", None, uniqkey="welcome-1")
    enqueue(database, "Worker::Mail", None)
    enqueue(database, "Worker::Mail", None)
    assert database.count() == 4


def test_fill_makes_many_jobs(database: Database) -> None:
    fill(database, 1234, arg='{"n":{n}}', uniqkey="key-{n}", priorities=3)
    rows = job_rows(database)
    assert [row.arg for row in rows] == [b'{"n":%d}' % n for n in range(1, 1235)]
    assert rows[-1].uniqkey == b"key-1234"
    assert {row.priority for row in rows} == {0, 1, 2}


def test_sqlite_holds_arguments_as_text_as_perl_leaves_them(sqlite: SQLiteDatabase) -> None:
    enqueue(sqlite, "Worker::Mail", b"\xff\x00binary")
    assert sqlite.value("SELECT typeof(arg) FROM job") == "text"
    assert job_rows(sqlite)[0].arg == b"\xff\x00binary"


# --- the dumps of the real Qudo -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "counts"), [("a", (6, 185, 26, 16)), ("b", (3, 129, 0, 0))])
def test_dumps_load_with_their_times_moved_to_now(innodb: MariaDBDatabase, which: Which, counts: tuple[int]) -> None:
    load_fixture(innodb, which)

    assert tuple(innodb.count(table) for table in TABLES) == counts
    assert abs(innodb.value("SELECT MAX(enqueue_time) FROM job") - innodb.now()) <= 2
    assert innodb.count("job", "grabbed_until = 0") > 100
    engine = innodb.value(
        "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'job'"
    )
    assert innodb.transactional == (engine == "InnoDB")


def test_dumps_hold_the_bytes_of_the_expected_jobs(innodb: MariaDBDatabase) -> None:
    load_fixture(innodb, "b")
    raw = {job.id: job for job in expected_jobs("b") if job.serializer == "raw"}
    rows = {row.id: row for row in job_rows(innodb)}

    assert raw
    for job_id, job in raw.items():
        assert rows[job_id].arg == job.arg
        assert rows[job_id].func == job.func
        assert rows[job_id].uniqkey == (None if job.uniqkey is None else job.uniqkey.encode())


def test_rows_can_be_copied_to_another_kind_of_database(innodb: MariaDBDatabase, database: Database) -> None:
    source = innodb.server.create_database()
    load_fixture(source, "b")
    copy_tables(source, database)
    assert job_rows(database) == job_rows(source)


# --- Qudo's workers -------------------------------------------------------------------------------------------------


def test_worker_runs_each_job_once_by_priority(database: Database) -> None:
    fill(database, 20, priorities=2)
    enqueue(database, "Worker::Mail", b"later", run_after=100)
    worker = QudoWorker([database], ["Worker::Mail"])
    with contextlib.closing(worker):
        while worker.work_once():
            pass

    assert len(set(worker.ran_ids)) == len(worker.ran) == 20
    assert [job.priority for job in worker.ran] == [1] * 10 + [0] * 10
    assert [row.arg for row in job_rows(database)] == [b"later"]


def test_two_workers_never_hold_the_same_job(database: Database) -> None:
    enqueue(database, "Worker::Mail", b"x")
    first, second = (QudoWorker([database], ["Worker::Mail"]) for _ in range(2))
    with contextlib.closing(first), contextlib.closing(second):
        (found_by_first,), (found_by_second,) = first.find(0), second.find(0)
        assert first.grab(found_by_first)
        assert not second.grab(found_by_second)
        assert second.find_and_grab() is None
    assert job_rows(database)[0].grabbed_until == pytest.approx(time.time() + 3600, abs=5)


def test_failures_are_retried_logged_and_given_up(database: Database) -> None:
    enqueue(database, "Worker::Flaky", b"\xe9", uniqkey="k")

    def fail(_job: QudoJob) -> Outcome:
        return Outcome.FAILED

    worker = QudoWorker([database], ["Worker::Flaky"], fail, max_retries=1, set_job_status=True)
    with contextlib.closing(worker):
        assert worker.work_once()
        (row,) = job_rows(database)
        assert (row.retry_cnt, row.grabbed_until) == (1, 0)
        assert worker.work_once()

    assert database.count() == 0
    assert database.count("exception_log", "retried = 0") == 2
    assert [row[0] for row in database.rows("SELECT status FROM job_status")] == ["failed", "failed"]


def test_an_aborted_job_is_logged_and_an_operator_may_retry_it(database: Database) -> None:
    enqueue(database, "Worker::Mail", b"\xe9", uniqkey="k")
    with contextlib.closing(QudoWorker([database], ["Worker::Mail"], lambda _job: Outcome.ABORTED)) as worker:
        worker.work_once()
    assert database.count() == 0

    exception_id = database.value("SELECT id FROM exception_log")
    retry_by_operator(database, exception_id)

    assert [(row.arg, row.uniqkey) for row in job_rows(database)] == [(b"\xe9", b"k")]
    assert database.value("SELECT retried FROM exception_log") == 1
    assert log_exception(database, 1, "once more", None, None) > exception_id


def test_retry_hits_the_wrong_database_half_of_the_time(mariadb: MariaDB) -> None:
    databases = [mariadb.create_database() for _ in range(2)]
    for database in databases:
        enqueue(database, "Worker::Flaky", b"x")
    worker = QudoWorker(databases, ["Worker::Flaky"], max_retries=1, seed=1)
    with contextlib.closing(worker):
        job = worker.find_and_grab()
        assert job is not None
        for _ in range(40):
            worker.reenqueue(job)
    assert [job_rows(database)[0].retry_cnt for database in databases] == [1, 1]


def test_a_thread_of_workers_runs_beside_enqueues(database: Database) -> None:
    with QudoWorker([database], ["Worker::Mail"]) as worker:
        ids = [enqueue(database, "Worker::Mail", b"x") for _ in range(20)]
        worker.wait_ran(20)
    assert sorted(worker.ran_ids) == ids
    assert database.count() == 0


def test_a_killed_worker_process_leaves_its_lease(database: Database, tmp_path: Path) -> None:
    job_id = enqueue(database, "Worker::Mail", b"\x00x")
    with WorkerProcess([database], ["Worker::Mail"], tmp_path / "ran", work_seconds=60) as worker:
        worker.wait_ran(1)
        worker.kill()
        assert [(job.id, job.arg) for job in worker.ran] == [(job_id, b"\x00x")]
    assert job_rows(database)[0].grabbed_until > time.time() + 3000


# --- servers --------------------------------------------------------------------------------------------------------


def test_innodb_keeps_its_rows_over_kill_and_restart() -> None:
    with MariaDB() as server:
        database = server.create_database()
        enqueue(database, "Worker::Mail", b"before")
        server.restart(graceful=False)
        assert not server.log_tail(1000).count("Address already in use")
        enqueue(database, "Worker::Mail", b"between")
        server.restart()
        assert [row.arg for row in job_rows(database)] == [b"before", b"between"]


def test_mariadb_takes_options_and_accounts() -> None:
    with MariaDB(log_bin=True, binlog_format="STATEMENT", innodb_flush_log_at_trx_commit=2) as server:
        database = server.create_database()
        names = "@@log_bin, @@binlog_format, @@innodb_flush_log_at_trx_commit"
        assert database.rows(f"SELECT {names}") == [(1, "STATEMENT", 2)]
        reader = server.create_account("p@ss", [f"SELECT ON {database.name}.*"])
        url = database.url_for(reader)
        assert "p%40ss" in url
        with (
            contextlib.closing(session_at(url, "utf8mb4")) as session,
            pytest.raises(pymysql.MySQLError, match="denied"),
        ):
            session.execute("DELETE FROM job")


def test_a_frozen_server_answers_once_it_thaws(innodb: MariaDBDatabase) -> None:
    server = innodb.server
    server.freeze()
    try:
        with pytest.raises(pymysql.MySQLError):
            pymysql.connect(host="127.0.0.1", port=server.port, user="x", connect_timeout=1, read_timeout=1)
    finally:
        server.thaw()
    assert innodb.count() == 0


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_redis_keeps_its_append_only_file(kind: type[RedisServer]) -> None:
    with kind(appendfsync="always", requirepass="s3cret /") as server:
        client = server.client()
        client.set("key", b"\xff")
        server.restart(graceful=False)
        assert client.get("key") == b"\xff"
        server.restart()
        assert Redis.from_url(server.url).get("key") == b"\xff"


def test_redis_without_persistence_forgets() -> None:
    with RedisServer(appendonly="no") as server:
        server.client().set("key", "value")
        server.restart(graceful=False)
        assert server.client().get("key") is None


def test_redis_replicates_and_is_bounded() -> None:
    with (
        RedisServer(maxmemory="3mb", maxmemory_policy="noeviction") as master,
        RedisServer(replicaof=f"127.0.0.1 {master.port}") as replica,
    ):
        master.client().set("key", "value")
        wait_until(lambda: replica.client().get("key") == b"value", 10, "the replica has the key")
        assert master.client().config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with pytest.raises(redis_errors.OutOfMemoryError):
            _fill_up(master.client())


def _fill_up(client: Redis) -> None:
    for number in range(100):
        client.set(f"key {number}", b"x" * 100_000)


def test_valkey_knows_waitaof() -> None:
    with ValkeyServer() as server:
        server.client().set("key", "value")
        assert server.client().execute_command("WAITAOF", 1, 0, 1000)[0] == 1


def test_the_redis_fixture_is_empty(redis: Redis, redis_server: RedisServer) -> None:
    assert redis.dbsize() == 0
    assert redis.info("server")["process_id"] == redis_server.pid


# --- the proxy ------------------------------------------------------------------------------------------------------


def _impatient(proxy: Proxy, timeout_seconds: float = 10.0) -> Redis:
    return Redis(port=proxy.port, socket_timeout=timeout_seconds, retry=Retry(NoBackoff(), 0))


def test_proxy_cuts_refuses_and_heals(redis_server: RedisServer) -> None:
    with Proxy(redis_server) as proxy, _impatient(proxy) as client:
        assert client.ping()
        assert proxy.connections == 1
        proxy.cut()
        # redis-py looks at the socket before it uses it again.
        assert client.ping()
        assert proxy.accepted == 2
        proxy.refuse()
        for _ in range(2):
            with pytest.raises(redis_errors.ConnectionError):
                client.ping()
        proxy.heal()
        assert client.ping()


def test_proxy_half_closes(redis_server: RedisServer) -> None:
    with Proxy(redis_server) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(10)
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        proxy.half_close()
        assert client.recv(100) == b""
        client.sendall(b"SET half closed\r\n")
        with redis_server.client() as direct:
            wait_until(lambda: direct.get("half") == b"closed", 10, "the request arrived")


def test_proxy_delays_and_swallows(redis_server: RedisServer) -> None:
    with Proxy(redis_server) as proxy, _impatient(proxy, 0.5) as client:
        assert client.ping()
        proxy.delay(0.1)
        begun = time.monotonic()
        assert client.ping()
        assert time.monotonic() - begun >= 0.2
        proxy.black_hole()
        for _ in range(2):
            with pytest.raises(redis_errors.TimeoutError):
                client.ping()
        proxy.heal()
        assert client.ping()


def test_proxy_loses_a_request_or_its_reply(redis: Redis, redis_server: RedisServer) -> None:
    with Proxy(redis_server) as proxy, _impatient(proxy) as client:
        proxy.lose_request(b"first")
        with pytest.raises(redis_errors.ConnectionError):
            client.set("first", "value")
        proxy.lose_reply(b"second")
        with pytest.raises(redis_errors.ConnectionError):
            client.set("second", "value")
        proxy.wait_hit(2)
        assert redis.mget("first", "second") == [None, b"value"]
        assert client.set("second", "again")


def test_proxy_loses_the_answer_to_a_commit(innodb: MariaDBDatabase) -> None:
    with Proxy(innodb.server) as proxy:
        proxy.lose_reply(MYSQL_COMMIT)
        account = innodb.account
        connection = pymysql.connect(
            host="127.0.0.1", port=proxy.port, user=account.user, password=account.password, database=innodb.name
        )
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO func (name) VALUES ('Worker::Mail')")
            with pytest.raises(pymysql.MySQLError):
                connection.commit()
        wait_until(lambda: innodb.count("func") == 1, 10, "the commit was done")
        assert str(proxy.port) in proxy.url(innodb.url)


def test_proxy_holds_a_request(redis: Redis, redis_server: RedisServer) -> None:
    with Proxy(redis_server) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(10)
        proxy.hold_request(b"held")
        client.sendall(b"SET held value\r\n")
        proxy.wait_held()
        assert redis.get("held") is None
        proxy.release()
        assert client.recv(100) == b"+OK\r\n"


# --- the command, and what is left behind ---------------------------------------------------------------------------


def test_cli_runs_the_real_command(cli: Cli, write_config: WriteConfig, sqlite: SQLiteDatabase) -> None:
    result = cli("--version")
    assert (result.status, result.stderr) == (0, "")
    path = write_config(
        [sqlite],
        {"url": "redis://127.0.0.1:1/0", "namespace": 'ä"\\'},
        routes=[{"func": "Worker::*", "bands": [{"min_priority": 10, "queue": "high"}], "move": False}],
        failures={"import": "none"},
    )
    assert path.parent == cli.folder
    running = cli.start("--version")
    running.wait_for(result.stdout.strip())
    assert running.wait().status == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_servers_and_folders_go_when_the_tests_are_killed(number: signal.Signals) -> None:
    program = (
        "import time; from tests.servers import RedisServer\n"
        "server = RedisServer().start(); print(server.pid, server.folder, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True
    ) as tests:
        assert tests.stdout is not None
        pid, folder = tests.stdout.readline().split()
        assert _lives(int(pid))
        assert Path(folder).exists()
        tests.send_signal(number)
    wait_until(lambda: not _lives(int(pid)) and not Path(folder).exists(), 20, "nothing is left")


def _lives(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped doesn't."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()


def test_a_worker_finds_nothing_in_an_empty_database(database: Database) -> None:
    with contextlib.closing(QudoWorker([database], ["Worker::Mail"])) as worker:
        assert not worker.work_once()
    assert job_ids(database) == []

"""Large and odd jobs: the largest args, none at all, bytes of every kind, names in the wrong character set; memory."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.qudo_app import enqueue, fill
from tests.resque_app import Resque
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer, SQLiteDatabase, wait_until
from tests.servers.command import Cli

#: What a MEDIUMBLOB holds.
LARGEST_ARG_BYTES = 2**24 - 1
#: Resident memory that a run may take, whatever it moves.
PEAK_KIB = 150 * 1024


def _json_of(size: int) -> bytes:
    """A JSON array of one string, `size` bytes long."""
    pattern = "0123456789abcdef 鮎 "
    text = (pattern * (size // len(pattern.encode())))[: size // 2]
    encoded = json.dumps([text], ensure_ascii=False).encode()
    return encoded[:-2] + b"x" * (size - len(encoded)) + encoded[-2:]


def test_the_largest_arg_that_qudo_can_hold_crosses(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    arg = _json_of(LARGEST_ARG_BYTES)
    assert len(arg) == LARGEST_ARG_BYTES
    enqueue(database, "Worker::Mail", b"[1]")
    enqueue(database, "Worker::Mail", arg)
    enqueue(database, "Worker::Mail", b"[2]")
    write_config([database], redis_server)

    assert run().counts == {"moved": 3, "handed_off": 3}

    first, large, last = resque.queue("worker_mail")
    assert (first.args, last.args) == ([[1]], [[2]])
    assert large.text.startswith(b'{"class":"Worker::Mail","args":[' + arg + b"]")


def test_a_job_larger_than_max_allowed_packet_crosses(
    redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    """A DBA has lowered it since the job was enqueued: no statement of ours carries an arg to the server."""
    with MariaDB() as server:
        for engine in ("InnoDB", "MyISAM"):
            database = server.create_database(engine)
            enqueue(database, "Worker::Mail", _json_of(3_000_000))
            database.execute("SET GLOBAL max_allowed_packet = 1048576")
            write_config({engine: database}, redis_server)
            assert run().counts == {"moved": 1, "handed_off": 1}
            assert resque.queue("worker_mail")[-1].text.count(_json_of(3_000_000)) == 1
            database.execute("SET GLOBAL max_allowed_packet = 67108864")


def test_args_of_nothing_cross(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    args: dict[bytes | None, object] = {None: None, b"": "", b"{}": {}, b"[]": [], b"0": "0", b" ": " "}
    for arg in args:
        enqueue(database, "Worker::Mail", arg)
    write_config([database], redis_server)
    run()
    assert [job.args for job in resque.queue("worker_mail")] == [[value] for value in args.values()]


@pytest.mark.parametrize("mode", ["latin1", "base64"])
def test_bytes_of_every_value_cross_as_the_route_says(
    mode: str, database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    data = bytes(range(256))
    enqueue(database, "Worker::Mail", data)
    enqueue(database, "Worker::Mail", "鮎".encode())
    write_config([database], redis_server, [{"func": "*", "bytes": mode, "serializer": "raw"}])
    run()
    text = data.decode("latin-1") if mode == "latin1" else base64.b64encode(data).decode()
    assert [job.args for job in resque.queue("worker_mail")] == [[text], ["鮎"]]


def test_args_are_the_same_whatever_type_sqlite_keeps_them_as(
    sqlite: SQLiteDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    enqueue(sqlite, "Worker::Mail", b'["\xe9\xae\x8e"]')
    sqlite.execute(
        "INSERT INTO job (func_id, arg, enqueue_time, grabbed_until, run_after)"
        " SELECT func_id, CAST(arg AS BLOB), enqueue_time, 0, 0 FROM job"
    )
    sqlite.execute("INSERT INTO job (func_id, arg, enqueue_time, grabbed_until) VALUES (1, 12345, 0, 0)")
    write_config([sqlite], redis_server)
    run()
    assert [job.args for job in resque.queue("worker_mail")] == [[["鮎"]], [["鮎"]], [12345]]


@pytest.mark.parametrize("engine", ["InnoDB", "MyISAM"])
@pytest.mark.parametrize("charset", ["latin1", "utf8mb3"])
def test_names_and_keys_are_the_bytes_that_the_shop_sent(
    engine: str,
    charset: str,
    mariadb: MariaDB,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    """UTF-8 bytes in a latin1 column, as old shops have them; and what is really Latin-1."""
    if (engine, charset) == ("MyISAM", "utf8mb3"):
        pytest.skip("Qudo's unique key is too long for MyISAM in utf8")
    database = mariadb.create_database(engine, charset)
    enqueue(database, "Worker::鮎", b"[1]", "鍵")
    if charset == "latin1":
        enqueue(database, "Worker::Caf\xe9".encode("latin-1"), b"[2]", "cl\xe9".encode("latin-1"))
    write_config([database], redis_server, [{"func": "Worker::鮎", "queue": "fish"}])

    run()

    (fish,) = resque.queue("fish")
    assert (fish.class_name, fish.qudo["uniqkey"]) == ("Worker::鮎", "鍵")
    if charset == "latin1":
        (cafe,) = resque.queue("worker_café")
        assert (cafe.class_name, cafe.qudo["uniqkey"]) == ("Worker::Café", "clé")
        enqueue(database, "Worker::鮎", b"[1]", "鍵")
        assert run(status=1).counts == {"waiting": 1}


def test_ids_and_numbers_at_the_ends_of_their_columns_cross(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    enqueue(innodb, "Worker::Mail", b"[]", "k" * 255, priority=2**32 - 1)
    innodb.execute(
        "UPDATE job SET id = 18446744073709551614, retry_cnt = 4294967295, enqueue_time = 4294967295, run_after = 0"
    )
    write_config([innodb], redis_server)
    run()
    (job,) = resque.queue("worker_mail")
    assert (job.id, job.qudo["priority"], job.qudo["retry_cnt"]) == (2**64 - 2, 2**32 - 1, 2**32 - 1)
    assert job.qudo["uniqkey"] == "k" * 255


# --- memory ---------------------------------------------------------------------------------------------------------


def _peak_kib(pid: int) -> int:
    """The most resident memory that a living process has had so far; 0 once it is gone."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _run_and_weigh(cli: Cli) -> int:
    running = cli.start("run", "--json")
    peak = 0

    def ended() -> bool:
        nonlocal peak
        peak = max(peak, _peak_kib(running.pid))
        return not running.running

    wait_until(ended, 120, "the run ends")
    assert running.wait().status == 0
    return peak


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")


@needs_proc
@pytest.mark.slow
def test_two_hundred_thousand_jobs_take_little_memory(
    innodb: MariaDBDatabase, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    fill(innodb, 200_000, arg='{"n":{n},"text":"' + "x" * 80 + '"}')
    write_config([innodb], redis_server)
    assert 0 < _run_and_weigh(cli) < PEAK_KIB
    assert redis.llen("resque:queue:worker_mail") == 200_000


@needs_proc
@pytest.mark.slow
def test_large_jobs_take_no_more_memory_than_small_ones(
    innodb: MariaDBDatabase, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    fill(innodb, 1000, arg='{"n":{n},"text":"' + "x" * 100_000 + '"}')
    write_config([innodb], redis_server)
    assert 0 < _run_and_weigh(cli) < PEAK_KIB
    assert redis.llen("resque:queue:worker_mail") == 1000

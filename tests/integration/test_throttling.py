"""A live site survives the migration: what holds it back is asked before each move, and says why."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.qudo_app.enqueueing import fill
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer
from tests.servers.command import Cli
from tests.servers.waiting import wait_until

QUEUE = "resque:queue:worker_mail"


def queued(redis: Redis) -> int:
    length = redis.llen(QUEUE)
    assert isinstance(length, int)
    return length


def test_a_rate_is_kept(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 3000)
    write_config({"main": innodb}, redis_server)
    started = time.monotonic()
    running = cli.start("run", "--rate", "1000/s")
    wait_until(lambda: queued(redis) == 3000, 60, "all jobs are handed off")
    # The first chunk, a quarter of a second's jobs, goes at once.
    assert time.monotonic() - started >= 2.5
    assert running.wait().status == 0
    assert "--rate 1000/s" in running.stderr


def test_no_queue_grows_longer_than_allowed_while_workers_lag(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(database, 600)
    write_config({"main": database}, redis_server)
    running = cli.start("run", "--max-queue-length", "100")
    longest = popped = 0

    def work() -> bool:
        nonlocal longest, popped
        longest = max(longest, queued(redis))
        taken = redis.lpop(QUEUE, 20)
        popped += len(taken) if isinstance(taken, list) else 0
        return popped == 600

    wait_until(work, 60, "a slow worker has had all jobs")
    assert running.wait().status == 0
    assert 50 < longest <= 100
    assert "queue worker_mail holds" in running.stderr


def test_a_loaded_server_is_left_alone_until_it_rests(
    mariadb: MariaDB,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    fill(innodb, 500)
    write_config({"main": innodb}, redis_server)
    sessions = [innodb.session() for _ in range(6)]
    busy = [threading.Thread(target=session.rows, args=("SELECT SLEEP(4)",)) for session in sessions]
    for thread in busy:
        thread.start()
    wait_until(lambda: int(innodb.rows("SHOW GLOBAL STATUS LIKE 'Threads_running'")[0][1]) > 6, 10, "load")
    running = cli.start("run", "--max-load", "Threads_running=6")
    running.wait_for("Threads_running is")
    assert queued(redis) == 0
    assert running.wait(60).status == 0
    assert queued(redis) == 500
    for thread, session in zip(busy, sessions, strict=True):
        thread.join()
        session.close()


def test_a_status_variable_that_does_not_exist_is_named(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 5)
    write_config({"main": innodb}, redis_server)
    result = cli("run", "--max-load", "Treads_running=25")
    assert result.status == 2
    assert "Treads_running" in result.stdout
    assert innodb.count("job") == 5


@pytest.fixture
def replicated() -> Iterator[tuple[MariaDBDatabase, MariaDB, str]]:
    """A master's database, its replica, and the replica's url of that database."""
    with MariaDB(log_bin=True, server_id=1, binlog_format="ROW") as master, MariaDB(server_id=2) as replica:
        database = master.create_database("InnoDB")
        account = master.create_account("replicate", ["REPLICATION SLAVE ON *.*"])
        reader = replica.create_account("look", ["ALL PRIVILEGES ON *.*"])
        session = replica.root()
        session.execute(
            f"CHANGE MASTER TO master_host='127.0.0.1', master_port={master.port}, master_user='{account.user}',"
            f" master_password='{account.password}', master_use_gtid=no"
        )
        yield database, replica, replica.url("mysql", reader)
        session.close()


def test_a_replica_that_does_not_follow_holds_the_migration_back(
    replicated: tuple[MariaDBDatabase, MariaDB, str],
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    database, replica, url = replicated
    fill(database, 300)
    path = write_config({"main": database}, redis_server)
    path.write_text(path.read_text().replace("[[source]]", f'[[source]]\nreplicas = ["{url}"]'))
    running = cli.start("run", "--max-lag", "5")
    running.wait_for("replication is stopped")
    assert queued(redis) == 0
    replica.root().execute("START SLAVE")
    assert running.wait(60).status == 0
    assert queued(redis) == 300


def test_a_pause_stops_a_run_within_a_second_and_resume_lets_it_go_on_in_order(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(database, 1500, arg='{"n":{n}}')
    fill(database, 100, func="Worker::Thumb")
    write_config({"main": database}, redis_server)
    running = cli.start("run", "--json", "--rate", "500/s")
    wait_until(lambda: queued(redis) > 0, 30, "the first jobs are handed off")
    assert cli("pause", "--func", "Worker::Ma*").status == 0
    paused_at = queued(redis)
    wait_until(lambda: redis.llen("resque:queue:worker_thumb") == 100, 30, "other funcs go on")
    running.wait_for("is paused by")
    assert queued(redis) == paused_at < 1500, "nothing is handed off once pause has returned"
    assert cli("resume", "--func", "Worker::Ma*").status == 0
    assert running.wait(60).status == 0
    texts: Any = redis.lrange(QUEUE, 0, -1)
    numbers = [json.loads(text)["args"][0]["n"] for text in texts]
    assert numbers == list(range(1, 1501))


def test_what_another_glob_has_paused_is_named(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    write_config({"main": innodb}, redis_server)
    cli("pause")
    result = cli("resume", "--func", "Worker::Mail")
    assert result.status == 1
    assert "paused are: *" in result.stderr
    assert cli("resume", "--json").json()["paused"] == []


def test_a_run_of_other_funcs_does_not_wait_for_a_paused_one(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 10)
    fill(innodb, 10, func="Worker::Thumb")
    write_config({"main": innodb}, redis_server)
    cli("pause", "--func", "Worker::Mail")
    assert cli("run", "--func", "Worker::Thumb", timeout=30).status == 0
    assert redis.llen("resque:queue:worker_thumb") == 10
    assert innodb.count("job") == 10

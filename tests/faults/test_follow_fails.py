"""`follow` while servers go and come back: nothing is lost or doubled, and the other sources go on."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.integration.following import Following
from tests.qudo_app import func_id
from tests.servers import MariaDB, MariaDBDatabase, Proxy, RedisServer, SQLiteDatabase, wait_until
from tests.servers.command import Cli


def crossed(books: Books, jobs: int) -> None:
    wait_until(lambda: books.standing().resque.total() == jobs, 40, f"{jobs} jobs are in Resque")


@pytest.mark.parametrize("graceful", [True, False], ids=["stopped", "killed"])
def test_redis_goes_and_comes_back(
    graceful: bool, innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    with RedisServer(appendfsync="always") as server:
        write_config([innodb], server)
        books = Books(innodb, server.client())
        books.fill(20)
        follow = Following(cli, metrics=True)
        crossed(books, 20)
        server.stop() if graceful else server.kill()
        books.fill(20)
        follow.command.wait_for("waiting")
        up = 'qudo_migrate_up{source="main"}'
        wait_until(lambda: follow.metrics()[up] == 0, 20, "it is seen as down")
        server.start()
        books.use(server.client())
        crossed(books, 40)
        wait_until(lambda: follow.metrics()[up] == 1, 20, "it is seen as up")
        assert follow.end()["moved"] == 40
        books.check_all_crossed()


def test_a_source_that_is_away_does_not_hold_up_the_others(
    broken_mariadb: MariaDB, sqlite: SQLiteDatabase, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    main = broken_mariadb.create_database()
    write_config({"main": main, "second": sqlite}, redis_server)
    books = Books({"main": main, "second": sqlite}, redis_server.client())
    func_id(main, "Worker::Mail")
    books.enqueue()
    follow = Following(cli)
    wait_until(lambda: redis_server.client().llen("resque:queue:worker_mail") == 1, 30, "one crosses")
    broken_mariadb.kill()
    books.enqueue(source="second")
    wait_until(lambda: redis_server.client().llen("resque:queue:worker_mail") == 2, 30, "the other source's crosses")
    broken_mariadb.start()
    books.enqueue()
    crossed(books, 3)
    result = follow.end()
    assert [source["moved"] for source in result["sources"]] == [2, 1]
    books.check_all_crossed()


def test_with_retry_for_it_ends_with_3(innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig) -> None:
    with RedisServer() as server:
        write_config([innodb], server)
        follow = Following(cli, "--retry-for", "1")
        server.kill()
        result = follow.wait(status=3, timeout=40)
        assert result["ended_by"] == "error"
        assert "can't be reached" in result["errors"][0]["error"]


def test_an_emptied_redis_ends_it_with_2(
    innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([innodb], redis_server)
    follow = Following(cli)
    redis_server.client().flushall()
    result = follow.wait(status=2, timeout=40)
    assert "doesn't hold the ledger" in result["errors"][0]["error"]


def test_the_watchdog_hears_nothing_while_a_server_does_not_answer(
    tmp_path: Path, innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    with Proxy(innodb.server) as proxy, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(3)
        cli.env |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        write_config({"main": proxy.url(innodb.url)}, redis_server)
        follow = Following(cli)
        proxy.black_hole()

        def silent() -> bool:
            """No ping among all that is said for longer than systemd would wait."""
            heard: list[bytes] = []
            try:
                while True:
                    heard.append(manager.recv(4096))
                    if heard.count(b"WATCHDOG=1") > 2:
                        return False
            except TimeoutError:
                return True

        wait_until(silent, 20, "the pings end")
        proxy.heal()
        manager.settimeout(20)
        while manager.recv(4096) != b"WATCHDOG=1":
            pass
        follow.end(signal.SIGINT)


def test_it_can_be_stopped_while_it_waits_and_says_why_it_did(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    with RedisServer() as server:
        write_config([innodb], server)
        follow = Following(cli, "--log-format", "json")
        server.kill()
        follow.command.wait_for("waiting")
        follow.end()
        lines = [json.loads(line) for line in follow.command.stderr.splitlines()]
        assert next(line["level"] for line in lines if "waiting" in line["message"]) == "warning"

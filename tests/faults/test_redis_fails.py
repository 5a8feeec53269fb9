"""Redis is full, read-only, frozen, killed or loading, loses answers, or forgets its last second."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from migrate.failpoints import VARIABLE
from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.integration.conftest import Run
from tests.integration.reports import Report
from tests.servers import MariaDBDatabase, Proxy, RedisServer, wait_until
from tests.servers.command import Cli, RunningCommand
from tests.servers.ports import free_port

JOBS, BATCH_SIZE = 100, "20"

#: Stands in each hand-off, and in nothing else that is sent to Redis.
HAND_OFF = b'"class"'
#: Stands in each write before a fence.
FENCE = b":fence"


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that the test may break."""
    with RedisServer(appendfsync="always") as server:
        yield server


class Fault(NamedTuple):
    """How Redis fails, how it is mended, and what the run says meanwhile."""

    strike: Callable[[RedisServer], object]
    mend: Callable[[RedisServer], object]
    message: str


def _follow_nobody(server: RedisServer) -> None:
    server.client().execute_command("REPLICAOF", "127.0.0.1", free_port())


FAULTS = {
    "killed": Fault(RedisServer.kill, RedisServer.start, "can't be reached"),
    "full": Fault(
        lambda server: server.client().config_set("maxmemory", "1mb"),
        lambda server: server.client().config_set("maxmemory", "0"),
        "out of memory (OOM)",
    ),
    "read-only": Fault(
        _follow_nobody, lambda server: server.client().execute_command("REPLICAOF", "NO", "ONE"), "read-only, a replica"
    ),
}


def through(fault: Fault, request: bytes, proxy: Proxy, server: RedisServer, cli: Cli) -> Report:
    """A run that the fault meets at this request: it says why it waits, and goes on when that is mended."""
    proxy.hold_request(request)
    running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
    proxy.wait_held()
    fault.strike(server)
    proxy.release()
    running.wait_for(fault.message)
    running.wait_for("waiting, ")
    fault.mend(server)
    return Report(running.wait())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_run_waits_with_a_visible_reason_and_goes_on(
    fault: Fault, innodb: MariaDBDatabase, own_redis: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    books = Books(innodb)
    books.fill(JOBS, priorities=2)
    order = books.order()
    with Proxy(own_redis) as proxy:
        write_config([innodb], f"redis://127.0.0.1:{proxy.port}/0")
        report = through(fault, HAND_OFF, proxy, own_redis, cli)

    books.use(own_redis.client())
    assert report.counts == {"moved": JOBS, "handed_off": JOBS}
    assert report.complete
    books.check_all_crossed()
    books.check_order(order)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_in_the_last_step_of_a_run_is_waited_out_too(
    fault: Fault, myisam: MariaDBDatabase, own_redis: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    """All jobs have crossed; what is left is to settle the records of their chunks, behind a fence."""
    books = Books(myisam)
    books.fill(JOBS)
    with Proxy(own_redis) as proxy:
        write_config([myisam], f"redis://127.0.0.1:{proxy.port}/0")
        report = through(fault, FENCE, proxy, own_redis, cli)
    books.use(own_redis.client())
    assert (report.status, report.counts) == (0, {"moved": JOBS, "handed_off": JOBS})
    assert myisam.count("qudo_migrate_chunk") == 0
    books.check_all_crossed()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_run_ends_with_status_3_after_retry_for_and_a_later_one_completes(
    fault: Fault, innodb: MariaDBDatabase, own_redis: RedisServer, cli: Cli, run: Run, write_config: WriteConfig
) -> None:
    books = Books(innodb)
    books.fill(JOBS, priorities=2)
    order = books.order()
    with Proxy(own_redis) as proxy:
        write_config([innodb], f"redis://127.0.0.1:{proxy.port}/0")
        proxy.hold_request(HAND_OFF)
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE, "--retry-for", "1")
        proxy.wait_held()
        fault.strike(own_redis)
        proxy.release()
        report = Report(running.wait())

        assert report.status == 3
        assert fault.message in report.errors["main"]
        assert report.errors["main"].count("\n") == 0
        assert report.counts["moved"] > report.counts.get("handed_off", 0)

        fault.mend(own_redis)
        later = run()

    books.use(own_redis.client())
    assert later.complete
    assert report.counts["moved"] + later.counts.get("moved", 0) == JOBS
    assert report.counts.get("handed_off", 0) + later.counts["handed_off"] == JOBS
    books.check_all_crossed()
    books.check_order(order)


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_lost_answer_of_the_hand_off_changes_no_count(
    times: int,
    lost: str,
    books: Books,
    database: MariaDBDatabase,
    redis_server: RedisServer,
    cli: Cli,
    write_config: WriteConfig,
) -> None:
    """Once: the client tries again by itself. Three times: the run must find out from the ledger."""
    books.fill(JOBS, priorities=2)
    order = books.order()
    with Proxy(redis_server) as proxy:
        write_config([database], f"redis://127.0.0.1:{proxy.port}/0")
        for _ in range(times):
            (proxy.lose_request if lost == "request" else proxy.lose_reply)(HAND_OFF)
        report = Report(cli("run", "--json", "--batch-size", BATCH_SIZE))
        assert proxy.hits == times

    assert report.counts == {"moved": JOBS, "handed_off": JOBS}
    books.check_all_crossed()
    books.check_order(order)


def test_cuts_half_closed_connections_freezes_and_a_network_that_is_away_are_waited_out(
    innodb: MariaDBDatabase, own_redis: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    books = Books(innodb, own_redis.client())
    books.fill(200)
    order = books.order()
    with Proxy(own_redis) as proxy:
        write_config([innodb], f"redis://127.0.0.1:{proxy.port}/0")
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
        for fault in (proxy.cut, proxy.half_close, proxy.black_hole, own_redis.freeze, proxy.refuse):
            proxy.hold_request(HAND_OFF)
            proxy.wait_held()
            outbox = innodb.count("qudo_migrate_outbox")
            fault()
            proxy.release()
            if fault == proxy.refuse:
                running.wait_for("can't be reached")
            # It moves one chunk on and then has to wait.
            wait_until(lambda: innodb.count("qudo_migrate_outbox") >= min(200, outbox), 10, "it stands still")  # noqa: B023
            own_redis.thaw()
            proxy.heal()
        report = Report(running.wait())

    assert report.counts == {"moved": 200, "handed_off": 200}
    books.check_all_crossed()
    books.check_order(order)


def test_a_redis_that_comes_back_and_still_loads_is_waited_for(
    innodb: MariaDBDatabase, own_redis: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    books = Books(innodb)
    books.fill(JOBS)
    order = books.order()
    client = own_redis.client()
    client.mset({f"others:{number}": "x" * 200 for number in range(400)})
    client.bgrewriteaof()  # a snapshot at the beginning of the file: while it is read, Redis answers
    wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, 10, "the file is rewritten")
    with Proxy(own_redis) as proxy:
        write_config([innodb], f"redis://127.0.0.1:{proxy.port}/0")
        proxy.hold_request(HAND_OFF)
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE)
        proxy.wait_held()

        own_redis.kill()
        own_redis.options |= {"key_load_delay": 5000, "loading_process_events_interval_bytes": 1024}
        starting = threading.Thread(target=own_redis.start)
        starting.start()
        proxy.release()
        running.wait_for("loading its data")
        starting.join()
        report = Report(running.wait())

    books.use(own_redis.client())
    assert report.counts == {"moved": JOBS, "handed_off": JOBS}
    books.check_all_crossed()
    books.check_order(order)


# --- Redis forgets --------------------------------------------------------------------------------------------------


class Memory:
    """What a Redis had on its disk at one moment. Unlike a crash of the machine, a killed process forgets nothing."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._files = server.folder / "appendonlydir"
        self._copy = Path(shutil.copytree(self._files, server.folder / "older", dirs_exist_ok=True))

    def fall_back(self) -> None:
        """Crash, and come back with what was on the disk then."""
        self._server.kill()
        shutil.rmtree(self._files)
        shutil.copytree(self._copy, self._files)
        self._server.start()


def test_a_run_pushes_again_what_redis_forgot_while_it_went_on(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    with RedisServer(appendfsync="everysec") as server:
        books = Books(innodb, server.client())
        books.fill(400, priorities=2)
        write_config([innodb], server)
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE, "--rate", "400/s")

        _wait_crossed(running, books, 60)
        memory = Memory(server)
        _wait_crossed(running, books, 160)
        memory.fall_back()
        books.use(server.client())
        report = Report(running.wait())

        assert report.status == 0
        assert report.counts["moved"] == 400
        books.check_all_crossed()


def test_what_redis_forgot_between_two_hand_offs_keeps_its_place(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    with RedisServer(appendfsync="everysec") as server:
        books = Books(innodb, server.client())
        books.fill(200, priorities=2)
        order = books.order()
        write_config([innodb], server)
        running = cli.start("run", "--json", "--batch-size", BATCH_SIZE, "--rate", "200/s")
        _wait_crossed(running, books, 30)
        memory = Memory(server)
        _wait_crossed(running, books, 70)
        running.send(signal.SIGSTOP)  # between two hand-offs: it mostly waits for its rate
        memory.fall_back()
        books.use(server.client())
        running.send(signal.SIGCONT)
        report = Report(running.wait())

        assert report.status == 0
        books.check_all_crossed()
        books.check_order(order)


def test_a_later_run_pushes_again_what_redis_forgot_after_the_migrator_died(
    innodb: MariaDBDatabase, cli: Cli, run: Run, write_config: WriteConfig
) -> None:
    with RedisServer(appendfsync="everysec") as server:
        books = Books(innodb, server.client())
        books.fill(200, priorities=2)
        order = books.order()
        write_config([innodb], server)
        cli.env[VARIABLE] = "handoff.done=kill@2"
        assert cli("run", "--batch-size", BATCH_SIZE).status == -9
        memory = Memory(server)
        assert cli("run", "--batch-size", BATCH_SIZE).status == -9
        crossed = books.check_safe().resque.total()
        memory.fall_back()
        books.use(server.client())
        assert 0 < books.check_safe().resque.total() < crossed

        del cli.env[VARIABLE]
        report = run()

        assert report.complete
        books.check_all_crossed()
        books.check_order(order)


def test_a_redis_that_gives_no_proof_may_forget_even_what_a_whole_run_pushed(
    innodb: MariaDBDatabase, run: Run, write_config: WriteConfig
) -> None:
    """With `appendfsync no` the fence refuses, so what was handed off stays on record."""
    with RedisServer(appendfsync="no") as server:
        write_config([innodb], server)
        run()
        memory = Memory(server)
        books = Books(innodb, server.client())
        books.fill(JOBS, priorities=2)
        order = books.order()
        assert run().complete

        memory.fall_back()
        books.use(server.client())
        assert books.check_safe().resque.total() == 0

        assert run().counts == {"handed_off": JOBS}
        books.check_all_crossed()
        books.check_order(order)


def test_what_the_fence_has_proved_is_not_asked_for_again(
    innodb: MariaDBDatabase, run: Run, write_config: WriteConfig
) -> None:
    with RedisServer(appendfsync="everysec") as server:
        books = Books(innodb, server.client())
        books.fill(JOBS)
        write_config([innodb], server)
        run()
        assert innodb.count("qudo_migrate_chunk") == 0
        server.restart(graceful=False)

        assert run().counts == {}
        books.use(server.client())
        books.check_all_crossed()


def _wait_crossed(running: RunningCommand, books: Books, jobs: int) -> None:
    running.wait_until(lambda: books.standing().resque.total() > jobs, 30, f"{jobs} jobs cross")

"""uniqkeys across the crossing, with Resque workers that know nothing of them."""

from __future__ import annotations

import contextlib

import pytest
from pymysql import IntegrityError

from tests.conftest import WriteConfig
from tests.faults.accounting import Books, Token
from tests.integration.conftest import Run
from tests.integration.reports import Report
from tests.resque_app import Resque, ResqueWorker
from tests.servers import MariaDBDatabase, Proxy, RedisServer
from tests.servers.command import Cli

QUEUE, KEY = "worker_mail", "welcome-1"


@pytest.mark.parametrize("database", ["innodb", "myisam"], indirect=True)
def test_of_one_key_never_two_jobs_are_pending_while_workers_take_them(
    database: MariaDBDatabase, books: Books, resque: Resque, cli: Cli
) -> None:
    """The app enqueues the key again whenever Qudo lets it; a worker pops, registers late, and is done."""
    worker = ResqueWorker(resque)
    order: list[Token] = [books.enqueue(uniqkey=KEY)]
    assert Report(cli("run", "--json")).counts == {"moved": 1, "handed_off": 1}
    for _ in range(2):
        order.append(books.enqueue(uniqkey=KEY))
        with contextlib.suppress(IntegrityError):  # Qudo refuses a third while the second waits
            books.enqueue(uniqkey=KEY)
        running = cli.start("run", "--json", "--in-flight-wait", "60")
        running.wait_for("waiting for a uniqkey")
        assert resque.length() == 1

        job = worker.pop(QUEUE)
        worker.register(job)
        books.note_taken(job.payload)
        worker.finish()

        assert Report(running.wait()).counts == {"moved": 1, "handed_off": 1}
        assert resque.length() == 1
    assert [*books.taken, *books.standing().resque] == order
    books.check_all_crossed()


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_job_that_is_between_pop_and_registration_is_not_over(
    database: MariaDBDatabase,
    books: Books,
    redis_server: RedisServer,
    resque: Resque,
    cli: Cli,
    run: Run,
    write_config: WriteConfig,
) -> None:
    """Perl's and Ruby's workers pop first and register after: absent means absent in two looks."""
    books.enqueue(uniqkey=KEY)
    run()
    books.enqueue(uniqkey=KEY)
    worker = ResqueWorker(resque)
    job = worker.pop(QUEUE)
    with Proxy(redis_server) as proxy:
        write_config([database], f"redis://127.0.0.1:{proxy.port}/0")
        schedule = b"ZRANGE\r\n$29\r\nresque:delayed_queue_schedule"  # how each look begins
        proxy.hold_request(schedule)
        running = cli.start("run", "--json")
        proxy.wait_held()
        proxy.release()
        proxy.wait_hit()
        proxy.hold_request(schedule)
        proxy.wait_held()
        worker.register(job)
        proxy.release()
        assert Report(running.wait()).counts == {"waiting": 1}

        worker.finish()
        books.note_taken(job.payload)
        assert run().counts == {"moved": 1, "handed_off": 1}
    books.check_all_crossed()


@pytest.mark.parametrize("database", ["innodb", "myisam"], indirect=True)
def test_ignored_keys_cross_side_by_side(
    database: MariaDBDatabase, books: Books, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    write_config([database], redis_server, [{"func": "*", "unique": "ignore"}])
    for _ in range(3):
        books.enqueue(uniqkey=KEY)
        assert Report(cli("run", "--json")).counts == {"moved": 1, "handed_off": 1}
    books.check_all_crossed()

"""Qudo's workers go on while jobs move: every job is run once, by Qudo or in Resque, never by both."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.faults.stopping import asleep
from tests.integration.conftest import Run
from tests.integration.reports import Report
from tests.qudo_app import Outcome, QudoJob, QudoWorker
from tests.qudo_app.worker_process import RanJob, WorkerProcess
from tests.servers import Database, MariaDBDatabase, RedisServer, wait_until
from tests.servers.command import Cli

FUNC = "Worker::Mail"


@contextlib.contextmanager
def _enqueueing(books: Books, seconds_between: float = 0.01) -> Iterator[None]:
    """An app that goes on enqueueing."""
    stop = threading.Event()

    def enqueue() -> None:
        while not stop.wait(seconds_between):
            books.enqueue()

    thread = threading.Thread(target=enqueue)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("database", ["innodb", "myisam"], indirect=True)
def test_each_job_runs_once_in_qudo_or_in_resque(
    database: Database, books: Books, cli: Cli, run: Run, tmp_path: Path
) -> None:
    books.fill(600, priorities=3)
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(WorkerProcess([database], [FUNC], tmp_path / f"worker.{n}", work_seconds=0.02))
            for n in range(3)
        ]
        workers[0].wait_ran(2)
        with _enqueueing(books):
            running = [cli.start("run", "--json", "--batch-size", "20", "--rate", "400/s") for _ in range(2)]
            running[0].wait_until(lambda: books.standing().resque.total() > 150, 30, "150 jobs cross")
        assert all(each.wait().status in (0, 1) for each in running)
        for worker in workers:
            worker.stop()
        assert run().complete

        standing = books.check_each_once([worker.ran for worker in workers])
        assert not standing.job
        assert all(worker.ran for worker in workers)


@pytest.mark.parametrize("database", ["innodb", "myisam"], indirect=True)
def test_jobs_that_fail_and_are_retried_meanwhile_reach_resque_once(
    database: Database,
    books: Books,
    redis_server: RedisServer,
    cli: Cli,
    run: Run,
    write_config: WriteConfig,
    tmp_path: Path,
) -> None:
    write_config([database], redis_server, failures={"import": "none"})
    books.fill(300, priorities=2)
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                WorkerProcess(
                    [database],
                    [FUNC],
                    tmp_path / f"worker.{n}",
                    outcome=Outcome.FAILED,
                    max_retries=10_000,
                    retry_delay=1,
                )
            )
            for n in range(3)
        ]
        workers[0].wait_ran(5)
        assert cli("run", "--json", "--batch-size", "20", "--rate", "300/s").status in (0, 1)
        for worker in workers:
            worker.stop()

    assert run().complete
    books.check_all_crossed()


def test_retries_that_hit_a_random_database_lose_and_double_nothing(
    innodb: MariaDBDatabase,
    myisam: MariaDBDatabase,
    redis_server: RedisServer,
    redis: Redis,
    cli: Cli,
    run: Run,
    write_config: WriteConfig,
    tmp_path: Path,
) -> None:
    """Qudo's fault: a failed job's row is updated by id, in the wrong database half of the time."""
    sources: dict[str, Database] = {"main": innodb, "second": myisam}
    books = Books(sources, redis)
    write_config(sources, redis_server, [{"func": "*", "lease_grace": 0}], failures={"import": "none"})
    for source in sources:
        books.fill(200, source=source)
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                WorkerProcess(
                    [innodb, myisam],
                    [FUNC],
                    tmp_path / f"worker.{n}",
                    outcome=Outcome.FAILED,
                    max_retries=10_000,
                    retry_delay=1,
                    grab_for=2,
                )
            )
            for n in range(4)
        ]
        workers[0].wait_ran(5)
        assert cli("run", "--json", "--batch-size", "20", "--rate", "200/s").status in (0, 1)
        for worker in workers:
            worker.stop()

    assert run("--in-flight-wait", "10").complete
    books.check_all_crossed()


# --- zombies: workers that outlived their lease ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database", "outcome"), [("innodb", Outcome.COMPLETED), ("myisam", Outcome.FAILED)], indirect=["database"]
)
def test_a_zombie_that_wakes_after_its_job_has_crossed_changes_nothing(
    outcome: Outcome,
    database: Database,
    books: Books,
    redis_server: RedisServer,
    run: Run,
    write_config: WriteConfig,
    tmp_path: Path,
) -> None:
    write_config([database], redis_server, [{"func": "*", "lease_grace": 0}], failures={"import": "none"})
    books.fill(10)
    with WorkerProcess(
        [database], [FUNC], tmp_path / "zombie", outcome=outcome, work_seconds=0.2, max_retries=9, grab_for=1
    ) as zombie:
        zombie.wait_ran(1)
        zombie.freeze()
        wait_until(lambda: database.count(where="grabbed_until > UNIX_TIMESTAMP()") == 0, 10, "the lease is over")
        assert run().counts == {"moved": 10, "handed_off": 10}

        zombie.thaw()
        zombie.stop()

    assert len(zombie.ran) == 1
    assert run().counts == {}
    books.check_all_crossed()


def test_a_row_that_a_zombie_takes_back_in_the_middle_of_a_move_is_qudos_again(
    myisam: MariaDBDatabase, books_of_myisam: Books, cli: Cli
) -> None:
    """It is updated by id between the copy and the delete: its copy is dropped, and the job moves anew."""
    books_of_myisam.fill(20)  # no more than Find reads
    with contextlib.closing(QudoWorker([myisam], [FUNC], max_retries=9)) as zombie:
        held = min(zombie.find(0), key=lambda job: job.id)  # long ago: its lease is over
        with asleep(cli, "leasing.copied", "--batch-size", "20") as running:
            assert _is_claimed(myisam, held)
            zombie.reenqueue(held)
            running.send(signal.SIGCONT)
            report = Report(running.wait())

    assert report.counts == {"moved": 20, "handed_off": 20}
    books_of_myisam.check_all_crossed()


@pytest.mark.parametrize(
    ("point", "crossing"), [("leasing.copied", 19), ("leasing.deleting", 20)], ids=["copied", "deleting"]
)
def test_a_row_that_a_zombie_deletes_in_the_middle_of_a_move_is_done_until_our_own_delete_has_begun(
    point: str, crossing: int, myisam: MariaDBDatabase, books_of_myisam: Books, cli: Cli
) -> None:
    """From then on the stated exception: it may run in both, as in two Qudo workers. It is never lost or stuck."""
    books_of_myisam.fill(20)  # no more than Find reads
    with contextlib.closing(QudoWorker([myisam], [FUNC])) as zombie:
        held = min(zombie.find(0), key=lambda job: job.id)
        with asleep(cli, point, "--batch-size", "20") as running:
            assert _is_claimed(myisam, held)
            zombie.end(held, Outcome.COMPLETED)
            running.send(signal.SIGCONT)
            report = Report(running.wait())

    assert report.counts == {"moved": crossing, "handed_off": crossing}
    done_by_qudo = [[RanJob(0, held.id, held.arg)]] if crossing == 19 else []
    books_of_myisam.check_each_once(done_by_qudo)


def _is_claimed(database: Database, job: QudoJob) -> bool:
    return database.count(where=f"id = {job.id} AND grabbed_until = 2147483647") == 1


@pytest.fixture
def books_of_myisam(
    myisam: MariaDBDatabase, redis_server: RedisServer, redis: Redis, write_config: WriteConfig
) -> Books:
    """The books of a MyISAM database whose failures are nobody's concern."""
    write_config([myisam], redis_server, failures={"import": "none"})
    return Books(myisam, redis)


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_failure_that_is_logged_just_after_its_job_has_crossed_is_not_the_end_of_that_job(
    database: Database, books: Books, run: Run
) -> None:
    """Qudo re-enqueues first and logs after; the migrator may take the row in between."""
    books.fill(1)
    worker = QudoWorker([database], [FUNC], max_retries=9)
    job = worker.find_and_grab()
    assert job is not None
    worker.reenqueue(job)
    assert run().counts == {"moved": 1, "handed_off": 1}
    moved_at = database.value("SELECT moved_at FROM qudo_migrate_outbox")
    wait_until(lambda: time.time() >= moved_at + 1, 5, "the next second")

    worker._log_exception(job, "died")
    worker.close()

    assert run().counts == {}
    books.check_all_crossed()

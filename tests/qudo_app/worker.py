"""A Qudo worker: finds, grabs and ends jobs with exactly Qudo's statements, in a thread or as a process.

As a process: `python -m tests.qudo_app.worker` (see `WorkerProcess`). What the job itself does is a function that
returns how it ends.
"""

from __future__ import annotations

import contextlib
import enum
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.qudo_app.enqueueing import FOUND_COLUMNS, func_id
from tests.servers.databases import Database, Row, Session
from tests.servers.waiting import wait_until

#: Qudo's own defaults: rows that one Find reads, seconds of a lease.
FIND_LIMIT, GRAB_FOR_SECONDS = 30, 3600


class Outcome(enum.Enum):
    """How a job's work ends."""

    COMPLETED = enum.auto()
    #: An exception, or a return without `completed`.
    FAILED = enum.auto()
    #: The job gives itself up: never retried.
    ABORTED = enum.auto()


class QudoJob(NamedTuple):
    """What Find read of a job, and the number of its database."""

    database: int
    id: int
    arg: bytes | None
    uniqkey: bytes | None
    func_id: int
    grabbed_until: int
    retry_cnt: int
    priority: int


Work = Callable[[QudoJob], Outcome]


def complete(_job: QudoJob) -> Outcome:
    """Work that does nothing, well."""
    return Outcome.COMPLETED


class QudoWorker:
    """One worker over one or several databases. `work_once` by hand, or `start` and `stop` for a thread.

    A database is one of the tests' or a function that opens a session. A statement that fails raises, as in Qudo.
    """

    def __init__(
        self,
        databases: Sequence[Database | Callable[[], Session]],
        funcs: Sequence[str],
        work: Work = complete,
        *,
        max_retries: int = 0,
        retry_delay: int = 0,
        grab_for: int = GRAB_FOR_SECONDS,
        set_job_status: bool = False,
        work_delay: float = 0.01,
        seed: int | None = None,
    ) -> None:
        self._open = [database.session if isinstance(database, Database) else database for database in databases]
        self._funcs = funcs
        self._work = work
        self._max_retries = max_retries
        self._retry_delay = retry_delay
        self._grab_for = grab_for
        self._set_job_status = set_job_status
        self._work_delay = work_delay
        self._random = random.Random(seed)
        self._sessions: list[Session] = []
        self._func_ids: dict[int, list[int]] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._error: BaseException | None = None
        #: The jobs whose work was begun, in order.
        self.ran: list[QudoJob] = []

    @property
    def ran_ids(self) -> list[int]:
        """Their ids: enough where there is one database."""
        return [job.id for job in self.ran]

    def work_once(self) -> bool:
        """Find, grab and run one job. False when no database had one."""
        job = self.find_and_grab()
        if job is None:
            return False
        self.run(job)
        return True

    def find_and_grab(self) -> QudoJob | None:
        """The first job that this worker gets, the databases in random order."""
        for number in self._random.sample(range(len(self._open)), len(self._open)):
            for job in self.find(number):
                if self.grab(job):
                    return job
        return None

    def find(self, database: int) -> list[QudoJob]:
        """Qudo's Find: free and due jobs, the highest priority first."""
        session = self._session(database)
        ids = self._func_ids.setdefault(database, []) or [func_id(session, func) for func in self._funcs]
        self._func_ids[database] = ids
        now = session.now()
        rows = session.rows(
            f"SELECT {self._columns(session)} FROM job WHERE func_id IN ({', '.join(map(str, ids))})"
            f" AND grabbed_until <= {now} AND run_after <= {now} ORDER BY priority DESC LIMIT {FIND_LIMIT}"
        )
        return [QudoJob(database, *row) for row in rows]

    def grab(self, job: QudoJob) -> bool:
        """Qudo's lock: whoever changes `grabbed_until` first has the job."""
        session = self._session(job.database)
        until, now = session.now() + self._grab_for, int(time.time())
        matched = session.execute(
            f"UPDATE job SET grabbed_until = {until}, enqueue_time = {now}, run_after = {now}"
            f" WHERE id = {job.id} AND grabbed_until = {job.grabbed_until}"
        )
        return matched >= 1

    def run(self, job: QudoJob) -> None:
        """Do the work of a grabbed job and end it."""
        started = int(time.time())
        self.ran.append(job)
        outcome = self._work(job)
        self.end(job, outcome, started)

    def end(self, job: QudoJob, outcome: Outcome, started: int | None = None) -> None:
        """End a job. Every statement goes by its id alone, whoever holds the row by now."""
        started = int(time.time()) if started is None else started
        if outcome is Outcome.COMPLETED:
            self._note_status(job, "completed", started)
            self._delete(job)
        elif outcome is Outcome.ABORTED:
            self._note_status(job, "abort", started)
            self._log_exception(job, "abort!!")
            self._delete(job)
        else:
            if job.retry_cnt < self._max_retries:
                self.reenqueue(job)
            else:
                self._delete(job)
            self._note_status(job, "failed", started)
            self._log_exception(job, "Job did not explicitly complete or fail")

    def reenqueue(self, job: QudoJob) -> None:
        """Qudo's retry, with its fault: the row of that id in a database picked at random."""
        session = self._session(self._random.randrange(len(self._open)))
        now = int(time.time())
        session.execute(
            f"UPDATE job SET grabbed_until = 0, retry_cnt = {job.retry_cnt + 1}, enqueue_time = {now},"
            f" run_after = {now + self._retry_delay} WHERE id = {job.id}"
        )
        session.rows(f"SELECT {self._columns(session)} FROM job WHERE id = {job.id} LIMIT 1")

    def start(self) -> QudoWorker:
        """Work in a thread of its own until `stop`."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._live, name="qudo-worker", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Finish the job in hand and end. Raises what the thread raised."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive(), "the worker doesn't stop"
            self._thread = None
        self.close()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait_ran(self, jobs: int, timeout_seconds: float = 30.0) -> None:
        """Until so many jobs were begun. Raises what the thread raised."""

        def enough() -> bool:
            if self._error is not None:
                raise self._error
            return len(self.ran) >= jobs

        wait_until(enough, timeout_seconds, f"{jobs} jobs ran in Qudo")

    def close(self) -> None:
        """Close its connections; it opens them again when needed."""
        for session in self._sessions:
            session.close()
        self._sessions.clear()

    def __enter__(self) -> QudoWorker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _live(self) -> None:
        try:
            while not self._stop.is_set():
                if not self.work_once():
                    self._stop.wait(self._work_delay)
        except BaseException as error:  # noqa: BLE001  raised again in the test's thread
            self._error = error

    def _session(self, database: int) -> Session:
        if not self._sessions:
            with contextlib.ExitStack() as undo:
                for opening in self._open:
                    self._sessions.append(undo.enter_context(contextlib.closing(opening())))
                undo.pop_all()
        return self._sessions[database]

    def _columns(self, session: Session) -> str:
        return FOUND_COLUMNS.replace("arg, uniqkey", f"{session.as_bytes('arg')}, {session.as_bytes('uniqkey')}")

    def _delete(self, job: QudoJob) -> None:
        self._session(job.database).execute(f"DELETE FROM job WHERE id = {job.id}")

    def _note_status(self, job: QudoJob, status: str, started: int) -> None:
        if self._set_job_status:
            session = self._session(job.database)
            session.insert(
                "INSERT INTO job_status (func_id, arg, uniqkey, status, job_start_time, job_end_time)"
                f" VALUES ({job.func_id}, {session.arg(job.arg)}, {session.text(job.uniqkey)}, '{status}',"
                f" {started}, {int(time.time())})"
            )

    def _log_exception(self, job: QudoJob, message: str) -> None:
        log_exception(self._session(job.database), job.func_id, message, job.arg, job.uniqkey)


def log_exception(
    session: Database | Session, func: int, message: str, arg: bytes | None, uniqkey: bytes | None
) -> int:
    """Qudo's row for each failure. Its id."""
    return session.insert(
        "INSERT INTO exception_log (func_id, message, uniqkey, arg, exception_time, retried)"
        f" VALUES ({func}, {session.arg(message.encode())}, {session.text(uniqkey)}, {session.arg(arg)},"
        f" {int(time.time())}, 0)"
    )


def retry_by_operator(db: Database | Session, exception_id: int) -> int:
    """What an operator does to a failed job: a new job from its `exception_log` row. The new job's id."""
    columns = f"func_id, {db.as_bytes('arg')}, {db.as_bytes('uniqkey')}"
    row: Row
    (row,) = db.rows(f"SELECT {columns} FROM exception_log WHERE id = {exception_id}")
    func, arg, uniqkey = row
    now = int(time.time())
    job_id = db.insert(
        "INSERT INTO job (func_id, arg, uniqkey, enqueue_time, grabbed_until, retry_cnt, priority, run_after)"
        f" VALUES ({func}, {db.arg(arg)}, {db.text(uniqkey)}, {now}, 0, 0, 0, {now})"
    )
    db.execute(f"UPDATE exception_log SET retried = 1 WHERE id = {exception_id}")
    return job_id

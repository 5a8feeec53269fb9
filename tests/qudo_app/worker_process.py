"""Qudo workers as processes of their own: they can be killed in the middle of a job, as real ones are.

The child is this module run as a script; it notes each job in a file before the work begins.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.qudo_app.worker import GRAB_FOR_SECONDS, Outcome, QudoJob, QudoWorker
from tests.servers.databases import Database, Session
from tests.servers.guard import GUARD
from tests.servers.mariadb import session_at
from tests.servers.sqlite import SQLiteSession
from tests.servers.waiting import wait_until

_ROOT = Path(__file__).parents[2]


class RanJob(NamedTuple):
    """A job whose work was begun by a process."""

    database: int
    id: int
    arg: bytes | None


class WorkerProcess:
    """Starts a worker process; `log` is the file it notes its jobs in. A context manager: killed at the end."""

    def __init__(
        self,
        databases: Sequence[Database],
        funcs: Sequence[str],
        log: Path,
        *,
        outcome: Outcome = Outcome.COMPLETED,
        work_seconds: float = 0.0,
        max_retries: int = 0,
        retry_delay: int = 0,
        grab_for: int = GRAB_FOR_SECONDS,
    ) -> None:
        self._log = log
        log.touch()
        command = [sys.executable, "-m", "tests.qudo_app.worker_process", f"--log={log}"]
        command += [f"--database={database.charset} {database.url}" for database in databases]
        command += [f"--func={func}" for func in funcs]
        command += [f"--outcome={outcome.name}", f"--work-seconds={work_seconds}", f"--max-retries={max_retries}"]
        command += [f"--retry-delay={retry_delay}", f"--grab-for={grab_for}"]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        GUARD.kill_at_end(self.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ran(self) -> list[RanJob]:
        """The jobs whose work it has begun, in order."""
        # A killed worker may leave half a line.
        lines = self._log.read_text().rpartition("\n")[0].splitlines()
        return [_ran_job(*json.loads(line)) for line in lines]

    def wait_ran(self, jobs: int, timeout_seconds: float = 30.0) -> None:
        """Until so many jobs were begun."""
        wait_until(lambda: len(self.ran) >= jobs, timeout_seconds, f"{jobs} jobs begun by the worker process")

    def freeze(self) -> None:
        """SIGSTOP: it outlives its leases."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on with the job it had."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Finish the job in hand and end."""
        self._process.terminate()
        self._process.wait(60)
        GUARD.spare(self.pid)

    def kill(self) -> None:
        """SIGKILL: the job in hand keeps its lease."""
        self._process.kill()
        self._process.wait()
        GUARD.spare(self.pid)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _ran_job(database: int, job_id: int, arg_hex: str | None) -> RanJob:
    return RanJob(database, job_id, None if arg_hex is None else bytes.fromhex(arg_hex))


def _main() -> None:
    options = _parse()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with options.log.open("ab", buffering=0) as log:

        def work(job: QudoJob) -> Outcome:
            note = [job.database, job.id, None if job.arg is None else job.arg.hex()]
            log.write(json.dumps(note).encode() + b"\n")
            stop.wait(options.work_seconds)
            return Outcome[options.outcome]

        worker = QudoWorker(
            [_opening(database) for database in options.database],
            options.func,
            work,
            max_retries=options.max_retries,
            retry_delay=options.retry_delay,
            grab_for=options.grab_for,
        )
        with contextlib.closing(worker):
            while not stop.is_set():
                if not worker.work_once():
                    stop.wait(0.01)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--database", action="append", required=True, help="character set and URL")
    parser.add_argument("--func", action="append", required=True)
    parser.add_argument("--outcome", default=Outcome.COMPLETED.name)
    parser.add_argument("--work-seconds", type=float, default=0.0)
    parser.add_argument("--max-retries", type=int, default=0)
    parser.add_argument("--retry-delay", type=int, default=0)
    parser.add_argument("--grab-for", type=int, default=GRAB_FOR_SECONDS)
    return parser.parse_args()


def _opening(database: str) -> Callable[[], Session]:
    charset, _, url = database.partition(" ")
    if url.startswith("sqlite:///"):
        return partial(SQLiteSession, Path(url.removeprefix("sqlite:///")))
    return partial(session_at, url, charset)


if __name__ == "__main__":
    _main()

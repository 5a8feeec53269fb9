"""Measures what a foreground load on the same MariaDB loses while `qudo-migrate run` goes. See docs/performance.md.

The load: connections that read and write single rows by primary key, one statement after the other without a pause,
which takes both cores of a small machine: the worst neighbour. A machine is never quiet: spans with the run and spans
in which it stands still (SIGSTOP) take turns, and the median of the pairs counts.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from ctypes import c_uint64
from pathlib import Path
from typing import Any

from redis import Redis

from tests.servers import MariaDBDatabase, RedisServer
from tests.servers.mariadb import session_at

QUEUE = "resque:queue:worker_mail"
#: Connections of the load, and rows of its table.
CONNECTIONS = 4
ROWS = 20_000
#: Pairs of spans, seconds of each span, and seconds until a run that has begun counts as at work.
PAIRS = 20
SPAN_SECONDS = 1.0
WARM_UP_SECONDS = 2.0

SETTINGS: dict[str, tuple[str, ...]] = {
    "unthrottled": (),
    "rate_500": ("--rate", "500/s"),
    "rate_2000": ("--rate", "2000/s"),
    "max_load_25": ("--max-load", "Threads_running=25"),
    "max_load_4": ("--max-load", "Threads_running=4"),
}


def measure(
    folder: Path, database: MariaDBDatabase, redis: RedisServer, settings: Sequence[str] = tuple(SETTINGS)
) -> dict[str, Any]:
    """Figures of one load beside runs in `folder` with each setting; `database` must have jobs enough."""
    _fill(database)
    with redis.client() as client, _load(database) as load:
        time.sleep(WARM_UP_SECONDS)
        return {f"gentle_{name}": _compared(folder, client, load, SETTINGS[name]) for name in settings}


def _compared(folder: Path, client: Redis, load: _Load, options: Sequence[str]) -> dict[str, float]:
    alone, together, moved, seconds = [], [], 0, 0.0
    with _running(folder, *options) as process:
        time.sleep(WARM_UP_SECONDS)
        for _ in range(PAIRS):
            jobs, began = _queued(client), time.monotonic()
            together.append(load.rate())
            process.send_signal(signal.SIGSTOP)
            moved += _queued(client) - jobs
            seconds += time.monotonic() - began
            alone.append(load.rate())
            process.send_signal(signal.SIGCONT)
    losses = [1 - with_run / without for with_run, without in zip(together, alone, strict=True)]
    return {
        "load_alone": round(statistics.median(alone)),
        "load_with_run": round(statistics.median(together)),
        "loss_percent": round(100 * statistics.median(losses), 1),
        "jobs_per_second": round(moved / seconds),
    }


def _queued(client: Redis) -> int:
    return int(client.llen(QUEUE))  # type: ignore[arg-type]


def _fill(database: MariaDBDatabase) -> None:
    database.execute("CREATE TABLE app (id INT PRIMARY KEY, n INT NOT NULL, note VARCHAR(200) NOT NULL) ENGINE=InnoDB")
    for start in range(0, ROWS, 1000):
        values = ", ".join(f"({number}, 0, REPEAT('x', 200))" for number in range(start, start + 1000))
        database.execute(f"INSERT INTO app VALUES {values}")


class _Load:
    def __init__(self, counts: Any) -> None:
        self._counts = counts

    def rate(self) -> float:
        """Statements a second over one span."""
        before, began = sum(self._counts), time.monotonic()
        time.sleep(SPAN_SECONDS)
        return float(sum(self._counts) - before) / (time.monotonic() - began)


@contextlib.contextmanager
def _load(database: MariaDBDatabase) -> Iterator[_Load]:
    context = multiprocessing.get_context("fork")
    counts = context.Array(c_uint64, CONNECTIONS, lock=False)
    processes = [
        context.Process(target=_work, args=(database.url, counts, place), daemon=True) for place in range(CONNECTIONS)
    ]
    for process in processes:
        process.start()
    try:
        yield _Load(counts)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(url: str, counts: Any, place: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    session = session_at(url, "utf8mb4")
    chosen = random.Random(place)
    while True:
        row = chosen.randrange(ROWS)
        if counts[place] % 4:
            session.rows(f"SELECT note FROM app WHERE id = {row}")
        else:
            session.execute(f"UPDATE app SET n = n + 1 WHERE id = {row}")
        counts[place] += 1


@contextlib.contextmanager
def _running(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "migrate", "run", *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    try:
        yield process
        assert process.poll() is None, "the run has ended before the measurement: more jobs are needed"
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        process.wait(60)

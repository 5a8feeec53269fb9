"""Measures how long a job enqueued in Qudo takes to Resque while `qudo-migrate follow` runs. See docs/follow.md."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from redis import Redis

from tests.qudo_app import enqueue, func_id
from tests.servers import RedisServer
from tests.servers.databases import Database
from tests.servers.waiting import wait_until

FUNC = "Worker::Follow"
QUEUE = "resque:queue:worker_follow"
#: Processes that enqueue.
PRODUCERS = 2


def produce(database: Database, jobs: int, rate: float) -> None:
    """Enqueue at an even rate, each job with the time at which that began in its arg."""
    session = database.session()
    began = time.monotonic()
    for number in range(jobs):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        enqueue(session, FUNC, json.dumps({"at": time.monotonic()}).encode())
    session.close()


def latencies(redis: Redis, jobs: int) -> list[float]:
    """Seconds from the begin of each enqueue to its pop by a worker that waits for it."""
    found: list[float] = []
    while len(found) < jobs:
        popped: Any = redis.blpop([QUEUE], timeout=10)
        if popped is None:
            sys.exit(f"follow has lost jobs: {len(found)} of {jobs} came")
        found.append(time.monotonic() - json.loads(popped[1])["args"][0]["at"])
    return sorted(found)


def spread(found: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
    return {"p50_ms": round(statistics.median(found) * 1000, 1), "p99_ms": round(p99 * 1000, 1)}


def measure(
    folder: Path, database: Database, redis: RedisServer, *, rest_jobs: int, jobs: int, rate: float
) -> dict[str, float]:
    """Figures of one `follow` that runs in `folder`: at rest, under load, and its statements when nothing comes."""
    func_id(database, FUNC)
    process = subprocess.Popen(
        [sys.executable, "-m", "migrate", "follow", "--until-idle", "1000"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    try:
        assert process.stderr is not None
        wait_until(lambda: "follows" in process.stderr.readline(), 30, "follow is ready")  # type: ignore[union-attr]
        time.sleep(4)
        statements = _statements_a_second(database, 10)
        figures = {"follow_idle_statements_a_second": round(statements, 1)}
        with redis.client() as client:
            for name, count, each in (("rest", rest_jobs, 5.0), ("load", jobs, rate)):
                found = _produced_and_popped(database, client, count, each)
                figures |= {f"follow_{name}_{key}": value for key, value in spread(found).items()}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    return figures


def _produced_and_popped(database: Database, client: Redis, jobs: int, rate: float) -> list[float]:
    share, left = divmod(jobs, PRODUCERS)
    context = multiprocessing.get_context("fork")
    producers = [
        context.Process(target=produce, args=(database, share + (place < left), rate / PRODUCERS))
        for place in range(PRODUCERS)
    ]
    for producer in producers:
        producer.start()
    found = latencies(client, jobs)
    for producer in producers:
        producer.join()
    return found


def _statements_a_second(database: Database, seconds: float) -> float:
    """By the server's own count, this question's statements taken off."""
    query = "SHOW GLOBAL STATUS LIKE 'Questions'"
    before, began = int(database.rows(query)[0][1]), time.monotonic()
    time.sleep(seconds)
    after = int(database.rows(query)[0][1])
    return (after - before - 1) / (time.monotonic() - began)

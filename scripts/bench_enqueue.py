"""Measures what an enqueue costs against the bare statements, interleaved in one run. See docs/performance.md.

insert: Qudo's INSERT, on a connection that commits each statement; then one RPUSH; pair: SADD and RPUSH, as Resque's
clients push. All through the same drivers, kept connections and the same arg.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pymysql
import redis as redis_py
from sqlalchemy import make_url

from migrate import Enqueuer
from migrate.config import parse
from migrate.resque.steps import Step
from tests.integration.dualwriting import FUNC, put_step
from tests.servers import MariaDB, RedisServer
from tests.servers.command import toml

_INSERT = (
    "INSERT INTO job (func_id, arg, uniqkey, enqueue_time, grabbed_until, run_after, retry_cnt, priority)"
    " VALUES (%s, %s, %s, %s, 0, %s, 0, %s)"
)


def _p50_us(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median of each, called in turn and in an order that changes, so that what one leaves behind hits all."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 50):
        for name, run in random.sample(list(runs.items()), len(runs)):
            began = time.perf_counter()
            run()
            if number >= 50:
                took[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) * 1e6 for name, times in took.items()}


def measure(rounds: int = 3000, size: int = 200) -> dict[str, float]:
    """p50 in microseconds, and the ratios that docs/performance.md promises."""
    arg = {"user_id": 1, "code": "0123", "tags": ["a", "b", {"c": None}], "subject": "x" * max(0, size - 70)}
    with contextlib.ExitStack() as ends:
        mariadb = ends.enter_context(MariaDB())
        server = ends.enter_context(RedisServer())
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        database = mariadb.create_database("InnoDB")
        path = folder / "qudo-migrate.toml"
        path.write_text(toml({"main": database}, server, [{"func": "*", "serializer": "json"}], None))
        for func, step in (("Bench::Mirror", Step.MIRROR), (FUNC, Step.SWITCHED), ("Bench::Resque", Step.RESQUE)):
            put_step(server, step, func=func)
        jobs = ends.enter_context(Enqueuer(parse(path.read_text(), "bench", {})))
        bare = ends.enter_context(contextlib.closing(_connect(database.url)))
        client = redis_py.Redis(port=server.port)
        payload = b'{"class":"Worker::Mail","args":[{"user_id":1,"subject":"' + b"x" * size + b'"}]}'
        data = payload[:size]

        def insert() -> None:
            now = int(time.time())
            with bare.cursor() as cursor:
                cursor.execute(_INSERT, (1, data, None, now, now, 0))

        def both() -> None:
            insert()
            client.rpush("resque:queue:bench", payload)

        def pair() -> None:
            client.sadd("resque:queues", "bench")
            client.rpush("resque:queue:bench", payload)

        jobs.enqueue(FUNC, arg)  # binds the source
        found = _p50_us(
            {
                "insert": insert,
                "insert_then_rpush": both,
                "pair": pair,
                "qudo": lambda: jobs.enqueue("Bench::Qudo", arg),
                "mirror": lambda: jobs.enqueue("Bench::Mirror", arg),
                "switched": lambda: jobs.enqueue(FUNC, arg),
                "switched_keyed": _keyed(jobs, FUNC),
                "resque": lambda: jobs.enqueue("Bench::Resque", arg),
            },
            rounds,
        )
        client.close()
    found["qudo_to_insert"] = found["qudo"] / found["insert"]
    found["switched_to_both"] = found["switched"] / found["insert_then_rpush"]
    found["resque_to_pair"] = found["resque"] / found["pair"]
    return {name: round(value, 2) for name, value in found.items()}


def _connect(url: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    parts = make_url(url)
    return pymysql.connect(
        host=parts.host,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        database=parts.database,
        autocommit=True,
    )


def _keyed(jobs: Enqueuer, func: str) -> Callable[[], object]:
    numbers = iter(range(10**9))
    return lambda: jobs.enqueue(func, {"n": 1}, uniqkey=f"bench-{next(numbers)}")


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name.replace('_', ' '):24} {value}")

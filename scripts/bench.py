"""Measures the one-shot migration against two baselines in one run, on servers of its own. See docs/performance.md.

(a) `qudo-migrate run`, the whole process;  (b) the naive loop, a job at a time with Qudo's own statements and RPUSH;
(c) the limit with no safety at all: the database client's output piped into Redis.  Then, with the jobs that (a) moved:
(d) `qudo-migrate verify --expect-idle` of all;  (e) `qudo-migrate rollback` of 100,000, or all if there are fewer.
`--part verify`, `rollback` and `purge` measure that command alone, of all jobs, against `run` in the same run.
`--part follow` measures how fast single jobs cross while `qudo-migrate follow` runs: see docs/follow.md.
`--part work` measures the pool of workers against a loop of LPOP.
`--part gentle` measures what others on the same MariaDB lose meanwhile.
`--part serializers` measures MessagePack and Storable against JSON.
`--part curve` measures memory, rate and `plan` by the size of the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench_curve
import bench_follow
import bench_gentle
import bench_serializers
import bench_work

from tests.qudo_app.enqueueing import fill
from tests.qudo_app.worker import QudoWorker
from tests.servers import MariaDB, RedisServer
from tests.servers.command import toml
from tests.servers.databases import Database

FUNC = "Worker::Mail"
QUEUE = "resque:queue:worker_mail"


def arg_of(size: int) -> str:
    """A JSON arg of about so many bytes."""
    head = '{"user_id":{n},"code":"0123","tags":["a","b",{"c":null}],"subject":"'
    return head + "x" * max(0, size - len(head) - 4) + '"}'


def naive(database: Database, redis: RedisServer, jobs: int) -> float:
    """Seconds that a Qudo worker takes which pushes each job to Resque."""
    with redis.client() as client:

        def push(job: Any) -> None:
            client.rpush("naive:queue:worker_mail", b'{"class":"Worker::Mail","args":[' + job.arg + b"]}")

        worker = QudoWorker([database], [FUNC], work=push)
        started = time.perf_counter()
        done = 0
        while done < jobs:
            done += 1 if worker.work_once() else 0
        seconds = time.perf_counter() - started
        client.delete("naive:queue:worker_mail")
    return seconds


def pipe(mariadb: MariaDB, database: Database, redis: RedisServer) -> float:
    """Seconds of the database client's output going straight into Redis."""
    payload = 'CONCAT(\'{"class":"Worker::Mail","args":[\', arg, \']}\')'
    command = "'*3\\r\\n$5\\r\\nRPUSH\\r\\n$4\\r\\npipe\\r\\n$'"
    query = f"SELECT CONCAT({command}, LENGTH({payload}), '\\r\\n', {payload}, '\\r') FROM job"
    account, name = database.account, database.name  # type: ignore[attr-defined]
    client = ["mariadb", "-q", "-N", "-B", "-r", "-h127.0.0.1", f"-P{mariadb.port}", f"-u{account.user}"]
    started = time.perf_counter()
    source = subprocess.Popen(
        [*client, f"-p{account.password}", "--default-character-set=binary", name, "-e", query], stdout=subprocess.PIPE
    )
    subprocess.run(["redis-cli", "-p", str(redis.port), "--pipe"], stdin=source.stdout, check=True, capture_output=True)
    source.wait()
    seconds = time.perf_counter() - started
    with redis.client() as connection:
        assert connection.llen("pipe") == database.count("job"), "the pipe has lost rows"
        connection.delete("pipe")
    return seconds


class Measured(NamedTuple):
    """What a command took, and what it said."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    document: dict[str, Any]


def run(folder: Path, *command: str) -> Measured:
    """Run `qudo-migrate … --json` as a process of its own; it must end well."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "migrate", *command, "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}: {output.decode()[:500]}")
    seconds = time.perf_counter() - started
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, json.loads(output))


def roll_back(folder: Path, database: Database, jobs: int) -> tuple[int, Measured]:
    """Roll back so many jobs, of a func of their own; how many it was, and what it took."""
    fill(database, jobs, func="Worker::Back", arg=arg_of(200))
    run(folder, "run")
    measured = run(folder, "rollback", "--func", "Worker::Back")
    returned = measured.document["sources"][0]["returned"]
    assert returned == jobs == database.count("job"), "the rollback has lost jobs"
    return returned, measured


#: The field of a command's result that counts what it has done.
DONE = {"rollback": "returned", "purge": "purged"}
#: What can be measured after a run, and the command that is measured.
AFTER_RUN = {
    "verify": ("verify", "--expect-idle"),
    "rollback": ("rollback",),
    "purge": ("purge", "--older-than", "0"),
}


def measure_after_run(options: argparse.Namespace, part: str, command: tuple[str, ...]) -> dict[str, Any]:
    """One command over all jobs that a run has moved; both are whole processes on the same servers."""
    with MariaDB() as mariadb, RedisServer() as redis, tempfile.TemporaryDirectory() as name:
        database = mariadb.create_database(options.engine)
        fill(database, options.jobs, arg=arg_of(options.bytes), priorities=3)
        folder = Path(name)
        folder.joinpath("qudo-migrate.toml").write_text(toml({"main": database}, redis, (), None))
        moved = run(folder, "run")
        measured = run(folder, *command)
        document = measured.document
        done = document["totals"]["queued"] if part == "verify" else document["sources"][0][DONE[part]]
        assert done == options.jobs, f"{part} has met {done} of {options.jobs} jobs: {document['sources'][0]}"
    return {
        "data": f"{options.jobs:,} jobs, JSON args of {options.bytes} bytes, {options.engine}",
        "run_jobs_per_second": round(options.jobs / moved.seconds),
        f"{part}_jobs_per_second": round(options.jobs / measured.seconds),
        f"{part}_to_run": round(moved.seconds / measured.seconds, 2),
        f"{part}_cpu_us_per_job": round(measured.cpu_seconds / options.jobs * 1e6, 1),
        f"{part}_peak_megabytes": round(measured.peak_bytes / 1e6),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--part",
        choices=("run", "verify", "rollback", "purge", "follow", "work", "gentle", "curve", "serializers", "all"),
        default="run",
    )
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000], help="of the curve")
    parser.add_argument("--naive-jobs", type=int, default=2_000)
    parser.add_argument("--bytes", type=int, default=200, help="of each arg")
    parser.add_argument("--engine", choices=("InnoDB", "MyISAM"), default="InnoDB")
    parser.add_argument("--follow-jobs", type=int, default=10_000)
    parser.add_argument("--follow-rate", type=float, default=500, help="jobs a second")
    parser.add_argument("--rest-jobs", type=int, default=100, help="five a second, while nothing else happens")
    parser.add_argument("--work-jobs", type=int, default=5_000, help="with a fork each; three times as many else")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    }
    if options.part in ("run", "all"):
        figures |= measure_run(options)
    if options.part in ("follow", "all"):
        figures |= measure_follow(options)
    if options.part in AFTER_RUN:
        figures |= measure_after_run(options, options.part, AFTER_RUN[options.part])
    if options.part in ("work", "all"):
        with tempfile.TemporaryDirectory() as name:
            figures |= bench_work.measure(Path(name), jobs=options.work_jobs)
    if options.part in ("gentle", "all"):
        figures |= measure_gentle(options)
    if options.part in ("serializers", "all"):
        figures |= bench_serializers.measure(options.jobs, options.bytes, options.engine, run)
    if options.part == "curve":
        curve = bench_curve.measure(options.sizes, arg_of(options.bytes), options.engine, run)
        figures |= curve
        print(*bench_curve.plot(curve), sep="\n")
    for key, value in figures.items():
        print(f"{key.replace('_', ' '):50} {value}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


def measure_follow(options: argparse.Namespace) -> dict[str, float]:
    """How fast single jobs cross."""
    with MariaDB() as mariadb, RedisServer() as redis, tempfile.TemporaryDirectory() as name:
        database = mariadb.create_database(options.engine)
        folder = Path(name)
        folder.joinpath("qudo-migrate.toml").write_text(toml({"main": database}, redis, (), None))
        return bench_follow.measure(
            folder, database, redis, rest_jobs=options.rest_jobs, jobs=options.follow_jobs, rate=options.follow_rate
        )


def measure_gentle(options: argparse.Namespace) -> dict[str, Any]:
    """What others lose while a run goes, by setting."""
    with MariaDB() as mariadb, RedisServer() as redis, tempfile.TemporaryDirectory() as name:
        database = mariadb.create_database(options.engine)
        fill(database, options.jobs, arg=arg_of(options.bytes), priorities=3)
        folder = Path(name)
        folder.joinpath("qudo-migrate.toml").write_text(toml({"main": database}, redis, (), None))
        return bench_gentle.measure(folder, database, redis)


def measure_run(options: argparse.Namespace) -> dict[str, Any]:
    """The one-shot migration and its baselines."""
    with MariaDB() as mariadb, RedisServer() as redis, tempfile.TemporaryDirectory() as name:
        database = mariadb.create_database(options.engine)
        fill(database, options.jobs + options.naive_jobs, arg=arg_of(options.bytes), priorities=3)
        folder = Path(name)
        folder.joinpath("qudo-migrate.toml").write_text(toml({"main": database}, redis, (), None))
        naive_rate = options.naive_jobs / naive(database, redis, options.naive_jobs)
        pipe_rate = options.jobs / pipe(mariadb, database, redis)
        moved = run(folder, "run")
        with redis.client() as client:
            assert client.llen(QUEUE) == options.jobs, "the run has lost jobs"
            ledger = sum(client.memory_usage(key) or 0 for key in client.scan_iter("resque:qudo_migrate:ledger:*"))
        verified = run(folder, "verify", "--expect-idle")
        assert verified.document["totals"]["queued"] == options.jobs, "verify has not found all jobs"
        returned, rolled_back = roll_back(folder, database, min(options.jobs, 100_000))
    rate = options.jobs / moved.seconds
    return {
        "data": f"{options.jobs:,} jobs, JSON args of {options.bytes} bytes, {options.engine}",
        "run_jobs_per_second": round(rate),
        "naive_jobs_per_second": round(naive_rate),
        "pipe_jobs_per_second": round(pipe_rate),
        "run_to_naive": round(rate / naive_rate, 1),
        "run_to_pipe": round(rate / pipe_rate, 3),
        "run_cpu_seconds": round(moved.cpu_seconds, 1),
        "run_peak_megabytes": round(moved.peak_bytes / 1e6),
        "ledger_bytes_per_job": round(ledger / options.jobs, 3),
        "verify_jobs_per_second": round(options.jobs / verified.seconds),
        "verify_to_run": round(moved.seconds / verified.seconds, 1),
        "verify_cpu_us_per_job": round(verified.cpu_seconds / options.jobs * 1e6, 1),
        "verify_peak_megabytes": round(verified.peak_bytes / 1e6),
        "rollback_jobs": returned,
        "rollback_seconds": round(rolled_back.seconds, 1),
        "rollback_peak_megabytes": round(rolled_back.peak_bytes / 1e6),
    }


if __name__ == "__main__":
    main()

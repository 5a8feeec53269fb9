"""Measures `qudo-migrate work`: jobs a second of one worker, latency of a new job, CPU. See docs/performance.md."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis

from tests.servers import RedisServer
from tests.servers.command import toml
from tests.servers.waiting import wait_until

#: How one worker runs jobs, and the name of its figures.
WAYS = {"fork_each": (), "jobs_per_fork_100": ("--jobs-per-fork", "100"), "no_fork": ("--no-fork",)}
QUEUE = "resque:queue:bench"
#: Seconds of the look at an idle pool.
IDLE_SECONDS = 10.0

APP = """
import os, time
from migrate import job

out = os.open("latencies", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@job("Bench::Nothing")
def nothing(arg):
    pass


@job("Bench::Latency")
def latency(arg):
    os.write(out, b"%.6f\\n" % (time.monotonic() - arg["at"]))
"""


def bare(redis: Redis, jobs: int, *, fork: bool = False) -> float:
    """Jobs a second of a loop that pops, decodes and does nothing: no note, no wall, and lost if it dies.

    `fork`: with a child for each job that ends at once: what a fork of a small process costs here.
    """
    fill(redis, jobs)
    began = time.perf_counter()
    for _ in range(jobs):
        text: Any = redis.lpop(QUEUE)
        json.loads(text)
        if fork:
            if (pid := os.fork()) == 0:
                os._exit(0)
            os.waitpid(pid, 0)
    return jobs / (time.perf_counter() - began)


def fill(redis: Redis, jobs: int) -> None:
    """So many jobs that do nothing, with args of 200 bytes."""
    text = json.dumps({"class": "Bench::Nothing", "args": [{"user_id": 7, "subject": "x" * 170}]})
    redis.sadd("resque:queues", "bench")
    for start in range(0, jobs, 1000):
        redis.rpush(QUEUE, *[text] * min(1000, jobs - start))


@contextlib.contextmanager
def pool(folder: Path, *options: str) -> Iterator[int]:
    """The pid of a pool of one worker that takes jobs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "migrate", "work", "--queues", "bench", "--app", "bench_jobs", *options],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    try:
        assert process.stderr is not None
        while "workers are ready" not in process.stderr.readline():
            if process.poll() is not None:
                sys.exit("the pool did not start")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def rate(redis: Redis, pid: int, jobs: int) -> tuple[float, float]:
    """Jobs a second, counted by Resque's own counter, and microseconds of CPU a job, of the pool and its children."""
    os.kill(pid, signal.SIGUSR2)
    time.sleep(0.5)
    fill(redis, jobs)
    before = processed(redis)
    began, cpu = time.perf_counter(), cpu_seconds(pid)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: processed(redis) == before + jobs, 300, "all are done")
    seconds = time.perf_counter() - began
    return jobs / seconds, (cpu_seconds(pid) - cpu) / jobs * 1e6


def processed(redis: Redis) -> int:
    """Resque's counter."""
    count: Any = redis.get("resque:stat:processed")
    return int(count or 0)


def latencies(redis: Redis, folder: Path, jobs: int) -> dict[str, float]:
    """Milliseconds from before the push of a job to its function, one at a time, on an idle worker."""
    path = folder / "latencies"
    path.write_text("")
    for _ in range(jobs):
        time.sleep(0.05)
        redis.rpush(QUEUE, json.dumps({"class": "Bench::Latency", "args": [{"at": time.monotonic()}]}))
    wait_until(lambda: path.read_text().count("\n") == jobs, 30, "all have run")
    found = sorted(float(line) * 1000 for line in path.read_text().splitlines())
    return {"p50_ms": round(statistics.median(found), 1), "p99_ms": round(found[int(jobs * 0.99)], 1)}


def cpu_seconds(pid: int) -> float:
    """Of a process and all that it has started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    used = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return used + sum(cpu_seconds(int(child)) for child in children)


def idle(pid: int) -> float:
    """Percent of one core."""
    time.sleep(1)
    before = cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    return round((cpu_seconds(pid) - before) / IDLE_SECONDS * 100, 2)


def measure(folder: Path, *, jobs: int) -> dict[str, Any]:
    """All figures, on a Redis of its own."""
    with RedisServer() as server, server.client() as redis:
        folder.joinpath("qudo-migrate.toml").write_text(toml({"main": "sqlite:////nowhere.db"}, server, (), None))
        folder.joinpath("bench_jobs.py").write_text(APP)
        loop = bare(redis, jobs * 3)
        figures: dict[str, Any] = {
            "work_bare_lpop_jobs_per_second": round(loop),
            "work_bare_lpop_and_fork_jobs_per_second": round(bare(redis, jobs, fork=True)),
        }
        for name, options in WAYS.items():
            with pool(folder, *options) as pid:
                found, cpu = rate(redis, pid, jobs if name == "fork_each" else jobs * 3)
                figures[f"work_{name}_jobs_per_second"] = round(found)
                figures[f"work_{name}_to_bare"] = round(found / loop, 3)
                figures[f"work_{name}_cpu_us_per_job"] = round(cpu)
                figures |= {f"work_{name}_{key}": value for key, value in latencies(redis, folder, 100).items()}
        with pool(folder, "--workers", "3") as pid:
            figures["work_idle_cpu_percent_3_workers_and_scheduler"] = idle(pid)
        with pool(folder, "--workers", "3", "--no-scheduler") as pid:
            figures["work_idle_cpu_percent_3_workers"] = idle(pid)
    return figures

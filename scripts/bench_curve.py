"""Measures what a migration costs as the table grows: memory, rate, plan, ledger, outbox. See docs/performance.md.

Each size has servers of its own. Memory is the highest resident set that the kernel has seen (VmHWM).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.qudo_app.enqueueing import fill
from tests.servers import MariaDB, MariaDBDatabase, RedisServer
from tests.servers.command import toml

QUEUE = "resque:queue:worker_mail"
FUNC = "Worker::Mail"
#: Width of the plot's bars, characters.
BAR = 40


def measure(sizes: Sequence[int], arg: str, engine: str, run: Callable[..., Any]) -> dict[str, Any]:
    """Figures by number of jobs. `run` runs `qudo-migrate` in a folder and says what that took."""
    return {f"curve_{size}": _size(size, arg, engine, run) for size in sizes}


def _size(jobs: int, arg: str, engine: str, run: Callable[..., Any]) -> dict[str, float]:
    with MariaDB() as mariadb, RedisServer() as redis, tempfile.TemporaryDirectory() as name:
        database = mariadb.create_database(engine)
        fill(database, jobs, arg=arg, priorities=3)
        fill(database, 10, func="Worker::Rare")
        folder = Path(name)
        folder.joinpath("qudo-migrate.toml").write_text(toml({"main": database}, redis, (), None))
        planned = run(folder, "plan")
        with redis.client() as client:
            before = int(client.info("memory")["used_memory"])
            moved = run(folder, "run", "--func", FUNC)
            assert client.llen(QUEUE) == jobs, "the run has lost jobs"
            after = int(client.info("memory")["used_memory"])
            ledger = sum(client.memory_usage(key) or 0 for key in client.scan_iter("resque:qudo_migrate:ledger:*"))
            payload = len(client.lindex(QUEUE, 0) or b"")
        return {
            "run_jobs_per_second": round(jobs / moved.seconds),
            "run_cpu_us_per_job": round(moved.cpu_seconds / jobs * 1e6, 1),
            "run_peak_megabytes": round(moved.peak_bytes / 1e6),
            "plan_seconds": round(planned.seconds, 2),
            "plan_peak_megabytes": round(planned.peak_bytes / 1e6),
            "ledger_bytes_per_job": round(ledger / jobs, 3),
            "redis_bytes_per_job": round((after - before) / jobs, 1),
            "payload_bytes": payload,
            "outbox_bytes_per_job": round(_file_bytes(mariadb, database, "qudo_migrate_outbox") / jobs),
        }


def _file_bytes(mariadb: MariaDB, database: MariaDBDatabase, table: str) -> int:
    """What a table takes on disk, its indexes too."""
    return sum(path.stat().st_size for path in (mariadb.folder / "data" / database.name).glob(f"{table}.*"))


def plot(figures: Mapping[str, Any]) -> list[str]:
    """Peak memory and rate by size, as text."""
    lines = []
    for key, unit in (("run_peak_megabytes", "MB"), ("run_jobs_per_second", "jobs/s"), ("plan_seconds", "s of plan")):
        most = max(each[key] for each in figures.values())
        for name, each in figures.items():
            bar = "█" * round(BAR * each[key] / most)
            lines.append(f"{int(name.removeprefix('curve_')):>12,} {bar} {each[key]:,} {unit}")
        lines.append("")
    return lines

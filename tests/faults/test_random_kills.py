"""A soak: migrators, and the servers under them, are killed at random instants.

`QUDO_MIGRATE_SOAK_KILLS=500` runs it long; `QUDO_MIGRATE_SOAK_SEED` repeats one choice of victims and delays.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import WriteConfig
from tests.faults.accounting import Books
from tests.integration.conftest import Run
from tests.qudo_app.worker_process import WorkerProcess
from tests.resque_app import Resque
from tests.servers import MariaDB, RedisServer
from tests.servers.command import Cli, RunningCommand

KILLS = int(os.environ.get("QUDO_MIGRATE_SOAK_KILLS", "14"))
SEED = int(os.environ.get("QUDO_MIGRATE_SOAK_SEED", str(time.time_ns())))

#: Kills after which one clean run must put everything right; then a new shop begins.
KILLS_PER_ROUND = 7
#: Seconds between the first sign of life of a run and the kill, at most.
LONGEST_DELAY_SECONDS = 0.4


@pytest.mark.timeout(120 + 10 * KILLS)
@pytest.mark.parametrize("engine", ["InnoDB", "MyISAM"])
def test_each_job_is_run_once_whatever_is_killed_whenever(
    engine: str, cli: Cli, run: Run, write_config: WriteConfig, tmp_path: Path
) -> None:
    chance = random.Random(f"{SEED} {engine}")
    killed: Counter[str] = Counter()
    jobs = number = fills = 0
    with MariaDB() as mariadb, RedisServer(appendfsync="always") as redis_server:
        while killed.total() < KILLS // 2:
            number += 1
            with contextlib.closing(mariadb.create_database(engine)) as database, contextlib.ExitStack() as stack:
                redis_server.client().flushall()
                write_config([database], redis_server)
                books = Books(database)
                # Workers that are alive can't be told from lost jobs before the end; servers die without them.
                workers = []
                if number % 2 == 0:
                    log = tmp_path / f"worker.{number}"
                    workers = [stack.enter_context(WorkerProcess([database], ["Worker::Mail"], log, work_seconds=0.05))]
                for _ in range(min(KILLS_PER_ROUND, KILLS // 2 - killed.total())):
                    books.fill(chance.randrange(50, 300), priorities=2)
                    fills += 1
                    books.fill(chance.randrange(5), "Worker::Keyed", uniqkey=f"{fills}-{{n}}")
                    victim = _victim(chance, engine, alone=not workers)
                    killed[victim] += _kill(victim, chance, cli, mariadb, redis_server)
                    books.use(redis_server.client())
                    if not workers:
                        books.check_safe()
                for worker in workers:
                    worker.stop()
                assert run().complete, f"seed {SEED}"
                assert not books.check_each_once([worker.ran for worker in workers]).job, f"seed {SEED}"
                jobs += len(books.enqueued)
    print(f"{engine}: {dict(killed)} killed, {jobs} jobs, seed {SEED}")


def _victim(chance: random.Random, engine: str, *, alone: bool) -> str:
    """MyISAM loses nothing only as long as its server lives, and Qudo's workers end with their server."""
    if not alone:
        return "migrator"
    return chance.choice(
        ["migrator", "migrator", "two migrators", "redis", "mariadb" if engine == "InnoDB" else "redis"]
    )


def _kill(victim: str, chance: random.Random, cli: Cli, mariadb: MariaDB, redis_server: RedisServer) -> int:
    """Let one or two migrators run and kill the victim. How many kills that was: a run may have ended before."""
    runs = [cli.start("run", "--json", "--batch-size", "10") for _ in range(2 if victim == "two migrators" else 1)]
    resque = Resque(redis_server.client())
    before = resque.length()
    with contextlib.suppress(AssertionError):  # it may end without
        runs[0].wait_until(lambda: resque.length() > before, 30, "it begins")
    time.sleep(chance.uniform(0.0, LONGEST_DELAY_SECONDS))
    if victim in ("migrator", "two migrators"):
        return sum(_kill_migrator(each) for each in runs)
    alive = runs[0].running
    server = mariadb if victim == "mariadb" else redis_server
    server.restart(graceful=False)
    ended = runs[0].wait()
    assert ended.status == 0, f"after {victim} was killed, seed {SEED}: {ended}"
    return alive


def _kill_migrator(running: RunningCommand) -> int:
    alive = running.running
    running.kill()
    return alive

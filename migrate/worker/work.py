"""The command `work`: looks at Redis, starts a pool."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable

import msgspec

from migrate.config import Config
from migrate.engine.reporters import Reporter
from migrate.engine.stopping import stop_on_signals
from migrate.errors import MigrateError
from migrate.notify import Notifier
from migrate.resque.target import Target
from migrate.worker import lineage
from migrate.worker.assigning import Assigner
from migrate.worker.fork_server import Template
from migrate.worker.functions import Registry
from migrate.worker.options import WorkOptions
from migrate.worker.performing import backtrace_of, name_of
from migrate.worker.pool import Pool, worker_body
from migrate.worker.scheduler import schedule
from migrate.worker.signals import Signals, let_come
from migrate.worker.slots import Slot
from migrate.worker.successor import TRIAL
from migrate.worker.telling import Telling
from migrate.worker.worker import Worker


class WorkResult(msgspec.Struct, frozen=True):
    """What `work --json` prints when it ends. Counts are those of workers that ended by themselves."""

    command: str
    done: int  #: attempts that went well
    failed: int  #: attempts that failed, retried ones too


def work(
    config: Config, wanted: WorkOptions, registry: Registry, template: Template | None, reporter: Reporter
) -> WorkResult:
    """Run a pool until it is told to stop. Raises the target's errors at the start. No template: jobs don't fork."""
    target = Target.open(config.target.url, config.target.namespace)
    try:
        target.check_usable()
    finally:
        target.close()  # workers have connections of their own
    if os.environ.get(TRIAL):
        return WorkResult("work", 0, 0)
    gc.collect()
    gc.freeze()  # or the first collection in each worker would copy all pages
    assigner = Assigner(config, registry)

    def one_worker(telling: Telling) -> int:
        connect = template.connect if template else None
        return _worker(config, wanted, assigner, reporter, telling, connect=connect, paused=pool.paused)

    def one_scheduler(telling: Telling) -> int:
        return _scheduler(config, reporter, telling)

    def the_signals() -> Signals:
        return pool.signals

    workers = [
        Slot(f"worker {number}", worker_body(the_signals, one_worker, signal.SIGQUIT))
        for number in range(1, wanted.workers + 1)
    ]
    scheduler = Slot("scheduler", worker_body(the_signals, one_scheduler, signal.SIGTERM))
    title = f"Pool of {wanted.workers} for {','.join(wanted.queues)}"
    others = [*([template] if template else []), *([scheduler] if wanted.scheduler else [])]
    pool = Pool(workers, others, reporter, Notifier.from_environment(), title)
    pool.run()
    done, failed = pool.counts()
    return WorkResult("work", done, failed)


def _worker(
    config: Config,
    wanted: WorkOptions,
    assigner: Assigner,
    reporter: Reporter,
    telling: Telling,
    *,
    connect: Callable[[], socket.socket] | None,
    paused: bool,
) -> int:
    target = Target.open(config.target.url, config.target.namespace)
    try:
        Worker(target, config, wanted, assigner, reporter, telling, connect=connect, paused=paused).run()
    except MigrateError as error:
        reporter.says(f"work: {error.message}")
        return error.exit_status
    except Exception as error:  # noqa: BLE001  without values, which a traceback's last line may show
        reporter.says(
            f"work: a bug of qudo-migrate: {name_of(error)} at {backtrace_of(error.__traceback__, with_ours=True)[:5]}"
        )
        return 70
    finally:
        telling.tell()
        target.close()
    return 0


def _scheduler(config: Config, reporter: Reporter, telling: Telling) -> int:
    lineage.set_title("Scheduler")
    telling.ready()
    try:
        with stop_on_signals() as stop:
            let_come()
            schedule(config.target, stop, reporter)
    except MigrateError as error:
        reporter.says(f"schedule: {error.message}")
        return error.exit_status
    return 0

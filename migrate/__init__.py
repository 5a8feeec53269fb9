"""qudo-migrate: moves jobs from Qudo (MySQL, MariaDB, SQLite) to Resque (Redis), each exactly once."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from migrate.dualwrite.async_enqueuer import AsyncEnqueuer as AsyncEnqueuer
    from migrate.dualwrite.enqueuer import Enqueuer as Enqueuer
    from migrate.dualwrite.receipt import Receipt as Receipt
    from migrate.errors import DuplicateJob as DuplicateJob
    from migrate.worker.functions import job as job
    from migrate.worker.retries import backoff as backoff
    from migrate.worker.running import Abort as Abort
    from migrate.worker.running import RunningJob as RunningJob
    from migrate.worker.running import current_job as current_job

__version__ = "0.1.0"

#: What apps import from here, and where it is: loaded when it is first asked for.
_PUBLIC = {
    "Abort": "migrate.worker.running",
    "AsyncEnqueuer": "migrate.dualwrite.async_enqueuer",
    "DuplicateJob": "migrate.errors",
    "Enqueuer": "migrate.dualwrite.enqueuer",
    "Receipt": "migrate.dualwrite.receipt",
    "RunningJob": "migrate.worker.running",
    "backoff": "migrate.worker.retries",
    "current_job": "migrate.worker.running",
    "job": "migrate.worker.functions",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)

"""A shop that still uses Qudo: its enqueues, its workers, its data, with exactly Qudo's statements."""

from tests.qudo_app.copying import copy_tables
from tests.qudo_app.enqueueing import enqueue, fill, func_id
from tests.qudo_app.fixtures import ExpectedJob, expected_jobs, load_fixture
from tests.qudo_app.rows import JobRow, job_ids, job_rows
from tests.qudo_app.worker import Outcome, QudoJob, QudoWorker, log_exception, retry_by_operator

__all__ = [
    "ExpectedJob",
    "JobRow",
    "Outcome",
    "QudoJob",
    "QudoWorker",
    "copy_tables",
    "enqueue",
    "expected_jobs",
    "fill",
    "func_id",
    "job_ids",
    "job_rows",
    "load_fixture",
    "log_exception",
    "retry_by_operator",
]

"""The job that runs now, as its function sees it. Knows no server."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Abort(Exception):
    """Raised by a job that must not be tried again: its failure is recorded and final."""


class RunningJob:
    """One attempt at one job.

    A function gets it for a parameter with the annotation `RunningJob`, anything else by `current_job()`.
    """

    def __init__(
        self,
        class_name: str,
        args: Sequence[Any],
        *,
        queue: str,
        payload: dict[str, Any],
        attempt: int = 1,
        max_retries: int = 0,
        timeout: float = 0.0,
    ) -> None:
        self.class_name = class_name
        self.args = args
        self.queue = queue  #: the one it was taken from
        self.payload = payload  #: all that Resque has of it, decoded
        self.attempt = attempt  #: 1 at first; each failure counts, those in Qudo too
        self.max_retries = max_retries
        self.timeout = timeout  #: seconds after which it is ended; 0: never

    @property
    def id(self) -> int | None:
        """Its id in Qudo; None for a job that never was in Qudo's `job` table."""
        return self._qudo("id", int)

    @property
    def source(self) -> str | None:
        """The Qudo database that it came from."""
        return self._qudo("source", str)

    @property
    def identity(self) -> str | None:
        """What names it for ever, `<batch>-<seq>`; None for a job that `qudo-migrate` has nothing to do with."""
        return self._qudo("outbox", str) or self._qudo("native", str)

    @property
    def uniqkey(self) -> str | None:
        """The key under which no second job could be enqueued."""
        return self._qudo("uniqkey", str)

    @property
    def priority(self) -> int:
        """Qudo's priority, which has chosen the queue; 0 unless one was given."""
        return self._qudo("priority", int) or 0

    @property
    def is_last(self) -> bool:
        """Whether a failure of this attempt is final."""
        return self.attempt > self.max_retries

    def abort(self, reason: str = "aborted") -> NoReturn:
        """End the job as a failure that is never tried again."""
        raise Abort(reason)

    def _qudo(self, name: str, kind: type[T]) -> T | None:
        ours = self.payload.get("qudo")
        value = ours.get(name) if isinstance(ours, dict) else None
        return value if isinstance(value, kind) else None


_current: ContextVar[RunningJob] = ContextVar("migrate_running_job")


def current_job() -> RunningJob:
    """The job that runs in this context. Raises LookupError outside of one."""
    try:
        return _current.get()
    except LookupError:
        raise LookupError("no job runs here: current_job() is for functions that a worker calls") from None


def enter(running: RunningJob) -> None:
    """Make it the job that runs in this context. For the worker."""
    _current.set(running)

"""Jobs in the worker's own process: no fork, no wall between the app and the worker, and a clock of the kernel's."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
from collections.abc import Callable
from types import FrameType

from migrate.worker.performing import Attempt, Outcome, Terminated, perform


class Inline:
    """Performs jobs one after the other in this process.

    A job that is over its time gets Terminated raised; one that doesn't end even so takes the worker with it, whose
    next one records the failure.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace = grace_seconds
        self._performs = False
        self._why = ""
        signal.signal(signal.SIGALRM, self._time_is_over)

    @property
    def server_pid(self) -> int:
        """There is none."""
        return 0

    def run(self, _text: bytes, attempt: Attempt, _meanwhile: Callable[[], float]) -> Outcome:
        """Perform one job."""
        timeout = attempt.running.timeout
        outcome: Outcome | None = None
        self._why = ""
        with contextlib.suppress(Terminated):  # it came when the job was over
            self._performs = True
            if timeout > 0:
                signal.setitimer(signal.ITIMER_REAL, timeout)
                faulthandler.dump_traceback_later(timeout + self._grace, exit=True, file=sys.stderr)
            outcome = perform(attempt)
            self._performs = False
        self._performs = False
        if timeout > 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
        if self._why and outcome and not outcome.done:
            kind = "TimedOut" if self._why.startswith("took") else "Killed"
            return Outcome(False, True, kind, self._why, outcome.backtrace, outcome.retry_delay)
        return outcome or Outcome(False, True, "Killed", self._why)

    def kill(self, why: str) -> None:
        """Raise Terminated inside the job that runs. Called by signal handlers."""
        if self._performs:
            self._why = why
            raise Terminated(why)

    def over(self) -> None:
        """Nothing is left of the job."""

    def close(self) -> None:
        """Nothing is left to end."""

    def _time_is_over(self, _number: int, _frame: FrameType | None) -> None:
        if self._performs:
            self._why = "took longer than its timeout"
            raise Terminated(self._why)

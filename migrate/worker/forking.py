"""Children that perform jobs, as their worker sees them: one for each job, or for some. A fork server forks them.

The next children are forked while a job runs: most of what a fork costs is paid by other cores meanwhile, and a job
that comes to an idle worker needn't wait for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable

from migrate.errors import ServerError
from migrate.worker import frames
from migrate.worker.child import encode, order_of, read_outcome
from migrate.worker.fork_link import Child, ForkLink, ServerGone
from migrate.worker.performing import Attempt, Outcome
from migrate.worker.signals import Signals

#: Children that wait for a job: two keep two cores busy with short jobs, a third gains little (measured).
SPARES = 2
#: Seconds between two looks at a child that answers no more and has not ended; they double.
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.001, 0.1


class Forking:
    """Performs each job in a child of its own, or up to `jobs_per_fork` in one after the other."""

    def __init__(
        self, jobs_per_fork: int, connect: Callable[[], socket.socket], signals: Signals, grace_seconds: float
    ) -> None:
        """`connect` reaches a new fork server; `grace_seconds` stand between TERM and KILL. Raises ServerError."""
        self._jobs_per_fork = jobs_per_fork
        self._connect = connect
        self._signals = signals
        self._grace = grace_seconds
        self._server = self._new_server()
        self._child: Child | None = None
        self._given = 0
        self._killed = ""

    @property
    def server_pid(self) -> int:
        """The process that ends after this one, and with it what runs."""
        return self._server.pid

    def run(self, text: bytes, attempt: Attempt, meanwhile: Callable[[], float]) -> Outcome:
        """Perform one job. `meanwhile` is called after each wait, and returns how long the next may be, in seconds."""
        child = self._child
        if child is None or child.has_spoken():  # it has died while it waited
            child = self._next_child()
        self._given += 1
        frames.send(child.fd, encode(order_of(text, attempt)))
        if self._killed:  # the signal came before there was a child
            _kill(child.pid, signal.SIGKILL)
        if self._given >= self._jobs_per_fork:
            with contextlib.suppress(ServerGone):  # seen when the next child is needed
                self._server.prepare(SPARES)
        return self._await(child, attempt.running.timeout, meanwhile)

    def over(self) -> None:
        """A kill that came too late for the job that ran must not meet the next one."""
        self._killed = ""

    def kill(self, why: str) -> None:
        """End the job that runs at once; its outcome tells why. Called by signal handlers."""
        self._killed = why
        if self._child is not None:
            _kill(self._child.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the children that wait for a job, and the fork server."""
        if self._child is not None:
            self._part(self._child)
        with contextlib.suppress(ServerGone):
            self._server.end()
        self._server.close()

    def _new_server(self) -> ForkLink:
        try:
            server = ForkLink(self._connect())
            server.prepare(1)
        except ServerGone:
            raise ServerError("no fork server can be had: its template has ended") from None
        return server

    def _next_child(self) -> Child:
        if self._child is not None:
            self._part(self._child)
        try:
            child = self._server.child()
        except ServerGone:  # it was killed, and its children with it
            self._server.close()
            self._server = self._new_server()
            return self._next_child()
        self._child, self._given = child, 0
        return child

    def _await(self, child: Child, timeout: float, meanwhile: Callable[[], float]) -> Outcome:
        limit = time.monotonic() + timeout
        ends = [(limit, signal.SIGTERM), (limit + self._grace, signal.SIGKILL)] if timeout > 0 else []
        late = False
        poll = select.poll()
        poll.register(child.fd, select.POLLIN)
        poll.register(self._signals.wake_fd, select.POLLIN)
        look = 0.0  # it has closed its end: it has died, or is about to, or runs on without a word
        while True:
            pause = meanwhile()
            if ends:
                pause = min(pause, max(0.0, ends[0][0] - time.monotonic()))
            ready = [fd for fd, _ in poll.poll((min(pause, look) if look else pause + 0.001) * 1000)]
            if self._signals.wake_fd in ready:
                self._signals.drain()
            if child.fd in ready:
                answer = frames.receive(child.fd)
                if answer is not None:
                    return self._answered(child, answer, timeout if late else 0.0)
                poll.unregister(child.fd)
                look = FIRST_LOOK_SECONDS
            elif not ready and (ended := self._ended(child)) is not None:
                # Something that it has started may hold its end of the socket.
                return self._died(child, ended, timeout if late else 0.0)
            elif look:
                look = min(look * 2, LONGEST_LOOK_SECONDS)
            while ends and time.monotonic() >= ends[0][0]:
                late = True
                _kill(child.pid, ends.pop(0)[1])

    def _answered(self, child: Child, answer: bytes, timed_out_seconds: float) -> Outcome:
        outcome = read_outcome(answer)
        # A child that is late may have been told to end just after it had answered: no more jobs for it.
        if self._given >= self._jobs_per_fork or timed_out_seconds:
            self._part(child)
        if timed_out_seconds and not outcome.done:
            return _timed_out(timed_out_seconds, outcome)
        return outcome

    def _died(self, child: Child, how: str, timed_out_seconds: float) -> Outcome:
        self._part(child)
        if timed_out_seconds:
            return _timed_out(timed_out_seconds, None)
        return Outcome(False, True, "Killed" if self._killed else "DirtyExit", self._killed or how)

    def _ended(self, child: Child) -> str | None:
        """How it has ended, for people; None while it runs."""
        try:
            status = self._server.status(child)
        except ServerGone:
            _kill(child.pid, signal.SIGKILL)  # as the kernel does, perhaps an instant later
            return "the worker's fork server was killed, and the job's process with it"
        return None if status is None else _how_it_ended(status)

    def _part(self, child: Child) -> None:
        """It gets no more jobs. It may take its time to end: a millisecond is a lot here."""
        self._child = None  # before its pid may be another's: a handler of signals may come in between
        os.close(child.fd)
        self._server.leave(child.pid)


def _timed_out(seconds: float, outcome: Outcome | None) -> Outcome:
    trace = outcome.backtrace if outcome else None
    delay = outcome.retry_delay if outcome else None
    return Outcome(False, True, "TimedOut", f"took longer than {seconds:g} s", trace, delay)


def _kill(pid: int, number: signal.Signals) -> None:
    """To the child and all that it has started; in its first moments it has no group of its own yet."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"the job's process exited with status {status}"
    with contextlib.suppress(ValueError):
        return f"the job's process was killed by {signal.Signals(-status).name}"
    return f"the job's process was killed by signal {-status}"

"""Children that perform jobs: one for each job, or for some. They know no Redis; outcomes come back over a socket."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import msgspec

from migrate.worker import lineage
from migrate.worker.performing import Attempt, Outcome, Terminated, perform
from migrate.worker.signals import Signals

_LENGTH = struct.Struct("!I")
_encode = msgspec.msgpack.encode


class Order(msgspec.Struct, frozen=True, array_like=True):
    """One job on its way to a child that has performed others before."""

    queue: str
    text: bytes


#: Made once: a decoder for each message would cost a child a tenth of a job (seen).
_read_order = msgspec.msgpack.Decoder(Order).decode
_read_outcome = msgspec.msgpack.Decoder(Outcome).decode


class Child(NamedTuple):
    """A child that lives, as its worker sees it."""

    pid: int
    socket: socket.socket


class Forking:
    """Performs each job in a child of its own, or up to `jobs_per_fork` in one after the other.

    The next child is forked while the last job of the one before runs: most of what a fork costs is paid by the other
    cores meanwhile, and a job that comes to an idle worker needn't wait for it.
    """

    def __init__(
        self,
        jobs_per_fork: int,
        prepare: Callable[[Order], Attempt],
        signals: Signals,
        grace_seconds: float,
    ) -> None:
        """`prepare` makes of an order what a child performs; `grace_seconds` stand between TERM and KILL."""
        self._jobs_per_fork = jobs_per_fork
        self._prepare = prepare
        self._signals = signals
        self._grace = grace_seconds
        self._child: Child | None = None
        self._spare: Child | None = None
        self._leaving: list[int] = []  #: pids of children that have answered their last job
        self._given = 0
        self._killed = ""

    def run(self, order: Order, attempt: Attempt, meanwhile: Callable[[], float]) -> Outcome:
        """Perform one job. `meanwhile` is called after each wait, and returns how long the next may be, in seconds."""
        if self._child is None or _is_readable(self._child.socket):  # readable: it has died while it waited
            self._next_child()
        child = self._child
        assert child is not None  # noqa: S101
        self._given += 1
        self._send(child.socket, _encode(order))
        if self._killed:  # the signal came before there was a child
            _kill(child.pid, signal.SIGKILL)
        if self._given >= self._jobs_per_fork and self._spare is None:
            self._spare = self._fork()
        return self._await(child, attempt.running.timeout, meanwhile)

    def over(self) -> None:
        """A kill that came too late for the job that ran must not meet the next one."""
        self._killed = ""

    def _next_child(self) -> None:
        if self._child is not None:
            self._part(self._child, at_once=True)
        spare, self._spare = self._spare, None
        if spare is not None and _is_readable(spare.socket):
            _end(spare)
            spare = None
        self._child, self._given = spare or self._fork(), 0

    def kill(self, why: str) -> None:
        """End the job that runs at once; its outcome tells why. Called by signal handlers."""
        self._killed = why
        if self._child is not None:
            _kill(self._child.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the children that wait for a job."""
        for child in (self._child, self._spare):
            if child is not None:
                _end(child)
        self._child = self._spare = None
        for pid in self._leaving:
            os.waitpid(pid, 0)
        self._leaving = []

    def _await(self, child: Child, timeout: float, meanwhile: Callable[[], float]) -> Outcome:
        limit = time.monotonic() + timeout
        ends = [(limit, signal.SIGTERM), (limit + self._grace, signal.SIGKILL)] if timeout > 0 else []
        late = False
        poll = select.poll()
        poll.register(child.socket, select.POLLIN)
        poll.register(self._signals.wake_fd, select.POLLIN)
        while True:
            pause = meanwhile()
            if ends:
                pause = min(pause, max(0.0, ends[0][0] - time.monotonic()))
            ready = poll.poll(pause * 1000 + 1)
            if any(fd == self._signals.wake_fd for fd, _ in ready):
                self._signals.drain()
            if any(fd == child.socket.fileno() for fd, _ in ready):
                break
            if not ready and _has_ended(child.pid):
                break  # and something that it has started holds its end of the socket
            while ends and time.monotonic() >= ends[0][0]:
                late = True
                _kill(child.pid, ends.pop(0)[1])
        return self._outcome(child, timeout if late else 0.0)

    def _outcome(self, child: Child, timed_out_seconds: float) -> Outcome:
        child.socket.settimeout(None if _is_readable(child.socket) else 0)
        answer = _receive(child.socket)
        over = answer is None or self._given >= self._jobs_per_fork
        status = self._part(child, at_once=answer is None) if over else 0
        outcome = _read_outcome(answer) if answer is not None else None
        if timed_out_seconds and not over:
            self._part(child, at_once=True)  # it may have been told to end just after it had answered
        if timed_out_seconds and not (outcome and outcome.done):
            trace = outcome.backtrace if outcome else None
            delay = outcome.retry_delay if outcome else None
            return Outcome(False, True, "TimedOut", f"took longer than {timed_out_seconds:g} s", trace, delay)
        if outcome is not None:
            return outcome
        return Outcome(False, True, "Killed" if self._killed else "DirtyExit", self._killed or _how_it_ended(status))

    def _part(self, child: Child, *, at_once: bool) -> int:
        """The status of a child that ends now. One that has answered may take its time: a millisecond is a lot here."""
        self._child, self._given = None, 0
        if at_once:
            return _end(child)
        child.socket.close()
        self._leaving = [pid for pid in [*self._leaving, child.pid] if not os.waitpid(pid, os.WNOHANG)[0]]
        return 0

    @staticmethod
    def _send(to: socket.socket, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # it has died: its end is read next
            to.sendall(_LENGTH.pack(len(frame)) + frame)

    # --- in the child ----------------------------------------------------------------------------------------------

    def _fork(self) -> Child:
        ours, childs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            childs.close()
            return Child(pid, ours)
        status = 1
        try:
            ours.close()
            if self._child is not None:
                self._child.socket.close()  # or the one before could not see its worker go
            self._signals.become_childs(_heed)
            lineage.die_with_parent(signal.SIGKILL, parent)
            lineage.set_title("Waiting for a job of its worker")
            os.setpgid(0, 0)  # so that a kill reaches what the job has started, and Ctrl-C doesn't reach the job
            self._serve(childs)
            status = 0
        except BrokenPipeError:
            pass
        finally:
            _leave(status)

    def _serve(self, worker: socket.socket) -> None:
        for _ in range(self._jobs_per_fork):
            order = _receive(worker)
            if order is None:
                return
            attempt = self._prepare(_read_order(order))
            running = attempt.running
            lineage.set_title(f"Processing {running.queue} since {int(time.time())} [{running.class_name}]")
            outcome = perform(attempt)
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            self._send(worker, _encode(outcome))


def _heed(number: signal.Signals) -> None:
    """What a child does with signals: TERM ends its job, all else is its worker's business."""
    if number is signal.SIGTERM:
        raise Terminated("the job was told to end")


def _end(child: Child) -> int:
    child.socket.close()
    _, status = os.waitpid(child.pid, 0)
    return os.waitstatus_to_exitcode(status)


def _leave(status: int) -> NoReturn:
    """Without the clean-up that belongs to the worker: its connections, its atexit functions."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _receive(source: socket.socket) -> bytes | None:
    """One frame; None when the other side has ended."""
    head = _exactly(source, _LENGTH.size)
    return None if head is None else _exactly(source, _LENGTH.unpack(head)[0])


def _exactly(source: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = source.recv(min(size - len(parts), 1 << 20))
        except OSError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)


def _is_readable(source: socket.socket) -> bool:
    return bool(select.select([source], [], [], 0)[0])


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


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

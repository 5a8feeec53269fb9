"""The prefork pool: keeps its workers alive, forwards signals, restarts gracefully, tells systemd.

The app is imported once, here, so that all workers share it; a worker that is replaced between two deployments gets
the code of the first. HUP tries the new code in a process of its own, then puts it in this one's place (exec keeps the
pid and the children), and each new worker that is ready relieves an old one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from migrate.engine.reporters import Reporter
from migrate.notify import Notifier
from migrate.worker import lineage, successor
from migrate.worker.signals import Signals, hold_back
from migrate.worker.slots import Slot
from migrate.worker.successor import TRIAL, Legacy, OldWorker
from migrate.worker.telling import Heard

#: Seconds that a trial may take.
TRIAL_SECONDS = 60.0
#: Seconds between two lines for `systemctl status`.
STATUS_SECONDS = 5.0

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
_HANDLED = (*_STOPS, *_PASSED_ON, signal.SIGHUP, signal.SIGCHLD)


class Pool:
    """Runs until it is told to stop. Main thread only."""

    def __init__(
        self, workers: Sequence[Slot], others: Sequence[Slot], reporter: Reporter, notifier: Notifier, title: str
    ) -> None:
        """`others`: processes beside the workers that know TERM only."""
        self._workers = workers
        self._others = others
        self._slots = [*others, *workers]
        self._reporter = reporter
        self._notifier = notifier
        self._title = title
        legacy = successor.take()
        #: Whether new workers begin without taking jobs.
        self.paused = legacy.paused
        self._old = {worker.pid: successor.hear(worker) for worker in legacy.workers}
        self._old_others = list(legacy.others)
        self._done, self._failed = legacy.done, legacy.failed  # of workers that are gone
        self._received: list[signal.Signals] = []
        self._stopping: signal.Signals | None = None
        self._terms = 0
        self._trial: subprocess.Popen[bytes] | None = None
        self._trial_until = 0.0
        self._told_ready = False
        self._status_at = self._watchdog_at = float("-inf")
        self.signals = Signals(_HANDLED, self._received.append)

    def run(self) -> None:
        """Returns when all processes have ended after a signal."""
        lineage.set_title(self._title)
        while True:
            self._obey()
            self._reap()
            if self._stopping and not any(slot.pid for slot in self._slots) and not self._old and not self._old_others:
                return
            self._start()
            self._relieve()
            self._reload()
            self._tell()
            self._sleep()

    # --- its processes ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._stopping:
            return
        for slot in self._slots:
            if not slot.pid and time.monotonic() >= slot.next_start:
                slot.start()

    def _reap(self) -> None:
        for slot in self._slots:
            how = slot.reap()
            if how is None or (self._stopping and how.endswith("status 0")):
                continue
            pause = slot.next_start - time.monotonic()
            again = "" if self._stopping else f"; another starts {f'in {pause:.1f} s' if pause > 0 else 'now'}"
            self._reporter.says(f"work: {slot.name} {how}{again}")
        for pid, heard in list(self._old.items()):
            runs = _runs(pid)
            if heard is not None:
                heard.read()  # after it has ended: its last line
            if not runs:
                self._count(heard)
                del self._old[pid]
        self._old_others = [pid for pid in self._old_others if _runs(pid)]

    def _count(self, heard: Heard | None) -> None:
        if heard is not None:
            self._done, self._failed = self._done + heard.done, self._failed + heard.failed
            heard.close()

    def _relieve(self) -> None:
        """After a restart: an old worker goes for each new one that is there."""
        if not self._old or self._stopping:
            return
        waiting = sum(1 for slot in self._workers if not slot.ready)
        for pid in list(self._old)[: max(0, len(self._old) - waiting)]:
            _send(pid, signal.SIGQUIT)

    # --- signals ---------------------------------------------------------------------------------------------------

    def _obey(self) -> None:
        while self._received:
            number = self._received.pop(0)
            if number in _STOPS:
                self._stop(number)
            elif number in _PASSED_ON:
                self._pass_on(number)
            elif number is signal.SIGHUP:
                self._try_new_code()

    def _stop(self, number: signal.Signals) -> None:
        if number is not signal.SIGQUIT:
            self._terms += 1
        if self._terms >= 2:
            self._reporter.says("work: stops at once")
            number = signal.SIGKILL
        elif self._stopping is None:
            graceful = number is signal.SIGQUIT
            self._reporter.says(
                f"work: stops, {'jobs in hand are finished' if graceful else 'jobs in hand are killed'}"
            )
            self._notifier.stopping()
        self._stopping = number
        for slot in self._workers:
            slot.send(number)
        for slot in self._others:
            slot.send(signal.SIGKILL if number is signal.SIGKILL else signal.SIGTERM)
        for pid in self._old:
            _send(pid, number)

    def _pass_on(self, number: signal.Signals) -> None:
        if number is not signal.SIGUSR1:
            self.paused = number is signal.SIGUSR2
            self._reporter.says(f"work: {'pauses: takes no new jobs' if self.paused else 'goes on'}")
        for slot in self._workers:
            slot.send(number)
        for pid in self._old:
            _send(pid, number)

    # --- a graceful restart ----------------------------------------------------------------------------------------

    def _try_new_code(self) -> None:
        if self._stopping:
            return
        if self._trial is not None:  # newer code yet
            self._trial.kill()
            self._trial.wait()
        self._notifier.reloading()
        self._reporter.says("work: tries the new code")
        self._trial_until = time.monotonic() + TRIAL_SECONDS
        self._trial = subprocess.Popen(
            _own_command(), env={**os.environ, TRIAL: "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    def _reload(self) -> None:
        if self._trial is None:
            return
        status = self._trial.poll()
        if status is None and time.monotonic() < self._trial_until:
            return
        if status is None:
            self._trial.kill()
            self._trial.wait()
        self._trial = None
        if self._stopping:
            return
        if status != 0:
            self._reporter.says("work: the new code failed its trial: the old workers go on")
            self._notifier.ready()
            return
        self._replace()

    def _replace(self) -> None:
        """Become the new code, with all children."""
        self._reporter.says("work: restarts with the new code")
        self._reporter.close()
        for slot in self._others:
            slot.send(signal.SIGTERM)
        hold_back()  # until the new code has its handlers
        workers = [(slot.pid, slot.heard) for slot in self._workers if slot.pid] + list(self._old.items())
        done, failed = self._done, self._failed
        for slot in self._workers:
            done, failed = done + slot.done, failed + slot.failed
        successor.leave(
            Legacy(
                tuple(OldWorker(pid, heard.fd if heard else -1) for pid, heard in workers),
                tuple([slot.pid for slot in self._others if slot.pid] + self._old_others),
                self.paused,
                done,
                failed,
            )
        )
        command = _own_command()
        os.execv(command[0], command)  # noqa: S606  its own command

    # --- telling, waiting ------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        now = time.monotonic()
        if not self._told_ready and all(slot.ready for slot in self._slots) and not self._stopping:
            self._told_ready = True
            self._status_at = float("-inf")
            self._notifier.ready()
            self._reporter.says(f"work: {len(self._workers)} workers are ready")
        seconds = self._notifier.watchdog_seconds
        if seconds is not None and now - self._watchdog_at >= seconds / 3:
            self._watchdog_at = now
            self._notifier.watchdog()
        if now - self._status_at >= STATUS_SECONDS:
            self._status_at = now
            done, failed = self.counts()
            there = sum(1 for slot in self._workers if slot.ready)
            self._notifier.status(f"{there} of {len(self._workers)} workers; {done} jobs done, {failed} failures")

    def counts(self) -> tuple[int, int]:
        """Attempts that went well and that failed, of all workers."""
        counts = [slot.counts() for slot in self._workers]
        counts += [(heard.done, heard.failed) for heard in self._old.values() if heard is not None]
        return self._done + sum(done for done, _ in counts), self._failed + sum(failed for _, failed in counts)

    def _sleep(self) -> None:
        now = time.monotonic()
        pause = STATUS_SECONDS
        if self._notifier.watchdog_seconds is not None:
            pause = min(pause, self._notifier.watchdog_seconds / 3)
        starts = [slot.next_start - now for slot in self._slots if not slot.pid and not self._stopping]
        pause = max(0.0, min([pause, *starts]))
        poll = select.poll()
        poll.register(self.signals.wake_fd, select.POLLIN)
        heard = {slot.heard.fd: slot.heard for slot in self._slots if slot.heard is not None}
        for fd in heard:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(pause * 1000 + 1):
            if fd in heard and not heard[fd].read():
                time.sleep(0.001)  # its process ends this instant
        self.signals.drain()


def worker_body(
    signals: Callable[[], Signals], work: Callable[..., int], dies_by: signal.Signals
) -> Callable[..., int]:
    """What a child of the pool does first: forget the pool's signals, and follow it when it dies."""
    parent = os.getpid()

    def body(telling: object) -> int:
        signals().forget()
        lineage.die_with_parent(dies_by, parent)
        return work(telling)

    return body


def _own_command() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]


def _runs(pid: int) -> bool:
    """Whether a child of ours still runs; reaps it when not."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

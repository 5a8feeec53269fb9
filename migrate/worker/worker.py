"""One worker: takes jobs, has them performed, settles them. Signals as in resque.md's table."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from migrate.config import Config
from migrate.engine.patience import Patience
from migrate.engine.reporters import Reporter
from migrate.engine.stopping import Stop
from migrate.errors import Interrupted, MigrateError, Unavailable
from migrate.resque.target import Target
from migrate.resque.waking import LONGEST_WAIT_SECONDS, Waker
from migrate.resque.workers import Seat, Settlement, Taken, queue_names
from migrate.worker import lineage, options
from migrate.worker.assigning import Assigner
from migrate.worker.burying import bury_dead
from migrate.worker.forking import Forking
from migrate.worker.heart import Heart
from migrate.worker.inline import Inline
from migrate.worker.options import WorkOptions
from migrate.worker.performing import Attempt, Outcome
from migrate.worker.signals import Signals

#: Seconds between two heartbeats; Ruby's workers beat each 60 s and are pruned after 300.
BEAT_SECONDS = 15.0
#: Seconds between two looks for workers that have died.
BURY_SECONDS = 30.0
#: Seconds after which a worker that is never idle looks for new queues that its globs match.
NAMES_SECONDS = 5.0
#: Seconds of a Redis that is away before a worker gives up; its pool then starts another.
RETRY_FOR_SECONDS = 3600.0
#: Seconds for which a worker that is to stop waits for Redis, to settle a job that has ended.
SETTLE_FOR_SECONDS = 30.0

T = TypeVar("T")

_HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
)


class Performer(Protocol):
    """Has jobs performed: `Forking` or `Inline`."""

    @property
    def server_pid(self) -> int:
        """The process that must have ended before it is sure that no job runs; 0: this one alone."""

    def run(self, text: bytes, attempt: Attempt, meanwhile: Callable[[], float]) -> Outcome:
        """Perform one job; `meanwhile` is called now and then and returns the seconds until it wants to be again."""

    def kill(self, why: str) -> None:
        """End the job that runs at once. Called by signal handlers."""

    def over(self) -> None:
        """The job that ran has its outcome, and no kill is meant for it any more."""

    def close(self) -> None:
        """No job will come any more."""


class Counters(Protocol):
    """Hears what a worker has done."""

    def ready(self) -> None:
        """The worker is registered and takes jobs."""

    def ended(self, *, failed: bool) -> None:
        """An attempt has ended."""


class Worker:
    """Works until it is told to stop."""

    def __init__(
        self,
        target: Target,
        config: Config,
        wanted: WorkOptions,
        assigner: Assigner,
        reporter: Reporter,
        told: Counters,
        *,
        connect: Callable[[], socket.socket] | None = None,
        paused: bool = False,
    ) -> None:
        """`connect` reaches a new fork server; without it jobs run in this process. `paused`: takes no jobs until CONT.

        Raises ServerError when no fork server can be had.
        """
        self._target = target
        self._wanted = wanted
        self._assigner = assigner
        self._reporter = reporter
        self._told = told
        self._dialect = config.target.dialect
        self._process = lineage.this_process()
        self.id = f"{self._process.host}:{self._process.pid}:{','.join(wanted.queues)}"
        self._seat = Seat(target, self.id, self._dialect)
        self._waker = Waker(target)
        self._stop = Stop()
        self._paused = paused
        self._busy = False
        self._names: list[str] = []
        self._names_at = self._beaten_at = self._buried_at = float("-inf")
        self._signals = Signals(_HANDLED, self._on_signal)
        self._performer: Performer = (
            Forking(wanted.jobs_per_fork, connect, self._signals, wanted.grace) if connect else Inline(wanted.grace)
        )
        self._process = lineage.this_process(self._performer.server_pid)
        self._patience = Patience(RETRY_FOR_SECONDS, self._stop, lambda reason: reporter.waits("work", reason))

    def run(self) -> None:
        """Raises what no waiting mends. A job in hand is settled before it returns, if Redis is there."""
        heart = None if self._wanted.jobs_per_fork else Heart(self._target, self.id, self._dialect, BEAT_SECONDS)
        try:
            self._patiently(self._begin)
            if heart:
                heart.start()
            self._told.ready()
            self._work()
        except Interrupted:
            pass  # stopped while Redis is away: what was in hand is in its note
        finally:
            self._performer.close()
            if heart:
                heart.stop()
            self._waker.close()
        with contextlib.suppress(MigrateError):
            self._seat.leave()

    def _work(self) -> None:
        ended: tuple[Taken, Settlement] | None = None
        while True:
            takes = not self._stop.requested and not self._paused
            if ended is None and not takes:
                if self._stop.requested:
                    return
                self._rest(LONGEST_WAIT_SECONDS)
                continue
            taken = self._turn(ended, takes=takes)
            ended = None
            if taken is not None:
                ended = self._job(taken)
            elif takes and not self._stop.requested:
                self._wait()

    def _turn(self, ended: tuple[Taken, Settlement] | None, *, takes: bool) -> Taken | None:
        """Settle and take in one round trip, once Redis is there."""
        try:
            self._patiently(self._keep_house)
            queues = self._queues() if takes else None
            return self._patiently(lambda: self._seat.turn(ended, queues))
        except Interrupted:
            if ended is None:
                raise
        # Told to stop while Redis is away: the job that has ended is worth some more waiting.
        last = Patience(SETTLE_FOR_SECONDS, Stop(), lambda reason: self._reporter.waits("work", reason))
        return self._patiently(lambda: self._seat.turn(ended, None), last)

    def _job(self, taken: Taken) -> tuple[Taken, Settlement]:
        """Perform a job; returns what is to be settled with the next turn."""
        assignment = self._assigner.assign(taken, self._recall)
        taken = assignment.taken
        if assignment.attempt is None:
            outcome = assignment.refusal
        else:
            running = assignment.attempt.running
            self._title(f"Performing {taken.queue} since {int(time.time())} [{running.class_name}]")
            self._busy = True
            outcome = self._performer.run(taken.text, assignment.attempt, self._keep_house_quietly)
            self._busy = False
            self._performer.over()
        settlement = self._assigner.settle(assignment, outcome, self.id, time.time())
        self._told.ended(failed=not outcome.done)
        if not outcome.done:
            self._reporter.says(self._assigner.story(assignment, outcome, settlement))
        return taken, settlement

    def _recall(self, taken: Taken, content: str) -> bytes:
        return self._patiently(lambda: self._seat.recall(taken, content))

    # --- between jobs ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._bury()
        self._seat.register(self._process, time.time())
        self._beat()

    def _queues(self) -> list[str]:
        """Those to take from; globs are looked up now and then, and whenever the worker is idle."""
        if not options.is_dynamic(self._wanted.queues):
            return self._names or self._look_up()
        if time.monotonic() - self._names_at > NAMES_SECONDS:
            return self._patiently(self._look_up)
        return self._names

    def _look_up(self) -> list[str]:
        known = queue_names(self._target) if options.is_dynamic(self._wanted.queues) else []
        self._names, self._names_at = options.expand(self._wanted.queues, known), time.monotonic()
        return self._names

    def _wait(self) -> None:
        """Until a queue changes, a signal comes, or there is something to do in the house."""
        self._title(f"Waiting for {','.join(self._wanted.queues)}")

        def wait() -> None:
            # Armed first, looked up after: a name that comes in between is heard of.
            if self._waker.arm(self._names):
                return
            before = self._names
            if self._look_up() != before:
                return
            if not self._stop.requested:
                self._waker.wait(self._house_in(), self._signals.wake_fd)
            self._signals.drain()

        self._patiently(wait)

    def _rest(self, seconds: float) -> None:
        """Paused: until a signal comes."""
        self._title(f"Paused, {','.join(self._wanted.queues)}")
        self._patiently(self._keep_house)
        self._signals.wait(min(seconds, self._house_in()))

    def _keep_house(self) -> None:
        """Heartbeats, and the dead of this and other machines. Raises Unavailable."""
        now = time.monotonic()
        if now - self._beaten_at >= BEAT_SECONDS:
            self._beat()
        if now - self._buried_at >= BURY_SECONDS:
            self._bury()

    def _keep_house_quietly(self) -> float:
        """While a job runs: beat, and return the seconds until the next time."""
        with contextlib.suppress(MigrateError):
            if time.monotonic() - self._beaten_at >= BEAT_SECONDS:
                self._beaten_at = time.monotonic()
                self._beat()
        return max(0.0, self._beaten_at + BEAT_SECONDS - time.monotonic())

    def _house_in(self) -> float:
        due = min(self._beaten_at + BEAT_SECONDS, self._buried_at + BURY_SECONDS)
        return max(0.0, due - time.monotonic())

    def _beat(self) -> None:
        server_pid = self._performer.server_pid
        if not self._seat.beat() or server_pid != self._process.server_pid:
            # Pruned by somebody who took it for dead, or with a new fork server.
            self._process = lineage.this_process(server_pid)
            self._seat.register(self._process, time.time())
        self._beaten_at = time.monotonic()

    def _bury(self) -> None:
        for line in bury_dead(self._target, self._assigner, self.id, self._wanted.dead_after):
            self._reporter.says(line)
        self._buried_at = time.monotonic()

    def _patiently(self, call: Callable[[], T], patience: Patience | None = None) -> T:
        """Try until Redis is there. Raises Interrupted when the worker is to stop, Unavailable when that lasts long."""
        patience = patience or self._patience
        while True:
            try:
                result = call()
            except Unavailable as error:
                patience.failed(error)
                continue
            patience.succeeded()
            return result

    def _title(self, text: str) -> None:
        lineage.set_title(text)

    # --- signals ---------------------------------------------------------------------------------------------------

    def _on_signal(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGTERM | signal.SIGINT:
                self._stop.request()
                self._kill(f"the worker was stopped ({number.name}) while the job ran")
            case signal.SIGQUIT | signal.SIGHUP:
                self._stop.request()
            case signal.SIGUSR1:
                self._kill("the job was killed by an operator (SIGUSR1)")
            case signal.SIGUSR2:
                self._paused = True
            case signal.SIGCONT:
                self._paused = False

    def _kill(self, why: str) -> None:
        if self._busy:
            self._performer.kill(why)

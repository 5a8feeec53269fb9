"""The scheduler process: moves due jobs to their queues, one leader among any number of them."""

from __future__ import annotations

import contextlib

import msgspec

from migrate.config import TargetConfig
from migrate.engine.patience import Patience
from migrate.engine.reporters import Reporter
from migrate.engine.stopping import Stop
from migrate.errors import Interrupted, MigrateError, Unavailable
from migrate.resque import delayed
from migrate.resque.delayed import LEADER_SECONDS, Leadership, Moved
from migrate.resque.target import Target

#: Seconds between two looks: also how late a job may be that was scheduled for less than this.
LOOK_SECONDS = 0.5
#: Seconds of a Redis that is away before the process gives up; systemd then starts it anew.
RETRY_FOR_SECONDS = 3600.0


class ScheduleResult(msgspec.Struct, frozen=True):
    """What `schedule --json` prints when it ends."""

    command: str
    moved: int  #: jobs


class Scheduler:
    """Moves due jobs of one namespace until it is stopped."""

    def __init__(self, target: Target, stop: Stop, reporter: Reporter) -> None:
        self._target = target
        self._stop = stop
        self._reporter = reporter
        self._leadership = Leadership(target)
        self._leads: bool | None = None  #: None: not known yet
        self.moved = 0  #: jobs, since the start

    def run(self) -> None:
        """Raises what `RETRY_FOR_SECONDS` of waiting could not mend, and errors that waiting never mends."""
        patience = Patience(RETRY_FOR_SECONDS, self._stop, lambda reason: self._reporter.waits("schedule", reason))
        try:
            while not self._stop.requested:
                try:
                    pause = self._turn()
                except Unavailable as error:
                    patience.failed(error)
                    continue
                patience.succeeded()
                if pause > 0:
                    self._stop.wait(pause)
        except Interrupted:
            return
        finally:
            with contextlib.suppress(MigrateError):
                self._leadership.release()

    def _turn(self) -> float:
        """One look; returns the seconds until the next."""
        leads = self._leadership.hold()
        if leads != self._leads:
            self._leads = leads
            self._reporter.says("schedule: leads" if leads else "schedule: stands by, another scheduler leads")
        if not leads:
            return LEADER_SECONDS / 4
        done = delayed.move_due(self._target)
        self._count(done)
        if done.next_in is None:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, done.next_in)

    def _count(self, done: Moved) -> None:
        self.moved += done.jobs
        if done.aside:
            key = self._target.keys.unscheduled.decode()
            self._reporter.says(f"schedule: {done.aside} delayed jobs name no queue: kept in {key}")


def schedule(config: TargetConfig, stop: Stop, reporter: Reporter) -> int:
    """Run a scheduler until it is stopped; returns how many jobs it has moved. Raises the target's errors."""
    target = Target.open(config.url, config.namespace)
    try:
        target.check_usable()
        scheduler = Scheduler(target, stop, reporter)
        scheduler.run()
        return scheduler.moved
    finally:
        reporter.close()
        target.close()

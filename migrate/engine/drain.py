"""Draining one source: recover, move what is free, hand off, until a last look finds nothing.

The steps themselves are in `crossing.py`. Every fault ends the pass; the next one begins with recovery, so nothing is
ever settled from memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from migrate.config import Config
from migrate.engine import over
from migrate.engine.crossing import Crossing
from migrate.engine.failures import FailuresImport
from migrate.engine.options import DrainOptions
from migrate.engine.pausing import FRESH_SECONDS
from migrate.engine.reporters import Reporter
from migrate.engine.results import Tally
from migrate.engine.routing import RowState
from migrate.engine.stopping import Stop
from migrate.engine.survey import Survey
from migrate.engine.throttling import Limit
from migrate.errors import Interrupted, OpenTransactions, Refused, Unavailable
from migrate.jobs import Identity
from migrate.qudo import exceptions, outbox
from migrate.qudo.outbox import Chunk
from migrate.qudo.source import Source
from migrate.resque import durability
from migrate.resque.target import Target

#: Seconds between two tries while rows are in flight or wait.
IN_FLIGHT_PAUSE_SECONDS = 1.0
#: Last looks that may find newly enqueued jobs before the run gives up: apps that never pause need `follow`.
MOST_LOOKS = 30


class Drain:
    """One source's drain. `run` is called once, in a thread of its own."""

    def __init__(
        self,
        source: Source,
        target: Target,
        config: Config,
        options: DrainOptions,
        tally: Tally,
        stop: Stop,
        reporter: Reporter,
        limits: Sequence[Limit] = (),
    ) -> None:
        """`limits`: what holds this drain back, besides the pauses."""
        self._source = source
        self._target = target
        self._options = options
        self._tally = tally
        self._stop = stop
        self._reporter = reporter
        self._crossing = Crossing(source, target, config, options, tally, stop, reporter, limits)
        self.routing = self._crossing.routing
        self._watch = self._crossing.watch
        self._delivery = self._crossing.delivery
        self._chooser = self._crossing.chooser
        self._failures = FailuresImport(source, target, self.routing, tally, stop)
        self._import = config.failures.import_

    def run(self) -> None:
        """Drain until the last look finds nothing.

        Raises OpenTransactions, Interrupted (after the batch in hand), Refused, and the server's errors once
        `retry_for` is over. Whatever is raised, nothing is lost: the next run goes on.
        """
        deadline = time.monotonic() + self._options.in_flight_wait
        looks = 0
        ending = False  # the last step failed: what succeeds before it proves nothing of it
        while True:
            try:
                self._crossing.recover()
                self._pass()
                left = self._last_look()
                waits = left.not_free > 0 and time.monotonic() < deadline
                if not left.movable:
                    if not waits:  # a later look is the last one: this reads exception_log whole
                        self._failures.run(self._import)
                    if left.paused and self._resumed():
                        continue
            except Unavailable as error:
                self._crossing.after_fault(error)
                continue
            if not ending:
                self._crossing.patience.succeeded()
            if left.movable and not self._chooser.limit_reached:
                looks += 1
                if looks >= MOST_LOOKS:
                    raise OpenTransactions(
                        f"source {self._source.name}: apps enqueue faster than a run can end",
                        advice="run again at a quieter time, or follow",
                    )
            elif left.released == 0:
                if not waits:
                    try:
                        return self._finish()
                    except Unavailable as error:
                        ending = True
                        self._crossing.after_fault(error)
                        continue
                self._wait_for_workers(left, deadline)

    def _finish(self) -> None:
        """Settle what needs proof that Redis has it on disk: one fence for chunk records and Qudo's mark."""
        if self._delivery.undeliverable:
            identity, reason = next(iter(self._delivery.undeliverable.items()))
            raise Refused(
                f"source {self._source.name}: {len(self._delivery.undeliverable)} moved jobs can't be handed off,"
                f" the first is {identity}: {reason}",
                advice="they are safe in qudo_migrate_outbox; use the version of qudo-migrate that moved them",
            )
        if not self._failures.unmarked:
            self._delivery.forget_delivered()
            return

        def look(target: Target) -> tuple[list[Chunk], list[tuple[int, int]]]:
            return self._delivery.look_for_delivered(target), self._failures.look_for_entered(target)

        try:
            delivered, entered = durability.fence(self._target, look, may_save=True)
        except Refused:
            self._failures.leave_unmarked()
            return
        outbox.discard_chunks(self._source, delivered)
        exceptions.mark_retried(self._source, entered)

    def _pass(self) -> None:
        """Move and hand off all rows that are free now, in Qudo's order."""
        self._tally.forget_left()
        limit = None if self._options.limit is None else self._options.limit - self._tally.moved_total
        self._crossing.cross(self._chooser.chunks(limit), fencing=True)
        if self._stop.requested:
            raise Interrupted(f"source {self._source.name}: stopped; the batch in hand was finished")

    # -- the end --

    def _last_look(self) -> _Left:
        """Look at all that is left with locks; free the uniqkeys of jobs that are over."""
        limited = self._chooser.limit_reached
        survey = Survey(self._source, self.routing, self._tally, self._stop, locking=not limited)
        movable = paused = 0
        holders: list[Identity] = []
        for seen in survey:
            if seen.state is RowState.NOT_MOVED:
                held_back = seen.row.func_id in self._chooser.paused
                paused += held_back
                movable += not held_back
            if seen.waiter is not None and len(holders) < over.MOST_HOLDERS:
                holders.append(seen.waiter.holder)
        if limited:
            self._tally.left["kept"] += self._tally.left.pop("not_moved", 0)
        chunks = self._delivery.undelivered()
        released = len(over.release_over(self._source, self._target, self.routing, holders)) if holders else 0
        not_free = self._tally.left["in_flight"] + self._tally.left["waiting"]
        return _Left(movable + chunks.deliverable, paused + chunks.paused, released, not_free)

    def _resumed(self) -> bool:
        """Wait while funcs that this drain moves are paused; True when what a pass left out is worth another pass.

        False when only funcs are paused that are none of this drain's. Raises Interrupted.
        """
        while reasons := [reason for name in self._names(moving=True) if (reason := self._watch.reason(name))]:
            self._reporter.waits(self._source.name, reasons[0])
            if self._stop.wait(FRESH_SECONDS):
                raise Interrupted(f"source {self._source.name}: stopped while funcs are paused")
            if len(reasons) > sum(self._watch.reason(name) is not None for name in self._names(moving=True)):
                break
        self._reporter.waits(self._source.name, "")
        return bool(reasons) or not any(self._watch.reason(name) for name in self._names(moving=False))

    def _names(self, *, moving: bool) -> list[str]:
        return [routed.name for routed in self.routing.funcs.values() if routed.moves is moving]

    def _wait_for_workers(self, left: _Left, deadline: float) -> None:
        """Pause before the next try for rows that workers hold or that wait for their key. Raises Interrupted."""
        jobs = "1 job" if left.not_free == 1 else f"{left.not_free} jobs"
        self._reporter.waits(self._source.name, f"{jobs} in flight or waiting for a uniqkey")
        if self._stop.wait(min(IN_FLIGHT_PAUSE_SECONDS, max(0.0, deadline - time.monotonic()))):
            raise Interrupted(f"source {self._source.name}: stopped while waiting for jobs in flight")


class _Left(NamedTuple):
    movable: int
    paused: int  #: rows and chunks of funcs that were paused during the pass
    released: int
    not_free: int

"""Draining one source: recover, move what is free, hand off, until a last look finds nothing.

The only module that knows the order of the steps. Every fault ends the pass; the next one begins with recovery, so
nothing is ever settled from memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from migrate.config import Config
from migrate.engine import over
from migrate.engine.batches import Batches
from migrate.engine.choosing import Chooser, Prepared
from migrate.engine.delivery import Delivery
from migrate.engine.failures import FailuresImport
from migrate.engine.pacing import DEFAULT_CAP, SMALL_CAP, ChunkSize
from migrate.engine.patience import Patience
from migrate.engine.pausing import FRESH_SECONDS, PauseWatch
from migrate.engine.reporters import Reporter
from migrate.engine.results import Tally
from migrate.engine.routing import Routing, RowState
from migrate.engine.settling import Settling
from migrate.engine.stopping import Stop
from migrate.engine.survey import Survey
from migrate.engine.throttling import Limit, Throttle
from migrate.errors import Interrupted, OpenTransactions, Refused, Unavailable
from migrate.jobs import Identity
from migrate.qudo import exceptions, leasing, moving, outbox
from migrate.qudo.moving import Moved, chunk_of
from migrate.qudo.outbox import Chunk
from migrate.qudo.source import Source
from migrate.resque import durability
from migrate.resque.target import Target

#: Seconds between two tries while rows are in flight or wait.
IN_FLIGHT_PAUSE_SECONDS = 1.0
#: Seconds between two fences behind which records of delivered chunks are dropped.
FENCE_EVERY_SECONDS = 30.0
#: Last looks that may find newly enqueued jobs before the run gives up: apps that never pause need `follow`.
MOST_LOOKS = 30


class DrainOptions(msgspec.Struct, frozen=True):
    """What the operator asked for. Times are seconds; None: no limit."""

    func_glob: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    in_flight_wait: float = 0.0
    retry_for: float = 300.0
    rate: float | None = None  #: jobs a second
    max_queue_length: int | None = None  #: jobs
    max_load: Mapping[str, float] = {}  #: highest value by status variable
    max_lag: float = 10.0  #: of replicas that the configuration names
    purge: bool = False  #: delete delivered outbox rows at the end, whatever their age


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
        self.routing = Routing(source, config, options.func_glob)
        self._watch = PauseWatch(target)
        self._delivery = Delivery(source, target, self.routing, self._watch)
        self._batches = Batches()
        self._settling = Settling(tally)
        self._patience = Patience(options.retry_for, stop, lambda reason: reporter.waits(source.name, reason))
        self._move = moving.move if source.facts().transactional else leasing.move
        cap = min(options.batch_size or DEFAULT_CAP, SMALL_CAP if source.small_moves else DEFAULT_CAP)
        smooth = int(options.rate / 4) + 1 if options.rate else cap  # a quarter of a second's jobs: no bursts
        self._size = ChunkSize(min(cap, options.max_queue_length or cap, smooth))
        self._chooser = Chooser(source, self.routing, self._batches, self._size, tally, stop, watch=self._watch)
        self._throttle = Throttle(limits, stop, lambda reason: reporter.waits(source.name, reason))
        self._failures = FailuresImport(source, target, self.routing, tally, stop)
        self._import = config.failures.import_
        self._fenced_at = time.monotonic()

    def run(self) -> None:
        """Drain until the last look finds nothing.

        Raises OpenTransactions, Interrupted (after the batch in hand), Refused, and the server's errors once
        `retry_for` is over. Whatever is raised, nothing is lost: the next run goes on.
        """
        deadline = time.monotonic() + self._options.in_flight_wait
        looks = 0
        while True:
            try:
                self._recover()
                self._pass()
                left = self._last_look()
                if not left.movable:
                    self._failures.run(self._import)
                    if left.paused and self._resumed():
                        continue
            except Unavailable as error:
                self._after_fault(error)
                continue
            self._patience.succeeded()
            if left.movable and not self._chooser.limit_reached:
                looks += 1
                if looks >= MOST_LOOKS:
                    raise OpenTransactions(
                        f"source {self._source.name}: apps enqueue faster than a run can end",
                        advice="run again at a quieter time, or follow",
                    )
            elif left.released == 0 and not self._waits_for_workers(left, deadline):
                break
        self._finish()

    def _after_fault(self, error: Unavailable) -> None:
        """Forget all that memory says of rows and connections, and wait before the next try."""
        self._source.forget_connections()
        self._batches.renew()
        self._patience.failed(error)

    def _recover(self) -> None:
        """Finish what this or another process left half done."""
        self.routing.refresh()
        for recovered in self._delivery.recover():
            record, pushed = recovered
            self._settling.recovered(record, pushed.new, len(pushed.held_back), lambda: self._moved_seqs(record))  # noqa: B023
            if pushed.new:  # merely reading proves nothing: a Redis that is full or read-only answers reads for ever
                self._patience.succeeded()

    def _moved_seqs(self, record: Chunk) -> set[int]:
        with self._source.reading() as connection:
            return outbox.moved_seqs(connection, record)

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

    # -- one pass: read, translate, move, hand off, each step overlapping the next one's work --

    def _pass(self) -> None:
        """Move and hand off all rows that are free now, in Qudo's order."""
        self._tally.forget_left()
        limit = None if self._options.limit is None else self._options.limit - self._tally.moved_total
        with ThreadPoolExecutor(1) as mover, ThreadPoolExecutor(1) as pusher, ThreadPoolExecutor(1) as sweeper:
            moves: Future[tuple[list[Prepared], Moved]] | None = None
            pushes: Future[None] | None = None
            for chunk in self._chooser.chunks(limit):
                if moves is not None:
                    pushes = self._after_move(moves, pushes, pusher)
                    moves = None
                if self._throttle.needs_settled and pushes is not None:
                    pushes.result()
                if not self._throttle.wait(chunk):
                    break
                moves = mover.submit(self._move_chunk, chunk)
                if time.monotonic() - self._fenced_at > FENCE_EVERY_SECONDS:
                    self._fenced_at = time.monotonic()
                    sweeper.submit(self._delivery.forget_delivered)
            if moves is not None:
                pushes = self._after_move(moves, pushes, pusher)
            if pushes is not None:
                pushes.result()
        if self._stop.requested:
            raise Interrupted(f"source {self._source.name}: stopped; the batch in hand was finished")

    def _after_move(
        self,
        moves: Future[tuple[list[Prepared], Moved]],
        pushes: Future[None] | None,
        pusher: ThreadPoolExecutor,
    ) -> Future[None]:
        gone, moved = moves.result()
        if pushes is not None:
            pushes.result()  # order within each queue: one push after the other
        return pusher.submit(self._push_chunk, gone, moved)

    def _move_chunk(self, chunk: list[Prepared]) -> tuple[list[Prepared], Moved]:
        started = time.monotonic()
        self._settling.move_begins(chunk)
        candidates = [each.candidate for each in chunk]
        moved = self._move(self._source, chunk[0].job.identity.batch, candidates, self._chooser.decisions)
        self._size.took(len(chunk), time.monotonic() - started)
        return self._settling.moved(chunk, moved.seqs), moved

    def _push_chunk(self, gone: list[Prepared], moved: Moved) -> None:
        if not gone:
            return
        pushed = self._delivery.push([each.job for each in gone], moved.binding)
        self._settling.pushed(gone, len(pushed.held_back))
        record = chunk_of(gone[0].job.identity.batch, [each.candidate.seq for each in gone])
        if pushed.held_back:
            self._delivery.holds_back(record)
        else:
            self._delivery.delivered(record)
        self._reporter.advanced(self._source.name, len(gone) - len(pushed.held_back))
        self._patience.succeeded()

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

    def _waits_for_workers(self, left: _Left, deadline: float) -> bool:
        """Whether to try again for rows that workers hold or that wait for their key, after a pause."""
        if not left.not_free or time.monotonic() >= deadline:
            return False
        self._reporter.waits(self._source.name, f"{left.not_free} jobs in flight or waiting for their uniqkey")
        if self._stop.wait(min(IN_FLIGHT_PAUSE_SECONDS, max(0.0, deadline - time.monotonic()))):
            raise Interrupted(f"source {self._source.name}: stopped while waiting for jobs in flight")
        return True


class _Left(NamedTuple):
    movable: int
    paused: int  #: rows and chunks of funcs that were paused during the pass
    released: int
    not_free: int

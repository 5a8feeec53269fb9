"""The steps by which one source's jobs cross, for all engines that move: recover, move what was chosen, hand off.

Which rows to move and when to look again is the engines' affair (`drain.py`, `follow_source.py`). Every fault ends a
step; the next one begins with recovery, so nothing is ever settled from memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from migrate.config import Config
from migrate.engine.batches import Batches
from migrate.engine.choosing import Chooser, Prepared
from migrate.engine.delivery import Delivery, Recovered
from migrate.engine.line import Line
from migrate.engine.options import DrainOptions
from migrate.engine.pacing import DEFAULT_CAP, SMALL_CAP, ChunkSize
from migrate.engine.patience import Patience
from migrate.engine.pausing import PauseWatch
from migrate.engine.remaining import Remaining
from migrate.engine.reporters import Reporter
from migrate.engine.results import Tally
from migrate.engine.routing import Routing, RowState
from migrate.engine.settling import Settling
from migrate.engine.step_watch import StepWatch
from migrate.engine.stopping import Stop
from migrate.engine.throttling import Limit, Throttle
from migrate.errors import Contention, Unavailable
from migrate.qudo import leasing, moving, outbox
from migrate.qudo.moving import Moved, chunk_of
from migrate.qudo.outbox import Chunk
from migrate.qudo.source import Source
from migrate.qudo.turns import Turn
from migrate.resque.target import Target

#: Seconds between two fences behind which records of delivered chunks are dropped.
FENCE_EVERY_SECONDS = 30.0
#: Seconds after which a move that ends by contention has waited for a lock, and until such a row is tried again.
LOCKED_SECONDS = 1.0
LOCKED_AGAIN_SECONDS = 60


class Batch(NamedTuple):
    """A chunk that has crossed."""

    jobs: Sequence[Prepared]  #: that left `job`
    held_back: int  #: of them, in the outbox while their func is paused
    seconds: float  #: from the begin of the move to the end of the hand-off


class Crossing:
    """One source's steps. Not for several threads at a time."""

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
        *,
        remaining: Remaining | None = None,
        hold_seconds: float | None = None,
        on_batch: Callable[[Batch], None] = lambda _batch: None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """`limits`: what holds the moves back, besides the pauses, for at most `hold_seconds` at a time.

        `remaining`: what to remember of rows that stay. `on_wait`: is told why there is no progress ("": there is
        again); the reporter, unless given.
        """
        self.source = source
        self.target = target
        self.tally = tally
        self.stop = stop
        self._reporter = reporter
        self._config = config
        self._options = options
        self._steps = StepWatch(target)
        self.routing = self.new_routing()
        self.watch = PauseWatch(target)
        self.delivery = Delivery(source, target, self.routing, self.watch)
        self._batches = Batches()
        self._settling = Settling(tally)
        say = on_wait or (lambda reason: reporter.waits(source.name, reason))
        self.patience = Patience(options.retry_for, stop, say)
        self._move = moving.move if source.facts().transactional else leasing.move
        self._moves_overlap = source.moves_overlap and not limits
        self._stored_decisions: set[int] = set()
        cap = min(options.batch_size or DEFAULT_CAP, SMALL_CAP if source.small_moves else DEFAULT_CAP)
        smooth = int(options.rate / 4) + 1 if options.rate else cap  # a quarter of a second's jobs: no bursts
        self._size = ChunkSize(min(cap, options.max_queue_length or cap, smooth))
        self._remaining = remaining
        self.chooser = Chooser(
            source, self.routing, self._batches, self._size, tally, stop, watch=self.watch, remaining=remaining
        )
        self._throttle = Throttle(limits, stop, say, hold_seconds)
        self._on_batch = on_batch
        self.held_back = 0  #: jobs that the last recovery left in the outbox, as their func is paused
        self.held: list[Prepared] = []  #: the chunk that a limit or a stop has left in `job`
        self._fenced_at = time.monotonic()

    def new_routing(self) -> Routing:
        """What configuration and steps say, for one thread: each reads the funcs anew when it must."""
        return Routing(self.source, self._config, self._options.func_glob, self._steps)

    def after_fault(self, error: Unavailable) -> None:
        """Forget all that memory says of rows and connections, and wait before the next try.

        Raises `error` once `retry_for` is over, Interrupted when a stop is requested.
        """
        self.source.forget_connections()
        self._batches.renew()
        self.patience.failed(error)

    def recover(self, on_record: Callable[[], None] = lambda: None) -> int:
        """Finish what this or another process left half done; how many jobs Redis got by that.

        `on_record` is called for each chunk that is met.
        """
        self.routing.refresh()
        new = self.held_back = 0
        for recovered in self.delivery.recover():
            on_record()
            self.held_back += len(recovered.pushed.held_back)
            new += self._count(recovered)
        return new

    def recover_written(self, due_from: int) -> int:
        """Hand off what apps wrote, due since this second of the source's clock; how many jobs Redis got by that."""
        return sum(map(self._count, self.delivery.recover_written(due_from)))

    def _count(self, recovered: Recovered) -> int:
        record, pushed = recovered
        self._settling.recovered(record, pushed.new, len(pushed.held_back), lambda: self._moved_seqs(record))
        if pushed.new:  # merely reading proves nothing: a Redis that is full or read-only answers reads for ever
            self.patience.succeeded()
        return pushed.new

    def _moved_seqs(self, record: Chunk) -> set[int]:
        with self.source.reading() as connection:
            return outbox.moved_seqs(connection, record)

    def cross(self, chunks: Iterable[list[Prepared]], *, fencing: bool = False) -> bool:
        """Move and hand off chunks in their order, each step overlapping the next one's work.

        Returns False when a limit or a stop has left chunks where they were. `fencing`: from time to time, drop the
        records of delivered chunks behind a durable fence meanwhile.
        """
        complete = True
        with ThreadPoolExecutor(1) as sweeper, Line(self._move_chunk, self._push_chunk) as line:
            for chunk in chunks:
                overlaps = self._may_overlap(chunk)
                line.make_room(overlaps=overlaps)
                if self._throttle.needs_settled:
                    line.settle()
                if not self._throttle.wait(chunk):
                    complete = False
                    self.held = chunk
                    break
                line.enter(chunk, overlaps=overlaps)
                if fencing and time.monotonic() - self._fenced_at > FENCE_EVERY_SECONDS:
                    self._fenced_at = time.monotonic()
                    sweeper.submit(self.delivery.forget_delivered)
            line.settle()
        return complete

    def _may_overlap(self, chunk: Sequence[Prepared]) -> bool:
        """Whether its move may begin while the one before it is under way.

        Not where limits hold the moves back, nor where two could meet: at a uniqkey, at a gap, at a decision that isn't
        stored yet.
        """
        return self._moves_overlap and all(
            each.candidate.decision in self._stored_decisions and not each.candidate.unique for each in chunk
        )

    def _move_chunk(self, chunk: list[Prepared], turn: Turn) -> _Move:
        began = time.monotonic()
        self._settling.move_begins(chunk)
        candidates = [each.candidate for each in chunk]
        try:
            moved = self._move(self.source, chunk[0].job.identity.batch, candidates, self.chooser.decisions, turn)
        except Contention:
            locked = time.monotonic() - began > LOCKED_SECONDS and not turn.let_down
            if self._remaining is not None and locked:
                self._step_around(chunk, self._remaining)
            raise
        self._size.took(len(chunk), time.monotonic() - began - turn.waited_seconds)
        self._stored_decisions.update([each.decision for each in candidates if each.seq in moved.seqs])
        if moved.waiting and self._remaining is not None:
            rows = {each.candidate.row.id: each.candidate.row for each in chunk}
            for waiter in moved.waiting:
                self._remaining.stays(rows[waiter.job_id], RowState.WAITING, holder=waiter.holder)
        return _Move(self._settling.moved(chunk, moved.seqs), moved, began)

    def _step_around(self, chunk: list[Prepared], remaining: Remaining) -> None:
        """Somebody holds a lock on one of these rows for long: the others must not wait for it time and again."""
        rows = [each.candidate.row for each in chunk]
        if len(rows) > 1:
            self.chooser.alone = {row.id for row in rows}
        else:
            with self.source.reading() as connection:
                again = self.source.now(connection) + LOCKED_AGAIN_SECONDS
            remaining.stays(rows[0], RowState.IN_FLIGHT, again)

    def _push_chunk(self, move: _Move) -> None:
        gone, moved, began = move
        if not gone:
            return
        pushed = self.delivery.push([each.job for each in gone], moved.binding)
        self._settling.pushed(gone, len(pushed.held_back))
        record = chunk_of(gone[0].job.identity.batch, [each.candidate.seq for each in gone])
        if pushed.held_back:
            self.delivery.holds_back(record)
        else:
            self.delivery.delivered(record)
        self._reporter.advanced(self.source.name, len(gone) - len(pushed.held_back))
        self._on_batch(Batch(gone, len(pushed.held_back), time.monotonic() - began))
        self.patience.succeeded()


class _Move(NamedTuple):
    """What left `job`, and when the move began."""

    gone: list[Prepared]
    moved: Moved
    began: float

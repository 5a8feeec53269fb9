"""Following one source without end: what is new crosses at once, and whatever else falls free is found.

New rows are met at the primary key's end, twenty looks a second; rows whose time comes (a lease that ends, a job kept
until due) at that second, by id; the rest by sweeps (`sweeping.py`). Where many rows may be free (at the start, after a
fault, a pause or a limit) the loop walks through all free rows in Qudo's order, as `run` does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection

from migrate.config import Config
from migrate.engine.binding import Beat
from migrate.engine.choosing import Prepared, Walk
from migrate.engine.crossing import Batch, Crossing
from migrate.engine.follow_state import FollowState
from migrate.engine.housekeeping import Housekeeper
from migrate.engine.intervals import Interval
from migrate.engine.options import DrainOptions
from migrate.engine.reporters import Reporter
from migrate.engine.stopping import Stop
from migrate.engine.sweeping import Sweeper
from migrate.engine.throttling import Limit
from migrate.errors import Interrupted, Unavailable
from migrate.qudo.reading import FreeRows, Selection
from migrate.qudo.source import Source
from migrate.qudo.watching import NewRows, RowsById, TableEnd, highest_id
from migrate.resque.target import Target

#: Seconds from one look at the end of `job` to the next: with all else that is asked, under 30 statements a second.
LOOK_SECONDS = 0.055
#: Seconds between two looks for what apps wrote into the outbox and did not hand off, and how far back they go.
WRITTEN_SECONDS = 1.0
WRITTEN_BACK_SECONDS = 5
#: Seconds between two recoveries, and the share of the time that they may take.
RECOVERY_SECONDS = 3.0
RECOVERY_SHARE = 0.2
#: Seconds that one walk through the free rows may take: then the highest priority comes first again.
WALK_SECONDS = 2.0
#: Seconds for which a limit holds back one chunk before the loop looks at everything else.
HOLD_SECONDS = 1.0


class SourceFollow:
    """One source. `run` is called once, in a thread of its own."""

    def __init__(
        self,
        source: Source,
        target: Target,
        config: Config,
        options: DrainOptions,
        state: FollowState,
        stop: Stop,
        reporter: Reporter,
        beat: Beat,
        limits: Sequence[Limit] = (),
    ) -> None:
        """`beat`: ends with an error when the target isn't the source's any more. `limits`: what holds it back."""
        self._source = source
        self._state = state
        self._stop = stop
        self._reporter = reporter
        self._beat = beat
        self._crossing = Crossing(
            source,
            target,
            config,
            options,
            state.tally,
            stop,
            reporter,
            limits,
            remaining=state.remaining,
            hold_seconds=HOLD_SECONDS,
            on_batch=self._crossed,
            on_wait=self._waits,
        )
        self._routing = self._crossing.routing
        self._sweeper = Sweeper(source, target, self._crossing.new_routing(), state)
        self._house = Housekeeper(
            source,
            target,
            self._crossing.new_routing(),
            self._crossing.delivery,
            state,
            config.failures.import_,
        )
        self._recovery = Interval(RECOVERY_SECONDS, RECOVERY_SHARE)
        self._written = Interval(WRITTEN_SECONDS, RECOVERY_SHARE)
        self._end = TableEnd(0)
        self._walks = True  # free rows may be there that no other look will bring
        self._walk_seconds = WALK_SECONDS
        self._left_out: frozenset[int] = frozenset()  # func ids that don't move now
        self._undeliverable: set[str] = set()

    def run(self) -> None:
        """Follow until a stop is requested, the batch in hand finished.

        Raises what waiting can't mend, and what `retry_for` has not. Whatever is raised, nothing is lost.
        """
        with self._sweeper, self._house, contextlib.suppress(Interrupted):
            while not self._stop.requested:
                try:
                    with self._source.polling() as connection:
                        self._begin(connection)
                        while not self._stop.requested:
                            self._turn(connection)
                except Unavailable as error:
                    self._state.failed(error)
                    self._crossing.after_fault(error)

    def forget_delivered(self) -> None:
        """Drop the records of delivered chunks behind a durable fence, where this Redis gives that proof."""
        self._crossing.delivery.forget_delivered()

    # -- the loop --

    def _begin(self, connection: Connection) -> None:
        """At the start and after each fault: recover first, then look at everything."""
        self._recover()
        self._end = TableEnd(highest_id(connection))
        self._sweeper.end = self._end.after
        self._walks = True
        self._waits("")
        self._state.error = None
        self._state.tried = self._state.met = True

    def _turn(self, connection: Connection) -> None:
        began = time.monotonic()
        self._state.alive()
        for helper in (self._sweeper, self._house, self._beat):
            if helper.error is not None:
                raise helper.error
        self._notice_changes()
        if self._recovery.is_due:
            self._recover()
        elif self._written.is_due:
            self._recover_written()
        if self._walks:
            self._walk()
        else:
            self._take_new(connection)
            self._take_found()
        self._crossing.patience.succeeded()
        if not self._walks:
            self._settled()
            self._stop.wait(max(0.0, began + LOOK_SECONDS - time.monotonic()))

    def _settled(self) -> None:
        """Nothing is left that this loop knows of."""
        if self._state.waits:
            self._waits("")
        self._state.looked()
        if self._sweeper.swept_from > self._state.busy_at and self._house.looked:
            self._state.settled_at = time.monotonic()

    def _recover(self) -> None:
        began = time.monotonic()
        state = self._state
        if self._crossing.recover(state.alive):
            state.busy()
        state.paused_jobs = self._crossing.held_back
        undeliverable = self._crossing.delivery.undeliverable
        for identity in sorted(undeliverable.keys() - self._undeliverable):
            message = f"{self._source.name}: moved job {identity} can't be handed off: {undeliverable[identity]}"
            self._reporter.says(message, source=self._source.name, level="error")
        self._undeliverable = set(undeliverable)
        self._recovery.did(began)

    def _recover_written(self) -> None:
        began = time.monotonic()
        if self._crossing.recover_written(self._state.clock.now() - WRITTEN_BACK_SECONDS):
            self._state.busy()
        self._written.did(began)

    def _notice_changes(self) -> None:
        """Pauses, and funcs that begin or cease to move."""
        known = self._crossing.watch.now()
        kept = {func_id for func_id, routed in self._routing.funcs.items() if not routed.moves}
        paused = (
            {func_id for func_id, name in self._routing.names.items() if known.covering(name) is not None}
            if known.notes
            else set()
        )
        left_out = frozenset(kept | paused)
        if left_out == self._left_out:
            return
        if self._left_out - left_out:
            self._walks = True
            self._recovery.hurry()
        self._left_out = self._sweeper.left_out = left_out

    # -- what crosses --

    def _walk(self) -> None:
        """All free rows in Qudo's order, for some seconds: then the highest priority comes first again."""
        before = self._state.tally.moved_total
        self._sweeper.take()  # the walk meets them as well
        selection = Selection(kept=self._left_out, held=self._routing.selection.held)
        chunks = _Timed(
            self._crossing.chooser.chunks(None, FreeRows(self._source, selection)),
            time.monotonic() + self._walk_seconds,
        )
        complete = self._cross(chunks)
        if complete and not chunks.cut_short:
            self._walks = False
        # Rows that can't be translated take their time as well: a walk that is cut short by them gets no further.
        stuck = chunks.cut_short and self._state.tally.moved_total == before
        self._walk_seconds = self._walk_seconds * 2 if stuck else WALK_SECONDS

    def _take_new(self, connection: Connection) -> None:
        """Rows at the end of the primary key."""
        if self._end.may_step:
            if self._left_out:
                self._end.met(highest_id(connection))
            self._end.step()
            self._sweeper.end = self._end.after
        walk = NewRows(self._source, connection, self._end.after, self._left_out)
        self._cross_or_walk(walk)
        self._end.met(walk.highest)
        if walk.now:
            self._state.clock.read(walk.now)

    def _take_found(self) -> None:
        """Rows whose time has come, and what sweeps have found."""
        found = self._sweeper.take()
        if found.lowest_unseen is not None and found.lowest_unseen <= self._end.after:
            self._end.back_to(found.lowest_unseen)
        if found.too_many:
            self._walks = True
            return
        ids = [*found.ids, *self._state.remaining.take_due(self._state.clock.now())]
        if ids:
            self._cross_or_walk(RowsById(self._source, ids))

    def _cross_or_walk(self, walk: Walk) -> None:
        """Cross what a walk brings; what a limit holds back is left to walks through all free rows."""
        if not self._cross(self._crossing.chooser.chunks(None, walk)):
            self._walks = True

    def _cross(self, chunks: Iterator[list[Prepared]]) -> bool:
        complete = self._crossing.cross(chunks)
        if not complete and not self._stop.requested:
            self._state.held_back(self._crossing.held)
        return complete

    def _crossed(self, batch: Batch) -> None:
        self._state.crossed(batch)

    def _waits(self, reason: str) -> None:
        self._state.waits_for(reason)
        self._reporter.waits(self._source.name, reason)


class _Timed:
    """Chunks until a time is over; the one in hand is finished."""

    def __init__(self, chunks: Iterator[list[Prepared]], until: float) -> None:
        self._chunks = chunks
        self._until = until
        self.cut_short = False

    def __iter__(self) -> Iterator[list[Prepared]]:
        return self

    def __next__(self) -> list[Prepared]:
        if time.monotonic() > self._until:
            self.cut_short = True
            raise StopIteration
        return next(self._chunks)

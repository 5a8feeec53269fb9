"""What one source's `follow` is doing: written by its threads, read by metrics, `systemctl status` and the watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from migrate.engine.choosing import Prepared
from migrate.engine.crossing import Batch
from migrate.engine.remaining import Remaining
from migrate.engine.results import LISTED_JOBS, Tally, UntranslatableJob
from migrate.errors import MigrateError
from migrate.metrics import Histogram

#: Upper bounds of the histograms, seconds.
BATCH_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
DELAY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
#: Untranslatable jobs that are said one by one.
SAID_JOBS = 100


class ServerClock:
    """A source's Unix second, reckoned from the last time that it was read."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def read(self, second: int) -> None:
        """The server has just said this second."""
        self._ahead = second - time.monotonic()

    def now(self) -> int:
        """The server's second now, or the one before."""
        return int(self._ahead + time.monotonic())


class FollowTally(Tally):
    """Counts of one source over the whole life of the process. Each untranslatable job is said once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say
        self._listed: set[int] = set()

    def list_untranslatable(self, job: UntranslatableJob) -> None:
        """Remember and say a job that can't be translated, the first time that it is met."""
        if job.id in self._listed or len(self._listed) >= LISTED_JOBS:
            return
        self._listed.add(job.id)
        self.untranslatable.append(job)
        if len(self._listed) <= SAID_JOBS:
            self._say(f"{job.source}:{job.id} {job.func} stays in Qudo: {job.reason}")
        if len(self._listed) == SAID_JOBS:
            self._say(f"{job.source}: further jobs that can't be translated are only counted")


class FollowState:
    """One source. Times are the monotonic clock's seconds."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self.name = name
        self.tally = FollowTally(say)
        self.failures = Tally()  #: of the import of failures, which has a thread of its own
        self.remaining = Remaining()
        self.clock = ServerClock()
        self.batch_seconds = Histogram(BATCH_SECONDS)
        self.delay_seconds = Histogram(DELAY_SECONDS)
        self.started_at = time.monotonic()
        self.tried = False  #: the first contact was made, or has failed
        self.met = False  #: the first contact was made, once at least
        self.error: MigrateError | None = None  #: why the source isn't followed now
        self.faults = 0
        self.waits = ""  #: why nothing moves, for people
        self.alive_at = time.monotonic()  #: its loop came by
        self.looked_at = time.monotonic()  #: it saw all that is new
        self.busy_at = time.monotonic()  #: it found something to do
        self.settled_at = 0.0  #: it knew of nothing left to do
        self.held_since: float | None = None  #: from when a limit holds back the oldest job that it does
        self.paused_jobs = 0  #: moved, and not handed off as their func is paused
        self._last_delay = 0.0

    def alive(self) -> None:
        """The loop came by: it works, or waits for a reason that it says."""
        self.alive_at = time.monotonic()

    def busy(self) -> None:
        """Something was found to do."""
        self.busy_at = self.alive_at = time.monotonic()

    def waits_for(self, reason: str) -> None:
        """The loop waits; an empty reason: it goes on."""
        self.waits = reason
        self.alive()

    def failed(self, error: MigrateError) -> None:
        """The source can't be followed for now."""
        self.error = error
        self.faults += 1
        self.tried = True
        self.alive()

    def crossed(self, batch: Batch) -> None:
        """A batch has crossed."""
        self.batch_seconds.observe(batch.seconds)
        now = self.clock.now()
        delays = [max(0, now - _free_at(each)) for each in batch.jobs]
        for delay in set(delays):
            self.delay_seconds.observe(delay, delays.count(delay))
        self._last_delay = max(delays)
        self.busy()

    def held_back(self, chunk: Sequence[Prepared]) -> None:
        """A limit has left these jobs where they are."""
        oldest = time.monotonic() - max(0, self.clock.now() - min(map(_free_at, chunk)))
        self.held_since = oldest if self.held_since is None else min(oldest, self.held_since)

    def looked(self) -> None:
        """All that is new was seen, and what could move has moved."""
        self.looked_at = time.monotonic()
        self.held_since = None
        if self.looked_at - self.busy_at > 1.0:
            self._last_delay = 0.0

    @property
    def lag_seconds(self) -> float:
        """How long the oldest job waits that should have crossed; in the worst case while nobody can look."""
        now = time.monotonic()
        unseen = now - self.looked_at if self.error is not None or self.waits else 0.0
        held = now - self.held_since if self.held_since is not None else 0.0
        return max(unseen, held, self._last_delay)

    @property
    def backlog(self) -> int:
        """Jobs in the outbox that this process knows Redis to lack."""
        return max(self.paused_jobs, self.tally.moved_total - self.tally.handed_off, 0)

    @property
    def idle_seconds(self) -> float:
        """How long there has been nothing to do; 0 unless all was looked at since."""
        if self.error is not None or self.waits or self.settled_at < self.busy_at:
            return 0.0
        return time.monotonic() - self.busy_at


def _free_at(prepared: Prepared) -> int:
    """From when a job could have crossed, Unix second: retries and grabs rewrite `enqueue_time`."""
    row = prepared.candidate.row
    return max(row.enqueue_time or 0, row.run_after if prepared.job.delayed is None else 0, row.grabbed_until)

"""The second half of a rollback: what is on its way goes into `job`, behind a fence, and Redis forgets it.

Writes to the source and to our keys in Redis. Knows nothing of what was taken why: it ends what any rollback has begun.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from migrate.engine.giving_natives import GivingNatives
from migrate.engine.natives import Natives
from migrate.engine.pacing import DEFAULT_CAP, ChunkSize
from migrate.engine.reporters import Reporter
from migrate.engine.stopping import Stop
from migrate.errors import Contention, Interrupted, Refused
from migrate.failpoints import reach
from migrate.identities import Identities
from migrate.jobs import Identity
from migrate.parts import in_parts
from migrate.qudo import returning, returning_leased
from migrate.qudo.source import Source
from migrate.resque import durability, taking
from migrate.resque.taking import Taking
from migrate.resque.target import Target

#: Seconds for which a transaction is tried again that loses a deadlock or waits too long for a lock, and between tries.
CONTENTION_SECONDS, CONTENTION_PAUSE_SECONDS = 15.0, 0.2
#: Seconds until InnoDB has flushed a commit by itself where it doesn't flush each (`innodb_flush_log_at_trx_commit`).
FLUSH_SECONDS = 2.0


_Job = TypeVar("_Job")
_Given = TypeVar("_Given")


class _OnTheirWay(NamedTuple):
    """Jobs that were taken and not forgotten."""

    crossed: Identities
    natives: Identities


def check_stop(stop: Stop, source: Source) -> None:
    """Raise Interrupted once a stop is requested."""
    if stop.requested:
        raise Interrupted(
            f"source {source.name}: stopped; rollback again: jobs may be on their way", advice="qudo-migrate rollback"
        )


class GivingBack:
    """Of one source."""

    def __init__(
        self,
        source: Source,
        target: Target,
        taking_of_one: Taking,
        stop: Stop,
        reporter: Reporter,
        counts: Counter[str],
        natives: Natives,
        *,
        force: bool,
    ) -> None:
        """`counts`: jobs, by the words of the result; `force`: go on without proof of durability."""
        self._source = source
        self._target = target
        self._taking = taking_of_one
        self._stop = stop
        self._reporter = reporter
        self._force = force
        self._size = ChunkSize(DEFAULT_CAP)
        self._counts = counts
        self._natives = GivingNatives(source, target, natives, counts, self._patiently)
        self.ignored: list[str] = []  #: what --force ignored

    def run(self) -> None:
        """Put all that is on its way into `job`, behind a fence; then forget it in Redis."""
        on_their_way = self._proved(self._on_their_way)
        reach("rollback.fenced")
        done = Identities()
        try:
            for batch, seqs in on_their_way.crossed.by_batch():
                for part in self._parts(seqs):
                    done.update(self._chunk(batch, part))
        finally:
            self._forget(done, natives=False)
        done = Identities()
        try:
            for some in in_parts(on_their_way.natives, DEFAULT_CAP):
                for jobs in self._parts(some):
                    done.update(self._natives.chunk(jobs))
                    self._reporter.advanced(self._source.name, len(jobs))
        finally:
            self._forget(done, natives=True)
        self.drop_notes()
        reach("rollback.ended")

    def _parts(self, jobs: Sequence[_Job]) -> Iterator[Sequence[_Job]]:
        """As many at a time as fit in a short transaction. Raises Interrupted before each."""
        for part in self._size.parts(jobs):
            check_stop(self._stop, self._source)
            yield part

    def _on_their_way(self, target: Target) -> _OnTheirWay:
        name = self._source.name
        return _OnTheirWay(taking.returning(target, name), taking.returning_natives(target, name))

    def _chunk(self, batch: int, seqs: Sequence[int]) -> list[Identity]:
        """Return jobs of one batch; where a uniqkey collides, part by part. Returns those that are in `job`."""
        give_back = returning.give_back if self._source.facts().transactional else returning_leased.give_back
        given = self._patiently(lambda: give_back(self._source, batch, seqs))
        done = [Identity(batch, seq) for seq in sorted(given.returned)]
        self._counts["returned"] += len(done)
        self._reporter.advanced(self._source.name, len(done))
        if given.orphans:
            self._orphans([Identity(batch, seq) for seq in sorted(given.orphans)])
        if not given.collided:
            return done
        left = [seq for seq in seqs if seq not in given.returned and seq not in given.orphans]
        if len(left) == 1:
            self._counts["collided"] += 1
            return done
        middle = len(left) // 2
        for half in (left[:middle], left[middle:]):
            done += self._chunk(batch, half)
        return done

    def _patiently(self, give_back: Callable[[], _Given]) -> _Given:
        deadline = time.monotonic() + CONTENTION_SECONDS
        while True:
            try:
                return give_back()
            except Contention:
                if time.monotonic() >= deadline:
                    raise
                if self._stop.wait(CONTENTION_PAUSE_SECONDS):
                    check_stop(self._stop, self._source)

    def _orphans(self, orphans: Sequence[Identity]) -> None:
        """Jobs whose rows a purge deleted while they were taken: Resque gets them back."""
        put = self._taking.put_back(orphans)
        self._counts["purged"] += put
        self._counts["returning"] += len(taking.returning_of(self._target, self._source.name, orphans))

    def _forget(self, done: Identities, *, natives: bool) -> None:
        """The jobs are in Qudo: nothing of them is left to do in Redis."""
        if not done:
            return
        facts = self._source.facts()
        if not self._source.is_sqlite and facts.flush_at_commit != 1:
            time.sleep(FLUSH_SECONDS)  # a commit that MySQL forgets must find its job still on its way
        for part in in_parts(done, taking.CALL_JOBS):
            self._taking.forget(part, natives=natives)
            reach("rollback.forgotten")

    def drop_notes(self) -> None:
        """Drop notes of jobs that Redis has durably forgotten to be on their way. Raises Refused without proof."""
        with self._source.reading() as connection:
            noted = returning.notes(connection)
        ignored = len(self.ignored)
        on_their_way = self._proved(self._on_their_way)
        if noted and len(self.ignored) == ignored:
            forgotten = (
                each for each in noted if each not in on_their_way.crossed and each not in on_their_way.natives
            )
            returning.drop_notes(self._source, forgotten)

    def _proved(self, look: Callable[[Target], _OnTheirWay]) -> _OnTheirWay:
        """What is on its way, as a crash of Redis would leave it at least."""
        try:
            return durability.fence(self._target, look)
        except Refused as error:
            if not self._force:
                raise Refused(error.message, advice=f"{error.advice or 'mend that'}; then rollback again") from error
            self.ignored.append(error.message)
            return look(self._target)

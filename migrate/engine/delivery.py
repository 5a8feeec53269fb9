"""The hand-off of what a source has moved, and recovery: finding undelivered rows by what they are.

Reads the outbox, asks the ledger, pushes through the hand-off script. Writes to the source only to drop chunk records
whose every bit is set and durable.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from migrate.engine import binding as pair
from migrate.engine.pausing import PauseWatch
from migrate.engine.routing import Routing
from migrate.errors import Contention, MigrateError, OpenTransactions, PausesChanged, Refused, Untranslatable
from migrate.failpoints import reach
from migrate.jobs import ResqueJob
from migrate.qudo import binding, leasing, outbox
from migrate.qudo.binding import Binding
from migrate.qudo.outbox import Chunk, OutboxRow
from migrate.qudo.source import Source
from migrate.resque import durability, ledger
from migrate.resque.handoff import HandOff
from migrate.resque.target import Target

#: Bytes of args that recovery holds at a time.
RECOVERY_BYTES = 4 * 1024 * 1024


class Pushed(NamedTuple):
    """What one push did."""

    new: int  #: jobs that Redis didn't have before
    held_back: frozenset[int]  #: seqs of jobs whose func is paused: they wait in the outbox


class Recovered(NamedTuple):
    """A chunk that recovery met, and what it did: complete now unless jobs of it were held back."""

    record: Chunk
    pushed: Pushed


class Undelivered(NamedTuple):
    """Chunks that aren't delivered."""

    deliverable: int
    paused: int  #: lack only jobs of funcs that were paused when they were met


class Delivery:
    """Carries one source's outbox rows to one target. Safe to repeat and side by side: the bit is the arbiter."""

    def __init__(self, source: Source, target: Target, routing: Routing, watch: PauseWatch) -> None:
        self._source = source
        self._target = target
        self._routing = routing
        self._watch = watch
        self._hand_off = HandOff(target, source.name, keeps_order=True)
        self._lock = threading.Lock()
        self._delivered: list[Chunk] = []
        self._held_back: set[tuple[int, int]] = set()  # chunks that lack only jobs of paused funcs
        self.undeliverable: dict[str, str] = {}  #: identity -> why a moved row could not be made into a payload

    def push(self, jobs: Sequence[ResqueJob], held: Binding) -> Pushed:
        """Hand off jobs of one batch, in order, but for those whose func is paused."""
        known = self._watch.now()
        while True:
            free = [job for job in jobs if known.covering(job.func) is None] if known.notes else jobs
            try:
                with pair.named(self._source):
                    done = self._hand_off.push(
                        free, target_id=held.target_id or "", beat=held.beat, pause_version=known.version
                    )
            except PausesChanged:
                known = self._watch.anew()
                continue
            if len(free) == len(jobs):
                return Pushed(done.pushed, frozenset())
            gone = {job.identity.seq for job in free}
            return Pushed(done.pushed, frozenset(job.identity.seq for job in jobs).difference(gone))

    def holds_back(self, record: Chunk) -> None:
        """Remember that this chunk lacks only jobs of paused funcs."""
        self._held_back.add((record.batch, record.first_seq))

    def delivered(self, record: Chunk) -> None:
        """Remember that all of this chunk is handed off: its record goes once that is durable."""
        with self._lock:
            self._delivered.append(record)

    def recover(self) -> Iterator[Recovered]:
        """Hand off whatever a crash, a lost Redis second or another migrator left, the oldest move first.

        Part of every pass: at start, after each fault, and in the last look.
        """
        if not self._source.facts().transactional:
            leasing.settle(self._source)
        with self._lock:
            self._delivered = []
        self._held_back = set()
        self.undeliverable = {}
        self._hand_off.begin_with_the_oldest()
        with self._source.reading() as connection:
            records = outbox.chunks_in_order(connection, due_by=self._source.now(connection))
        for record in records:
            if record.state is not outbox.ChunkState.READY:
                continue  # moving: another migrator is at it, or has just died, and the next pass settles it; or held
            pushed = self._deliver(record)
            if pushed.held_back:
                self._held_back.add((record.batch, record.first_seq))
            else:
                self.delivered(record)
            yield Recovered(record, pushed)

    def recover_written(self, due_from: int) -> Iterator[Recovered]:
        """Hand off what apps wrote and didn't hand off themselves, of rows due since this second of the source's clock.

        Cheap enough to be asked many times a second; older rows, of transactions that commit late, are `recover`'s.
        """
        with self._source.reading() as connection:
            now = self._source.now(connection)
            records = outbox.written_chunks(connection, due_from=due_from, due_by=now)
        for record in records:
            yield Recovered(record, self._deliver(record))

    def _deliver(self, record: Chunk) -> Pushed:
        if ledger.count_delivered(self._target, record.batch, record.first_seq, record.last_seq) >= record.jobs:
            return Pushed(0, frozenset())
        reach("recover.found")
        return self._redeliver(record)

    def _redeliver(self, record: Chunk) -> Pushed:
        """Push what the ledger lacks of a chunk."""
        done = ledger.delivered(self._target, record.batch, record.first_seq, record.last_seq)
        new = 0
        held_back: frozenset[int] = frozenset()
        with self._source.reading() as connection:
            for rows in outbox.chunk_rows(
                self._source, connection, record, self._routing.names, max_bytes=RECOVERY_BYTES
            ):
                missing = [row for row in rows if row.identity.seq not in done]
                held = binding.read(connection)
                decisions = outbox.read_decisions(connection, {row.decision for row in missing})
                now = self._source.now(connection)
                connection.rollback()
                jobs = [job for row in missing if (job := self._payload(row, decisions, now)) is not None]
                pushed = self.push(jobs, held)
                new += pushed.new
                held_back |= pushed.held_back
        return Pushed(new, held_back)

    def _payload(self, row: OutboxRow, decisions: dict[int, str], now: int) -> ResqueJob | None:
        """The payload of a moved row, from the raw row and the decision under which it moved."""
        try:
            return self._routing.translate_moved(row.job, decisions[row.decision], row.identity, now).job
        except (Untranslatable, KeyError) as error:
            # It translated when it moved, so this is damage or another version: said loudly, never dropped.
            reason = error.message if isinstance(error, MigrateError) else "its decision is missing"
            self.undeliverable[row.identity.text] = reason
            return None

    def undelivered(self) -> Undelivered:
        """A last, locking look at the chunks, those of open transactions included.

        Raises OpenTransactions when one stays open for longer than a second.
        """
        deliverable = paused = 0
        for record in self._all_chunks():
            done = ledger.count_delivered(self._target, record.batch, record.first_seq, record.last_seq)
            if done < record.jobs and record.state is not outbox.ChunkState.HELD:
                held_back = (record.batch, record.first_seq) in self._held_back
                paused += held_back
                deliverable += not held_back
        return Undelivered(deliverable, paused)

    def _all_chunks(self) -> Iterator[Chunk]:
        """Every chunk, those of open transactions included."""
        try:
            with self._source.last_look() as connection:
                now = self._source.now(connection)
                written = outbox.written_chunks(connection, due_by=now, locking=True)
            yield from written
            page: list[Chunk] = []
            while True:
                with self._source.last_look() as connection:
                    page = outbox.chunks(connection, behind=page[-1] if page else None, locking=True)
                yield from page
                if not page:
                    return
        except Contention as error:
            raise OpenTransactions(
                f"source {self._source.name}: open transactions hold moved or enqueued jobs",
                advice="run again, or follow",
            ) from error

    @property
    def forgettable(self) -> int:
        """How many delivered chunks still have their record."""
        with self._lock:
            return len(self._delivered)

    def look_for_delivered(self, target: Target) -> list[Chunk]:
        """Take the delivered chunks out of memory; returns those whose every bit is set now, over this connection."""
        with self._lock:
            delivered, self._delivered = self._delivered, []
        return [
            record
            for record in delivered
            if ledger.count_delivered(target, record.batch, record.first_seq, record.last_seq) >= record.jobs
        ]

    def forget_delivered(self) -> None:
        """Delete the records of delivered chunks behind a durable fence, where this Redis gives such proof.

        Without it nothing is lost: later runs look at those chunks once more. May take some seconds.
        """
        if self.forgettable:
            with contextlib.suppress(Refused):
                outbox.discard_chunks(self._source, durability.fence(self._target, self.look_for_delivered))


def undelivered_since(source: Source, target: Target) -> tuple[int, int | None]:
    """How many moved jobs the ledger doesn't have yet, and the source's second when the oldest of them moved."""
    with source.reading() as connection:
        records = outbox.chunks_in_order(connection)
        waiting = [(record, missing) for record in records if (missing := _missing(target, record))]
        if not waiting:
            return 0, None
        since = outbox.chunk_moved_at(connection, waiting[0][0])
    return sum(missing for _, missing in waiting), since


def _missing(target: Target, record: Chunk) -> int:
    return record.jobs - ledger.count_delivered(target, record.batch, record.first_seq, record.last_seq)


def count_undelivered(source: Source, target: Target) -> int:
    """How many moved jobs the ledger doesn't have yet. Writes nothing."""
    with source.reading() as connection:
        records = outbox.chunks_in_order(connection)
    return sum(_missing(target, record) for record in records)

"""One source's part of a verification: its rows of `job`, then each row of its outbox against what Resque held.

Reads only. Counts by func and state; what the first look did not find, or found different, is left to the second. The
loop of `_compare` takes half of a verification, so what is the same for a batch is looked up once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from migrate.config import Config
from migrate.decision import Decision
from migrate.engine import outbox_gone
from migrate.engine.look_alikes import LookAlikes
from migrate.engine.outbox_gone import Gone
from migrate.engine.results import Tally
from migrate.engine.routing import Routing, RowState
from migrate.engine.step_watch import StepWatch
from migrate.engine.stopping import Stop
from migrate.engine.survey import Survey
from migrate.errors import Interrupted, Untranslatable
from migrate.jobs import Identity
from migrate.qudo import ddl, outbox, outbox_pages
from migrate.qudo.outbox_pages import MovedRow
from migrate.qudo.source import Source
from migrate.resque import ledger, taking
from migrate.resque.target import Target
from migrate.verify import content
from migrate.verify.content import NUMBER
from migrate.verify.expected import Expected, expected
from migrate.verify.findings import Findings
from migrate.verify.look import Look
from migrate.verify.sightings import PLACE, PLACES, SEVERAL, VISITED, Batch
from migrate.verify.throughput import Throughput
from migrate.verify.words import Kind

#: Differing jobs that the second look examines; of further ones only their number is known.
MOST_EXAMINED = 100_000
#: Outbox rows that one statement reads by identity.
ROWS_PER_READ = 300
#: What a job's func is called once its row was purged.
PURGED = "(purged)"
#: What a job born in Resque is called while it is on its way into Qudo.
NATIVE = "(born in Resque)"
#: Bytes of a whole bitmap.
_BITMAP_BYTES = 8192


#: The words of reports for the codes of places.
PLACE_WORDS = ("", *(place.value for place in PLACES))

_batch_of, _moved_at = attrgetter("batch"), attrgetter("moved_at")


class Decided(NamedTuple):
    """A decision, and what is the same for all jobs under it."""

    decision: Decision
    func: str
    counts: Counter[str]  #: of its func
    queue_number: int


class _OneBatch:
    """The rows of one batch as they are met, by seq."""

    def __init__(self, number: int, bits: bytes, seen: Batch | None) -> None:
        self.number = number
        self.bits = bits.ljust(_BITMAP_BYTES, b"\0")  #: the ledger as it was before the look
        self.seen = seen  #: what the look has met of it
        self._met = bytearray(_BITMAP_BYTES)

    def meet(self, seq: int) -> None:
        """Its row is there."""
        self._met[seq >> 3] |= 0x80 >> (seq & 7)

    @property
    def absent(self) -> int:
        """The jobs that were handed off and have no row, as a bitmap."""
        return int.from_bytes(self.bits, "big") & ~int.from_bytes(self._met, "big")


class _Unseen(NamedTuple):
    """A row whose job was handed off and not seen."""

    row: MovedRow
    func: str
    wanted: Expected | None
    decided: Decided | None


class Comparison:
    """One source against what one look at Resque has met."""

    def __init__(
        self,
        source: Source,
        config: Config,
        target: Target,
        look: Look,
        bits: Mapping[int, bytes],
        findings: Findings,
        throughput: Throughput,
        stop: Stop,
    ) -> None:
        """`bits`: this source's part of the ledger as it was before the look."""
        self.source = source
        self._target = target
        self._look = look
        self._bits = bits
        self._findings = findings
        self._throughput = throughput
        self._stop = stop
        self.routing = Routing(source, config, steps=StepWatch(target))
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)  #: by func
        self.gone = Gone(source, target)
        self.differing: dict[Identity, str] = {}  #: not as expected; and the func. The second look says where.
        self.unfound = 0  #: handed off and found nowhere yet
        self._unfound_funcs: dict[int, array[int]] = {}  #: by batch and seq: the number of their func
        self._func_numbers: dict[str, int] = {}
        self.unbooked: dict[Identity, str] = {}  #: in Resque, though their bit was clear; and the func
        self._decided: dict[int, Decided | None] = {}
        self._job_ids = array("Q")
        self._job_states: list[str] = []
        self._codes = bytearray()
        self._look_alikes = LookAlikes(source)

    def run(self, tally: Tally, advanced: Callable[[int], None]) -> None:
        """Look at all rows. Raises Interrupted, and the server's errors."""
        self.routing.refresh()
        has_our_tables = not ddl.lacking(self.source)
        self._survey(tally, advanced, has_our_tables=has_our_tables)
        if not has_our_tables:
            return
        with self.source.reading() as connection:
            moving = outbox.half_moved_chunks(connection)
        batch: _OneBatch | None = None
        with_rows: set[int] = set()
        for page in outbox_pages.pages(self.source):
            if self._stop.requested:
                raise Interrupted(f"source {self.source.name}: stopped while comparing")
            rows = page
            for chunk in moving:  # copies of rows that are still in `job`, where they are counted
                rows = [
                    row for row in rows if row.batch != chunk.batch or not chunk.first_seq <= row.seq <= chunk.last_seq
                ]
            self._decisions(rows)
            self._throughput.add(map(_moved_at, rows))
            unseen: list[_Unseen] = []
            for number, of_batch in groupby(rows, key=_batch_of):
                if batch is None or batch.number != number:
                    self._leave(batch)
                    batch = self._enter(number)
                    with_rows.add(number)
                self._compare(batch, of_batch, unseen)
            self._find_elsewhere(unseen)
            self._find_twins(rows)
            if self._look_alikes:
                for row in rows:
                    if ledger.is_set(self._bits.get(row.batch, b""), row.seq):
                        self._look_alikes.meet(row)
            advanced(len(rows))
        self._tell_alike()
        self._leave(batch)
        for number in self._bits.keys() - with_rows:
            self._leave(self._enter(number))
        self.gone.settle()
        self.counts[PURGED]["returning"] += self.gone.orphans
        self.counts[NATIVE]["returning"] += len(taking.returning_natives(self._target, self.source.name))

    def _enter(self, number: int) -> _OneBatch:
        return _OneBatch(number, self._bits.get(number, b""), self._look.sightings.batches.get(f"{number:016x}"))

    def _leave(self, batch: _OneBatch | None) -> None:
        if batch is not None:
            self.gone.add(batch.number, batch.absent)

    def _survey(self, tally: Tally, advanced: Callable[[int], None], *, has_our_tables: bool) -> None:
        codes: dict[str, int] = {}
        for seen in Survey(self.source, self.routing, tally, self._stop, has_our_tables=has_our_tables):
            state = seen.state.value
            self.counts[self.routing.name(seen.row.func_id)][state] += 1
            self._job_ids.append(seen.row.id)
            if has_our_tables and seen.state is RowState.NOT_MOVED:
                self._look_alikes.remember(seen.row)
            self._codes.append(codes.setdefault(state, len(codes)))
            if len(self._job_ids) % 1000 == 0:
                advanced(1000)
        self._job_states = list(codes)
        for job in tally.untranslatable:
            self._findings.add(Kind.UNTRANSLATABLE, job.reason, source=self.source.name, id=job.id, func=job.func)
        unlisted = tally.left["untranslatable"] - len(tally.untranslatable)
        self._findings.counts[Kind.UNTRANSLATABLE] += unlisted

    def _decisions(self, rows: Iterable[MovedRow]) -> None:
        unknown = {row.decision for row in rows} - self._decided.keys()
        if not unknown:
            return
        with self.source.reading() as connection:
            texts = outbox.read_decisions(connection, unknown)
        for key in unknown:
            if key not in texts:
                self._decided[key] = None
                continue
            decision = Decision.parse(texts[key])
            number = self._look.queue_numbers(decision.queue)
            self._decided[key] = Decided(decision, decision.func, self.counts[decision.func], number)

    def _compare(self, batch: _OneBatch, rows: Iterable[MovedRow], unseen: list[_Unseen]) -> None:
        """Each row's state, and whether what was seen is what must be there; who was not seen goes to `unseen`."""
        bits, meet, late = batch.bits, batch.meet, self._look.sightings.late
        words = batch.seen.words if batch.seen is not None else array("Q")
        end = len(words)
        for row in rows:
            seq = row.seq
            word = words[seq] if seq < end else 0
            decided = self._decided[row.decision]
            if decided is None:
                func = self.routing.name(row.func_id)
                counts = self.counts[func]
            else:
                func, counts = decided.func, decided.counts
            if word & PLACE:
                words[seq] = word | VISITED
            if not bits[seq >> 3] & 0x80 >> (seq & 7):
                counts["not_handed_off"] += 1
                if word & PLACE and len(self.unbooked) < MOST_EXAMINED:
                    self.unbooked[row.identity] = func
                continue
            meet(seq)
            wanted = self._expected(row)
            if not word & PLACE:
                unseen.append(_Unseen(row, func, wanted, decided))
                continue
            counts[PLACE_WORDS[word & PLACE]] += 1
            if wanted is None or decided is None or self._number(wanted, decided) != word & NUMBER:
                self._note_difference(row.identity, func)
            if late and not word & SEVERAL and row.identity in late:
                self._note_late(row, func, late[row.identity])

    def _find_elsewhere(self, unseen: Sequence[_Unseen]) -> None:
        """Rows whose jobs were not seen: on their way back to Qudo, there without their identity, or nowhere."""
        if not unseen:
            return
        alike = self._look.alike
        taken = outbox_gone.taken_bits(self._target, {row.batch for row, *_ in unseen})
        for row, func, wanted, decided in unseen:
            if taken[row.batch] & outbox_gone.bit(row.seq):
                self.counts[func]["returning"] += 1
                continue
            work = content.work_number(wanted.class_, wanted.args) if wanted is not None else 0
            if len(alike) and wanted is not None and decided is not None:
                found = alike.take(work, decided.queue_number, row.run_after, row.identity)
                if found is not None:
                    self.counts[func][found.place.value] += 1
                    if found.other_queue:
                        self.mismatched(row.identity, row.job_id, func, "queue: another string")
                    continue
            self.unfound += 1
            self._look.sightings.batch(row.batch, self.source.name).put(row.seq, work | VISITED)
            self.counts[func]["consumed"] += 1
            funcs = self._unfound_funcs.setdefault(row.batch, array("H"))
            if row.seq >= len(funcs):
                funcs.extend([0] * (row.seq + 1 - len(funcs)))
            funcs[row.seq] = self._func_numbers.setdefault(func, len(self._func_numbers))

    def found_after_all(self, identity: Identity, state: str) -> None:
        """A job that was not found in the first look is in this state."""
        funcs = list(self._func_numbers)
        counts = self.counts[funcs[self._unfound_funcs[identity.batch][identity.seq]]]
        counts["consumed"] -= 1
        counts[state] += 1
        self.unfound -= 1

    @staticmethod
    def _number(wanted: Expected, decided: Decided) -> int:
        return content.job_number(wanted.class_, wanted.args, wanted.origin, decided.queue_number)

    def _expected(self, row: MovedRow) -> Expected | None:
        """What Resque must hold for a row; None: it can't be read any more."""
        decided = self._decided[row.decision]
        if decided is None:
            return None
        arg = row.arg if row.arg is not None else outbox_pages.whole_arg(self.source, row)
        try:
            return expected(row.job(self.source.name, decided.func, arg), decided.decision)
        except Untranslatable:
            return None

    def _note_difference(self, identity: Identity, func: str) -> None:
        if len(self.differing) < MOST_EXAMINED:
            self.differing[identity] = func
        else:
            self.mismatched(identity, None, func, "not as expected")

    def _note_late(self, row: MovedRow, func: str, queue: str) -> None:
        if row.run_after <= row.moved_at:  # else it was delayed, and has come to its queue by its time
            self._findings.add(
                Kind.ORDER,
                f"in queue {queue}: stands behind younger jobs of its batch, as jobs do that were put back",
                source=self.source.name,
                id=row.job_id,
                outbox=row.identity.text,
                func=func,
            )

    def mismatched(self, identity: Identity, job_id: int | None, func: str, detail: str) -> None:
        """Count and list a job that Resque holds otherwise than Qudo did."""
        self.counts[func]["mismatched"] += 1
        self._findings.add(Kind.MISMATCHED, detail, source=self.source.name, id=job_id, outbox=identity.text, func=func)

    def duplicated(self, identity: Identity, job_id: int | None, func: str, entries: int, detail: str) -> None:
        """Count and list a job's further copies."""
        self.counts[func]["duplicated"] += entries
        self._findings.add(Kind.DUPLICATED, detail, source=self.source.name, id=job_id, outbox=identity.text, func=func)

    # --- runnable in Qudo too ----------------------------------------------------------------------------------------

    def _find_twins(self, rows: Sequence[MovedRow]) -> None:
        """Jobs that were handed off, and are in `job` as well: the same id, func and arg, and not enqueued since."""
        if not self._job_ids:
            return
        suspects = {
            row.job_id: row
            for row in rows
            if row.job_id is not None
            and self._is_in_job(row.job_id)
            and ledger.is_set(self._bits.get(row.batch, b""), row.seq)
        }
        for twin in outbox_pages.twins(self.source, sorted(suspects)):
            row = suspects[twin.id]
            if twin.func_id != row.func_id or twin.arg != outbox_pages.whole_arg(self.source, row):
                continue
            if twin.enqueue_time is not None and twin.enqueue_time > max(row.moved_at, row.enqueue_time or 0):
                continue  # ids come back: another job, enqueued since
            at = bisect_left(self._job_ids, twin.id)
            state = self._job_states[self._codes[at]]
            func = self.routing.name(row.func_id)
            self.counts[func][state] -= 1  # the row isn't another job
            self.duplicated(row.identity, twin.id, func, 1, f"runnable in Qudo too: its row is in job ({state})")

    def _tell_alike(self) -> None:
        """Jobs that were handed off, and are in `job` under another id, or so it looks."""
        for row, moved in self._look_alikes.told():
            self._findings.add(
                Kind.ALIKE,
                f"job {row.id} in Qudo has its func, arg, uniqkey, priority and time: another job, or this one put back"
                " under a new id",
                source=self.source.name,
                id=moved.job_id,
                outbox=moved.identity.text,
                func=self.func(moved),
            )

    def _is_in_job(self, job_id: int) -> bool:
        at = bisect_left(self._job_ids, job_id)
        return at < len(self._job_ids) and self._job_ids[at] == job_id

    # --- rows by identity, for the second look -----------------------------------------------------------------------

    def rows(self, identities: Sequence[Identity]) -> dict[Identity, tuple[MovedRow, Expected | None, str]]:
        """Rows, what must be there for each, and their funcs; those that were purged meanwhile are left out."""
        found: dict[Identity, tuple[MovedRow, Expected | None, str]] = {}
        for start in range(0, len(identities), ROWS_PER_READ):
            rows = outbox_pages.rows(self.source, identities[start : start + ROWS_PER_READ])
            self._decisions(rows)
            for row in rows:
                found[row.identity] = row, self._expected(row), self.func(row)
        return found

    def func(self, row: MovedRow) -> str:
        """The func under which a row was counted."""
        decided = self._decided[row.decision]
        return self.routing.name(row.func_id) if decided is None else decided.func

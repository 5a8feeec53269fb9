"""One source's part of a verification: its rows of `job`, then each row of its outbox against what Resque held.

Reads only. Counts by func and state; what the first look did not find, or found different, is left to the second.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from migrate.config import Config
from migrate.decision import Decision
from migrate.engine.results import Tally
from migrate.engine.routing import Routing
from migrate.engine.stopping import Stop
from migrate.engine.survey import Survey
from migrate.errors import Interrupted, Untranslatable
from migrate.jobs import Identity
from migrate.qudo import ddl, outbox, outbox_pages
from migrate.qudo.outbox import ChunkState
from migrate.qudo.outbox_pages import MovedRow
from migrate.qudo.source import Source
from migrate.resque.ledger import is_set
from migrate.verify import content
from migrate.verify.content import NUMBER
from migrate.verify.expected import Expected, expected
from migrate.verify.findings import Findings
from migrate.verify.look import Look
from migrate.verify.sightings import PLACE, PLACES, SEVERAL, VISITED
from migrate.verify.words import Kind

#: Differing jobs that the second look examines; of further ones only their number is known.
MOST_EXAMINED = 100_000
#: Outbox rows that one statement reads by identity.
ROWS_PER_READ = 300


class Decided(NamedTuple):
    """A decision, and what is the same for all jobs under it."""

    decision: Decision
    counts: Counter[str]  #: of its func
    queue_number: int


class Comparison:
    """One source against what one look at Resque has met."""

    def __init__(
        self,
        source: Source,
        config: Config,
        look: Look,
        bits: Mapping[int, bytes],
        findings: Findings,
        stop: Stop,
    ) -> None:
        """`bits`: the ledger as it was before the look."""
        self.source = source
        self._look = look
        self._bits = bits
        self._findings = findings
        self._stop = stop
        self.routing = Routing(source, config)
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)  #: by func
        self.handed_off = 0
        self.differing: dict[Identity, str] = {}  #: not as expected; and the func. The second look says where.
        self.unfound = 0
        self.unbooked: dict[Identity, str] = {}  #: in Resque, though their bit was clear; and the func
        self._decided: dict[int, Decided | None] = {}
        self._job_ids = array("Q")
        self._job_states: list[str] = []
        self._codes = bytearray()

    def run(self, tally: Tally, advanced: Callable[[int], None]) -> None:
        """Look at all rows. Raises Interrupted, and the server's errors."""
        self.routing.refresh()
        has_our_tables = not ddl.lacking(self.source)
        self._survey(tally, advanced, has_our_tables=has_our_tables)
        if not has_our_tables:
            return
        with self.source.reading() as connection:
            moving = [each for each in outbox.chunks_in_order(connection) if each.state is ChunkState.MOVING]
        for page in outbox_pages.pages(self.source):
            if self._stop.requested:
                raise Interrupted(f"source {self.source.name}: stopped while comparing")
            rows = page
            for chunk in moving:  # copies of rows that are still in `job`, where they are counted
                rows = [
                    row for row in rows if row.batch != chunk.batch or not chunk.first_seq <= row.seq <= chunk.last_seq
                ]
            self._compare(rows)
            self._find_twins(rows)
            advanced(len(rows))

    def _survey(self, tally: Tally, advanced: Callable[[int], None], *, has_our_tables: bool) -> None:
        codes: dict[str, int] = {}
        for seen in Survey(self.source, self.routing, tally, self._stop, has_our_tables=has_our_tables):
            state = seen.state.value
            self.counts[self.routing.name(seen.row.func_id)][state] += 1
            self._job_ids.append(seen.row.id)
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
            self._decided[key] = Decided(decision, self.counts[decision.func], number)

    def _compare(self, rows: Sequence[MovedRow]) -> None:
        """Each row's state, and whether what was seen is what must be there."""
        self._decisions(rows)
        sightings, alike = self._look.sightings, self._look.alike
        batch = -1
        bits, found = b"", None
        for row in rows:
            if row.batch != batch:
                batch = row.batch
                bits = self._bits.get(batch, b"")
                found = sightings.batches.get(f"{batch:016x}")
            seq = row.seq
            word = found.word(seq) if found is not None else 0
            decided = self._decided[row.decision]
            func = self.routing.name(row.func_id) if decided is None else decided.decision.func
            counts = self.counts[func] if decided is None else decided.counts
            if word & PLACE and found is not None:
                found.words[seq] = word | VISITED
            if not is_set(bits, seq):
                counts["not_handed_off"] += 1
                if word & PLACE and len(self.unbooked) < MOST_EXAMINED:
                    self.unbooked[row.identity] = func
                continue
            self.handed_off += 1
            wanted = self._expected(row)
            if word & PLACE:
                place = PLACES[(word & PLACE) - 1]
                counts[place.value] += 1
                if wanted is None or decided is None or self._number(wanted, decided) != word & NUMBER:
                    self._note_difference(row.identity, func)
                if (late := sightings.late) and not word & SEVERAL and row.identity in late:
                    self._note_late(row, func, late[row.identity])
                continue
            work = content.work_number(wanted.class_, wanted.args) if wanted is not None else 0
            if len(alike) and wanted is not None and decided is not None:
                taken = alike.take(work, decided.queue_number, row.run_after, row.identity)
                if taken is not None:
                    counts[taken.place.value] += 1
                    if taken.other_queue:
                        self.mismatched(row.identity, row.job_id, func, "queue: another string")
                    continue
            self.unfound += 1
            sightings.batch(batch, self.source.name).put(seq, work | VISITED)
            found = sightings.batches[f"{batch:016x}"]
            counts["consumed"] += 1

    @staticmethod
    def _number(wanted: Expected, decided: Decided) -> int:
        return content.job_number(wanted.class_, wanted.args, wanted.origin, decided.queue_number)

    def _expected(self, row: MovedRow) -> Expected | None:
        """What Resque must hold for a row; None: it can't be read any more."""
        decided = self._decided[row.decision]
        if decided is None:
            return None
        arg = outbox_pages.whole_arg(self.source, row)
        try:
            return expected(row.job(self.source.name, decided.decision.func, arg), decided.decision)
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
            and is_set(self._bits.get(row.batch, b""), row.seq)
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
        return self.routing.name(row.func_id) if decided is None else decided.decision.func

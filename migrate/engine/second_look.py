"""The second look at Resque, for what the first one didn't settle: jobs found nowhere, twice, or other than expected.

A Perl or Ruby worker pops a job and says so after: for an instant it is nowhere. A job that moves on is met twice. So
only what two looks agree on is said. Reads only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from migrate.engine.comparing import PURGED, ROWS_PER_READ, Comparison
from migrate.engine.outbox_gone import bit, taken_bits
from migrate.engine.stopping import Stop
from migrate.errors import Interrupted
from migrate.jobs import Identity
from migrate.parts import in_parts
from migrate.resque import entries, ledger
from migrate.resque.entries import Entry
from migrate.resque.looking import SECOND_LOOK_SECONDS, Place
from migrate.resque.target import Target
from migrate.verify import content
from migrate.verify.alike import Alike
from migrate.verify.entry import Told, told
from migrate.verify.expected import differs, shown
from migrate.verify.findings import Findings
from migrate.verify.look import Look
from migrate.verify.sightings import PLACE, PLACE_CODES, SEVERAL, VISITED, Batch, describe
from migrate.verify.words import Kind

#: Bytes of entries that wait to be compared.
_WAITING_BYTES = 4 * 1024 * 1024


class _Waiting(NamedTuple):
    """An entry to be compared value by value."""

    identity: Identity
    told: Told
    place: Place
    was_unfound: bool


class _Copies(NamedTuple):
    """A job that is there more than once."""

    identity: Identity
    further: int
    detail: str


class SecondLook:
    """Settles what is open. `run` once, then `missing` and `foreign`."""

    def __init__(
        self,
        target: Target,
        look: Look,
        comparisons: Mapping[str, Comparison],
        bits: Mapping[int, bytes],
        findings: Findings,
        stop: Stop,
        *,
        show_args: bool,
    ) -> None:
        self._target = target
        self._look = look
        self._comparisons = comparisons
        self._bits = bits
        self._findings = findings
        self._stop = stop
        self._show_args = show_args
        self._alike = Alike()
        self._copies: defaultdict[Identity, list[str]] = defaultdict(list)
        self._unbooked: set[Identity] = set()
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0

    def run(self) -> None:
        """Look again, if there is anything to look for. Raises Interrupted, and the servers' errors."""
        each = self._comparisons.values()
        unfound = any(one.unfound for one in each)
        if unfound or self._look.sightings.copies or any(one.differing or one.unbooked for one in each):
            self._stop.wait(SECOND_LOOK_SECONDS)
            for number, entry in enumerate(entries.everything(self._target)):
                if number % 1000 == 0 and self._stop.requested:
                    raise Interrupted("stopped during the second look")
                self._meet(entry, keep_alike=unfound)
            self._compare()
            self._alike.ready()
            if len(self._alike):
                self._account_by_content()
            self._settle_taken()
        self._settle_differing()
        self._settle_copies()
        self._settle_unbooked()

    def _meet(self, entry: Entry, *, keep_alike: bool) -> None:
        try:
            found = told(entry)
        except ValueError:
            return
        if found is None:
            return
        if found.outbox is None:
            if keep_alike and found.origin is None:
                self._alike.add(content.work_number(found.job.get("class"), found.job.get("args")), 0, 0, entry.place)
            return
        located = self._look.locate(found.outbox)
        if isinstance(located, str):
            return
        batch, seq = located
        comparison = self._comparisons.get(batch.source)
        if comparison is None:
            return
        word = batch.word(seq)
        identity = Identity(batch.number, seq)
        if word & SEVERAL:
            self._copies[identity].append(describe(entry.place, entry.where))
        if identity in comparison.unbooked:
            self._unbooked.add(identity)
        was_unfound = word & (PLACE | VISITED) == VISITED
        if was_unfound:
            batch.put(seq, word & ~PLACE | PLACE_CODES[entry.place])
        if was_unfound or identity in comparison.differing:
            self._waiting.append(_Waiting(identity, found, entry.place, was_unfound))
            self._waiting_bytes += len(entry.text)
            if len(self._waiting) >= ROWS_PER_READ or self._waiting_bytes >= _WAITING_BYTES:
                self._compare()

    # --- value by value ----------------------------------------------------------------------------------------------

    def _compare(self) -> None:
        """Compare what waits."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        by_source: defaultdict[str, list[_Waiting]] = defaultdict(list)
        for each in waiting:
            by_source[self._look.owner(each.identity.batch) or ""].append(each)
        for name, listed in by_source.items():
            comparison = self._comparisons[name]
            rows = comparison.rows([each.identity for each in listed])
            for each in listed:
                if each.identity not in rows:  # purged meanwhile
                    continue
                row, wanted, func = rows[each.identity]
                if each.was_unfound:
                    comparison.found_after_all(each.identity, each.place.value)
                elif comparison.differing.pop(each.identity, None) is None:
                    continue  # met twice
                if wanted is None:
                    detail: str | None = "its row in the outbox can't be read: nothing tells what it must be"
                else:
                    reread = each.place in (Place.WORKING, Place.FAILED)
                    detail = differs(wanted, each.told.job, each.told.queue, numbers_reread=reread)
                    if detail is not None and self._show_args:
                        detail += shown(wanted, each.told.job)
                if detail is not None:
                    comparison.mismatched(each.identity, row.job_id, func, f"{detail} ({each.place.value})")

    def _settle_differing(self) -> None:
        """Jobs that were other than expected in the first look, and not met again."""
        for comparison in self._comparisons.values():
            for identity, func in comparison.differing.items():
                batch = self._look.sightings.batch(identity.batch, comparison.source.name)
                if batch.word(identity.seq) & PLACE in (PLACE_CODES[Place.WORKING], PLACE_CODES[Place.FAILED]):
                    continue  # a worker's own spelling of numbers looks like this
                comparison.mismatched(identity, None, func, "not as expected in the first look, gone in the second")
            comparison.differing.clear()

    # --- jobs without an identity ------------------------------------------------------------------------------------

    def _account_by_content(self) -> None:
        """Entries that appeared since the first look account for jobs that it didn't find."""
        used: Counter[int] = Counter()
        for comparison in self._comparisons.values():
            for part in in_parts(self._unfound(comparison), ROWS_PER_READ):
                found: dict[Identity, Place] = {}
                for identity, batch in part:
                    work = batch.word(identity.seq) & content.NUMBER
                    count = self._alike.count(work)
                    if count and count - self._look.alike.taken(work) - used[work] > 0:
                        used[work] += 1
                        found[identity] = self._alike.places(work)[-1]
                        batch.put(identity.seq, batch.word(identity.seq) | PLACE_CODES[found[identity]])
                for identity, place in found.items():
                    comparison.found_after_all(identity, place.value)

    def _settle_taken(self) -> None:
        """A rollback has taken jobs since the first look."""
        for comparison in self._comparisons.values():
            for batch in list(self._look.sightings.batches.values()):
                if batch.source != comparison.source.name or next(batch.unfound, None) is None:
                    continue
                taken = taken_bits(self._target, [batch.number])[batch.number]
                for seq in [seq for seq in batch.unfound if taken & bit(seq)] if taken else ():
                    batch.put(seq, batch.word(seq) & ~VISITED)
                    comparison.found_after_all(Identity(batch.number, seq), "returning")

    def _unfound(self, comparison: Comparison) -> Iterator[tuple[Identity, Batch]]:
        for batch in list(self._look.sightings.batches.values()):
            if batch.source == comparison.source.name:
                for seq in batch.unfound:
                    yield Identity(batch.number, seq), batch

    # --- copies ------------------------------------------------------------------------------------------------------

    def _settle_copies(self) -> None:
        """Jobs that both looks have met several times, and further delayed entries of jobs without an identity."""
        copies: defaultdict[str, list[_Copies]] = defaultdict(list)
        for identity, times in self._look.sightings.copies.items():
            places = self._copies.get(identity, [])
            further = min(times, len(places)) - 1
            if further > 0:
                listed = f"{len(places)} copies: {', '.join(places[:5])}"
                copies[self._look.owner(identity.batch) or ""].append(_Copies(identity, further, listed))
        for doubled in self._look.alike.doubled():
            again = _Copies(doubled.like, doubled.entries, "delayed more often at its second than such jobs were moved")
            copies[self._look.owner(doubled.like.batch) or ""].append(again)
        for name, found in copies.items():
            if name in self._comparisons:
                self._duplicated(self._comparisons[name], found)

    def _settle_unbooked(self) -> None:
        """Jobs that Resque has and the ledger doesn't: the next run hands them off once more."""
        for comparison in self._comparisons.values():
            suspects = self._unbooked & comparison.unbooked.keys()
            unbooked = sorted(suspects - ledger.delivered_many(self._target, suspects))
            detail = "in Resque, though its bit is clear: run would hand it off once more"
            self._duplicated(comparison, [_Copies(identity, 1, detail) for identity in unbooked])

    @staticmethod
    def _duplicated(comparison: Comparison, copies: Iterable[_Copies]) -> None:
        for part in in_parts(sorted(copies), ROWS_PER_READ):
            rows = comparison.rows([each.identity for each in part])
            for each in part:
                row = rows.get(each.identity)
                job_id, func = (row[0].job_id, row[2]) if row is not None else (None, PURGED)
                comparison.duplicated(each.identity, job_id, func, each.further, each.detail)

    # --- what is left ------------------------------------------------------------------------------------------------

    def missing(self, comparison: Comparison) -> None:
        """With --expect-idle: nobody can have consumed what was found nowhere."""
        for counts in comparison.counts.values():
            counts["missing"] += counts.pop("consumed", 0)
        listed = 0
        for part in in_parts(self._unfound(comparison), ROWS_PER_READ):
            if not self._findings.has_room(Kind.MISSING):
                break
            for identity, (row, _, func) in sorted(comparison.rows([identity for identity, _ in part]).items()):
                listed += 1
                self._findings.add(
                    Kind.MISSING,
                    "handed off, and found nowhere",
                    source=comparison.source.name,
                    id=row.job_id,
                    outbox=identity.text,
                    func=func,
                )
        self._findings.counts[Kind.MISSING] += max(0, comparison.unfound - listed)

    def foreign(self) -> Counter[str]:
        """Identities that name a batch of a source and were never handed off, counted by source."""
        found: Counter[str] = Counter()
        for batch in list(self._look.sightings.batches.values()):
            if batch.source not in self._comparisons:
                continue
            bits = self._bits.get(batch.number, b"")
            unknown = [seq for seq in batch.unvisited if not ledger.is_set(bits, seq)]
            if not unknown:
                continue
            now = ledger.bitmaps(self._target, [batch.number])[batch.number]
            for seq in unknown:
                if not ledger.is_set(now, seq):
                    found[batch.source] += 1
                    self._findings.add(
                        Kind.FOREIGN,
                        "an identity of this source's that was never handed off",
                        source=batch.source,
                        outbox=Identity(batch.number, seq).text,
                    )
        return found

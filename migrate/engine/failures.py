"""Importing Qudo's failures: each row of `exception_log` that is one becomes a failure of Resque's, once.

Which rows those are, `final_failures.py` says. Pushes into Resque's list of failures and enters the ledger of failures;
then, behind a durable fence, sets Qudo's own mark `retried`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from migrate.config import FailureImport
from migrate.engine import binding as pair
from migrate.engine import final_failures
from migrate.engine.results import Tally
from migrate.engine.routing import Routing
from migrate.engine.stopping import Stop
from migrate.errors import Interrupted, Untranslatable
from migrate.failpoints import reach
from migrate.jobs import QudoFailure, ResqueFailure
from migrate.qudo import binding, exceptions
from migrate.qudo.exceptions import Bucket, Mark
from migrate.qudo.source import Source
from migrate.resque import failures as resque_failures
from migrate.resque.failures import Seen
from migrate.resque.target import Target
from migrate.translate import fingerprint

#: Rows, and bytes of them, that one push carries.
PUSH_ROWS = 200
PUSH_BYTES = 4 * 1024 * 1024
#: Rows that are open of which an import leaves a note; with more, the next one reads all.
MOST_OPEN = 1000
#: The finding of a row whose push nothing has proved durable: it keeps its mark, and is known to the ledger.
NOT_MARKED = "failures imported, not marked as retried: this Redis gives no proof that it has them on disk"


#: The finding of rows whose func has left the table `func`: nobody can say which class would run them.
UNKNOWN_FUNC = "failures of a func that the table func doesn't have: they stay in exception_log"


class FailuresImport:
    """Imports one source's failures. Safe to repeat and side by side: the ledger is the arbiter."""

    def __init__(self, source: Source, target: Target, routing: Routing, tally: Tally, stop: Stop) -> None:
        self._source = source
        self._target = target
        self._routing = routing
        self._tally = tally
        self._stop = stop
        self._entered: list[ResqueFailure] = []  # rows that Redis has now, without their texts
        self._stay: set[tuple[str, str]] = set()  # findings of rows that can't be expressed
        self._inexpressible: set[int] = set()  # ids of those that were met last
        self._seen: tuple[str, list[Bucket], set[int]] | None = None  # by the last selection: rule, table, open rows

    def run(self, mode: FailureImport) -> None:
        """Import what `mode` says. Raises Interrupted between pushes, and the servers' errors."""
        self._entered = []
        for imported, crossed in self._selected(mode, has_our_tables=True):
            for failures in self._translated(imported):
                self._push(failures)
                self._entered += [_header(failure) for failure in failures]
            self._note(crossed)
        if self._seen is not None:
            self._remember(*self._seen)

    def look(self, mode: FailureImport, *, has_our_tables: bool) -> None:
        """Count what `run` would import now. Writes nothing. Raises Interrupted, and the servers' errors."""
        for imported, _ in self._selected(mode, has_our_tables=has_our_tables):
            self._tally.imported += len(imported)

    def note_crossed(self) -> None:
        """Note all failures whose job is in the outbox: once that row is purged, nothing else tells that it crossed."""
        func_ids = list(self._routing.funcs)
        for marks in final_failures.newest(self._source, func_ids):
            unknown = self._unknown(marks, enters=False)
            self._note(final_failures.crossed(self._source, func_ids, unknown))

    def _remember(self, rule: str, buckets: Sequence[Bucket], still_open: set[int]) -> None:
        """So that the next import reads what has changed since. What is imported is open until it has its mark."""
        ids = sorted(still_open.union(failure.id for failure in self._entered))
        seen = None if len(ids) > MOST_OPEN else Seen({bucket.first: bucket.digest for bucket in buckets}, ids)
        resque_failures.remember(self._target, self._source.name, rule, seen)

    def _selected(self, mode: FailureImport, *, has_our_tables: bool) -> Iterator[tuple[list[int], list[int]]]:
        """Ids, ascending, of rows that the ledger doesn't know: to be imported, and only to be noted, in parts."""
        for finding in self._stay:
            self._tally.findings.pop(finding, None)
        self._stay.clear()
        if mode is FailureImport.NONE:
            return
        if unknown := exceptions.of_unknown_funcs(self._source, self._routing.names):
            self._tally.findings["(all)", UNKNOWN_FUNC] = unknown
        func_ids = [func_id for func_id, routed in self._routing.funcs.items() if routed.moves]
        self._seen = None
        if mode is FailureImport.ALL:
            for marks in final_failures.unmarked(self._source, func_ids):
                yield sorted(mark.id for mark in self._unknown(marks, enters=True)), []
            return
        yield from self._final(func_ids, has_our_tables=has_our_tables)

    def _final(self, func_ids: Sequence[int], *, has_our_tables: bool) -> Iterator[tuple[list[int], list[int]]]:
        rule = ",".join(map(str, sorted(func_ids)))
        buckets = exceptions.buckets(self._source)  # first: what comes meanwhile has changed since
        before = resque_failures.seen(self._target, self._source.name, rule)
        chosen = final_failures.look(buckets, None if before is None else before.buckets, before.open if before else ())
        still_open: set[int] = set()
        for part in final_failures.candidates(self._source, func_ids, chosen):
            new = self._unknown(part.candidates, enters=True)
            still_open |= part.open | self._inexpressible
            crossed = final_failures.crossed(self._source, func_ids, new) if has_our_tables else []
            left = final_failures.gone(self._source, func_ids, new)
            waiting = {mark.id for mark in new}.difference(mark.id for mark in left)
            still_open |= waiting
            yield sorted({mark.id for mark in left}.difference(crossed)), crossed
        self._seen = rule, buckets, still_open

    def _unknown(self, marks: Sequence[Mark], *, enters: bool) -> list[Mark]:
        """Those that the ledger doesn't know. `enters`: keep what was imported, leave out what can't be expressed."""
        by_id = {mark.id: mark for mark in marks}
        unknown: list[Mark] = []
        self._inexpressible = set()
        for rows in self._pages(sorted(by_id)):
            failures = [_textless(row) for row in rows]
            known = resque_failures.known(self._target, self._source.name, failures)
            if enters:
                self._entered += [failure for failure in failures if failure.id in known.imported]
            for row in rows:
                if row.id in known.imported or row.id in known.crossed:
                    continue
                if not enters or self._translate(row) is not None:
                    unknown.append(by_id[row.id])
                else:
                    self._inexpressible.add(row.id)
        return unknown

    def _note(self, ids: Sequence[int]) -> None:
        for rows in self._pages(ids):
            self._push([_textless(row) for row in rows])

    def _translated(self, ids: Sequence[int]) -> Iterator[list[ResqueFailure]]:
        """The failures as Resque has them, in pages."""
        for rows in self._pages(ids):
            yield [failure for row in rows if (failure := self._translate(row)) is not None]

    def _pages(self, ids: Sequence[int]) -> Iterator[list[QudoFailure]]:
        """Rows in pages bounded in rows and bytes."""
        for start in range(0, len(ids), PUSH_ROWS):
            page: list[int] = []
            size = 0
            for row_id, row_bytes in exceptions.sizes(self._source, ids[start : start + PUSH_ROWS]):
                if page and size + row_bytes > PUSH_BYTES:
                    yield self._read(page)
                    page, size = [], 0
                page.append(row_id)
                size += row_bytes
            if page:
                yield self._read(page)

    def _read(self, ids: Sequence[int]) -> list[QudoFailure]:
        if self._stop.requested:
            raise Interrupted(f"source {self._source.name}: stopped while importing failures")
        return exceptions.rows(self._source, self._routing.names, ids)

    def _translate(self, row: QudoFailure) -> ResqueFailure | None:
        """The failure as Resque has it; None when its arg can't be expressed: it stays where it is, and is counted."""
        try:
            return self._routing.failure_translator(row.func_id).translate_failure(row)
        except Untranslatable as error:
            finding = row.func, f"failure stays in exception_log: {error.message}"
            self._stay.add(finding)
            self._tally.findings[finding] += 1
            return None

    def _push(self, failures: Sequence[ResqueFailure]) -> None:
        with self._source.reading() as connection:
            held = binding.read(connection)
        with pair.named(self._source):
            done = resque_failures.enter(
                self._target, self._source.name, failures, target_id=held.target_id or "", beat=held.beat
            )
        self._tally.imported += done.pushed
        reach("failures.entered")

    @property
    def unmarked(self) -> int:
        """How many imported rows don't have Qudo's mark yet."""
        return len(self._entered)

    def look_for_entered(self, target: Target) -> list[tuple[int, int]]:
        """Id and time of those rows that the ledger still knows, over this connection."""
        known = resque_failures.known(target, self._source.name, self._entered)
        return [(failure.id, failure.time) for failure in self._entered if failure.id in known.imported]

    def leave_unmarked(self) -> None:
        """Say that the rows keep their state: a crash of Redis could still forget the failures."""
        self._tally.findings["(all)", NOT_MARKED] += len(self._entered)


def _textless(row: QudoFailure) -> ResqueFailure:
    """By what the ledger knows the row; pushed, it is only noted."""
    return ResqueFailure(row.id, row.time, fingerprint(row), None)


def _header(failure: ResqueFailure) -> ResqueFailure:
    """The failure without its text, which may be large."""
    return msgspec.structs.replace(failure, text=None)

"""Importing Qudo's failures: which rows of `exception_log` become Resque failures, and that each does once.

Reads `exception_log`, `job`, the outbox and `job_status`; pushes into Resque's list of failures; then, behind a durable
fence, sets Qudo's own mark `retried`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from migrate.config import FailureImport
from migrate.engine import binding as pair
from migrate.engine.results import Tally
from migrate.engine.routing import Routing
from migrate.engine.stopping import Stop
from migrate.errors import Interrupted, Untranslatable
from migrate.failpoints import reach
from migrate.jobs import QudoFailure, ResqueFailure
from migrate.qudo import binding, exceptions
from migrate.qudo.exceptions import Mark
from migrate.qudo.source import Source
from migrate.resque import failures as resque_failures
from migrate.resque.target import Target
from migrate.translate import fingerprint

#: Distinct failures that are held in memory at a time: about 100 bytes each.
MARKS_IN_MEMORY = 200_000
#: Seconds after which a worker has logged the failure for which it has put its job back. Both times are its own.
LOGGED_WITHIN_SECONDS = 10
#: Rows, and bytes of them, that one push carries.
PUSH_ROWS = 200
PUSH_BYTES = 4 * 1024 * 1024
#: The finding of a row whose push nothing has proved durable: it keeps its mark, and is known to the ledger.
NOT_MARKED = "failures imported, not marked as retried: this Redis gives no proof that it has them on disk"


#: The finding of rows whose func has left the table `func`: nobody can say which class would run them.
UNKNOWN_FUNC = "failures of a func that the table func doesn't have: they stay in exception_log"


class Selected(NamedTuple):
    """What is to be done with rows: ids ascending."""

    imported: list[int]  #: become failures
    crossed: list[int]  #: their job has crossed to Resque and goes on there: only noted


def select(source: Source, routing: Routing, mode: FailureImport, *, has_our_tables: bool) -> Selected:
    """Choose rows by `[failures] import`, of funcs that move. Goes through the tables in parts, to bound memory."""
    func_ids = [func_id for func_id, routed in routing.funcs.items() if routed.moves]
    if mode is FailureImport.NONE or not func_ids:
        return Selected([], [])
    if mode is FailureImport.ALL:
        return Selected([mark.id for mark in exceptions.failures(source, func_ids, 0, 1) if not mark.retried], [])
    total = sum(1 for _ in exceptions.failures(source, func_ids, 0, 1))
    parts = total // MARKS_IN_MEMORY + 1
    imported: list[int] = []
    crossed: list[int] = []
    for part in range(parts):
        final, moved = _final(source, func_ids, part, parts, has_our_tables=has_our_tables)
        imported += final
        crossed += moved
    return Selected(sorted(imported), sorted(crossed))


def _final(
    source: Source, func_ids: Sequence[int], part: int, parts: int, *, has_our_tables: bool
) -> tuple[list[int], list[int]]:
    """The newest row of each job, unless it was put back, waits again, has crossed, or was completed later."""
    # Before and behind the failures: a worker may complete a job while we read, and no trace of it is left.
    retried = {mark.fingerprint for mark in exceptions.retried_jobs(source, func_ids, part, parts)}
    newest: dict[int, Mark] = {}
    before: dict[int, int] = {}  # when the same job, or one like it, had failed before that
    for mark in exceptions.failures(source, func_ids, part, parts):
        if mark.fingerprint not in retried:
            if mark.fingerprint in newest:
                before[mark.fingerprint] = newest[mark.fingerprint].time
            newest[mark.fingerprint] = mark
    if not newest:
        return [], []
    for mark in exceptions.waiting_jobs(source, func_ids, part, parts):
        newest.pop(mark.fingerprint, None)
    for mark in exceptions.completed_jobs(source, func_ids, part, parts):
        failed = newest.get(mark.fingerprint)
        if failed is not None and mark.time >= failed.time:  # started after it had failed
            del newest[mark.fingerprint]
    crossed: list[int] = []
    for mark in exceptions.moved_jobs(source, func_ids, part, parts) if has_our_tables else ():
        failed = newest.get(mark.fingerprint)
        if failed is not None and _is_of(mark, failed, before.get(mark.fingerprint, -1)):
            crossed.append(newest.pop(mark.fingerprint).id)
    return [mark.id for mark in newest.values() if not mark.retried], crossed


def _is_of(moved: Mark, failed: Mark, failed_before: int) -> bool:
    """Whether the newest failure is one of a job that has crossed since; a later one is the end of another job.

    Qudo puts a job back first and logs the failure after that; the migrator may take the row in between.
    """
    if failed.time <= moved.time:
        return True
    is_logged = failed_before >= moved.put_back
    return not is_logged and 0 <= failed.time - moved.put_back <= LOGGED_WITHIN_SECONDS


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

    def run(self, mode: FailureImport) -> None:
        """Import what `mode` says. Raises Interrupted between pushes, and the servers' errors."""
        selected = self._select(mode, has_our_tables=True)
        self._entered = []
        for failures in self._translated(selected.imported):
            self._push(failures)
            self._entered += [msgspec.structs.replace(failure, text=None) for failure in failures]
        for rows in self._pages(selected.crossed):
            self._push([ResqueFailure(row.id, row.time, fingerprint(row), None) for row in rows])

    def look(self, mode: FailureImport, *, has_our_tables: bool) -> None:
        """Count what `run` would import now. Writes nothing. Raises Interrupted, and the servers' errors."""
        selected = self._select(mode, has_our_tables=has_our_tables)
        for failures in self._translated(selected.imported):
            known = resque_failures.known(self._target, self._source.name, failures)
            self._tally.imported += len(failures) - len(known)

    def _select(self, mode: FailureImport, *, has_our_tables: bool) -> Selected:
        names = self._routing.names
        if mode is not FailureImport.NONE and (unknown := exceptions.of_unknown_funcs(self._source, names)):
            self._tally.findings["(all)", UNKNOWN_FUNC] = unknown
        return select(self._source, self._routing, mode, has_our_tables=has_our_tables)

    def _translated(self, ids: Sequence[int]) -> Iterator[list[ResqueFailure]]:
        """The failures as Resque has them, in pages; those that can't be expressed are counted anew."""
        for finding in self._stay:
            self._tally.findings.pop(finding, None)
        self._stay.clear()
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
        return [(failure.id, failure.time) for failure in self._entered if failure.id in known]

    def leave_unmarked(self) -> None:
        """Say that the rows keep their state: a crash of Redis could still forget the failures."""
        self._tally.findings["(all)", NOT_MARKED] += len(self._entered)

"""Which rows of `exception_log` are the end of a job: by what `job`, `job_status` and the outbox say. Writes nothing.

A row names no job: what belongs together is told by func, uniqkey and arg. Goes through the table in parts, to bound
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from migrate.qudo import exceptions
from migrate.qudo.exceptions import Mark
from migrate.qudo.source import Source

#: Distinct failures that are held in memory at a time: about 100 bytes each.
MARKS_IN_MEMORY = 200_000
#: Seconds after which a worker has logged the failure for which it has put its job back. Both times are its own.
LOGGED_WITHIN_SECONDS = 10
#: Seconds by which the clock of a worker's host may be ahead of the server's.
CLOCKS_APART_SECONDS = 300


class Candidate(NamedTuple):
    """The newest failure of a job, without a mark."""

    mark: Mark
    before: int = -1  #: when the same job, or one like it, had failed before that; -1: never


def unmarked(source: Source, func_ids: Sequence[int]) -> Iterator[list[Candidate]]:
    """All rows that nobody has put back, whatever became of their jobs."""
    if not func_ids or not exceptions.count(source, func_ids).unmarked:
        return
    page: list[Candidate] = []
    for mark in exceptions.failures(source, func_ids, 0, 1):
        if not mark.retried:
            page.append(Candidate(mark))
        if len(page) >= MARKS_IN_MEMORY:
            yield page
            page = []
    yield page


def newest(source: Source, func_ids: Sequence[int]) -> Iterator[list[Candidate]]:
    """The newest row of each job, unless it was put back. Whether it waits again or was completed isn't asked."""
    for part, parts in _parts(source, func_ids):
        yield _unmarked(_newest(source, func_ids, part, parts, leaving_out=set()))


def candidates(source: Source, func_ids: Sequence[int]) -> Iterator[list[Candidate]]:
    """The newest row of each job, unless it was put back, waits again or was completed later."""
    for part, parts in _parts(source, func_ids):
        # Before and behind the failures: a worker may complete a job while we read, and no trace of it is left.
        retried = {mark.fingerprint for mark in exceptions.retried_jobs(source, func_ids, part, parts)}
        found = _newest(source, func_ids, part, parts, leaving_out=retried)
        if found:
            for mark in exceptions.waiting_jobs(source, func_ids, part, parts):
                found.pop(mark.fingerprint, None)
        if found:
            for mark in exceptions.completed_jobs(source, func_ids, part, parts):
                failed = found.get(mark.fingerprint)
                if failed is not None and mark.time >= failed.mark.time:  # started after it had failed
                    del found[mark.fingerprint]
        yield _unmarked(found)


def crossed(source: Source, func_ids: Sequence[int], of: Sequence[Candidate]) -> list[int]:
    """Ids, ascending, of those whose job has crossed to Resque and goes on there.

    Reads of the outbox what moved since the oldest of them, and some minutes before.
    """
    if not of:
        return []
    by_fingerprint = {each.mark.fingerprint: each for each in of}
    since = min(each.mark.time for each in of) - LOGGED_WITHIN_SECONDS - CLOCKS_APART_SECONDS
    found: set[int] = set()
    for moved in exceptions.moved_jobs(source, func_ids, by_fingerprint.keys(), since):
        failed = by_fingerprint[moved.fingerprint]
        if _is_of(moved, failed):
            found.add(failed.mark.id)
    return sorted(found)


def gone(source: Source, func_ids: Sequence[int], of: Sequence[Candidate]) -> list[Candidate]:
    """Those that don't wait in `job`, asked last: a rollback may have put a job back since it was looked for."""
    left = {each.mark.fingerprint: each for each in of}
    for mark in exceptions.waiting_jobs(source, func_ids, 0, 1) if left else ():
        left.pop(mark.fingerprint, None)
    return list(left.values())


def _is_of(moved: Mark, failed: Candidate) -> bool:
    """Whether the newest failure is one of a job that has crossed since; a later one is the end of another job.

    Qudo puts a job back first and logs the failure after that; the migrator may take the row in between.
    """
    if failed.mark.time <= moved.time:
        return True
    is_logged = failed.before >= moved.put_back
    return not is_logged and 0 <= failed.mark.time - moved.put_back <= LOGGED_WITHIN_SECONDS


def _parts(source: Source, func_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each part's number, and how many there are; none where every row has its mark."""
    if not func_ids:
        return
    rows = exceptions.count(source, func_ids)
    if not rows.unmarked:
        return
    parts = rows.all // MARKS_IN_MEMORY + 1
    yield from ((part, parts) for part in range(parts))


def _newest(
    source: Source, func_ids: Sequence[int], part: int, parts: int, *, leaving_out: set[int]
) -> dict[int, Candidate]:
    """The newest row of each job by its fingerprint, with a mark or not."""
    found: dict[int, Candidate] = {}
    for mark in exceptions.failures(source, func_ids, part, parts):
        if mark.fingerprint not in leaving_out:
            earlier = found.get(mark.fingerprint)
            found[mark.fingerprint] = Candidate(mark, -1 if earlier is None else earlier.mark.time)
    return found


def _unmarked(found: dict[int, Candidate]) -> list[Candidate]:
    return [each for each in found.values() if not each.mark.retried]

"""Which rows of `exception_log` are the end of a job: by what `job`, `job_status` and the outbox say. Writes nothing.

A row names no job: what belongs together is told by func, uniqkey and arg. Goes through the table in parts, to bound
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from migrate.qudo import exceptions
from migrate.qudo.exceptions import BUCKET_ROWS, Bucket, Mark
from migrate.qudo.source import Source

#: Distinct failures that are held in memory at a time: about 100 bytes each.
MARKS_IN_MEMORY = 200_000
#: Seconds after which a worker has logged the failure for which it has put its job back. Both times are its own.
LOGGED_WITHIN_SECONDS = 10
#: Seconds by which the clock of a worker's host may be ahead of the server's.
CLOCKS_APART_SECONDS = 300


class Look(NamedTuple):
    """Which rows are to be looked at."""

    since: int = 0  #: those with this id or a higher one
    also: Sequence[int] = ()  #: and these, with lower ids
    rows: int = 0  #: how many that are


class Part(NamedTuple):
    """What a part of the table has."""

    candidates: list[Mark]
    open: set[int]  #: others, of which something may still become: their job waits again


def look(buckets: Sequence[Bucket], before: Mapping[int, str] | None, still_open: Sequence[int]) -> Look:
    """What to look at when `before` tells how the buckets looked to a complete import, which left some rows open.

    From the first bucket that has changed on, all: a newer row, with or without a mark, tells that an older one is
    history.
    """
    known = {} if before is None else before
    lowest = [bucket.first for bucket in buckets if known.get(bucket.first) != bucket.digest]
    gone = known.keys() - {bucket.first for bucket in buckets}
    since = min([*lowest, *gone], default=buckets[-1].first + BUCKET_ROWS if buckets else 0)
    also = [row_id for row_id in still_open if row_id < since]
    return Look(since, also, sum(bucket.rows for bucket in buckets if bucket.first >= since) + len(also))


def unmarked(source: Source, func_ids: Sequence[int]) -> Iterator[list[Mark]]:
    """All rows that nobody has put back, whatever became of their jobs."""
    page: list[Mark] = []
    for mark in exceptions.failures(source, func_ids, 0, 1) if func_ids else ():
        if not mark.retried:
            page.append(mark)
        if len(page) >= MARKS_IN_MEMORY:
            yield page
            page = []
    yield page


def newest(source: Source, func_ids: Sequence[int]) -> Iterator[list[Mark]]:
    """The newest row of each job, unless it was put back. Whether it waits again or was completed isn't asked."""
    buckets = exceptions.buckets(source)
    if func_ids and any(bucket.unmarked for bucket in buckets):
        for part, parts in _parts(look(buckets, None, ())):
            yield _unmarked(_newest(source, func_ids, part, parts, Look()))


def candidates(source: Source, func_ids: Sequence[int], chosen: Look) -> Iterator[Part]:
    """The newest row of each job, unless it was put back, waits again or was completed later."""
    if not func_ids or not chosen.rows:
        return
    for part, parts in _parts(chosen):
        # Before and behind the failures: a worker may complete a job while we read, and no trace of it is left.
        retried = {mark.fingerprint for mark in exceptions.retried_jobs(source, func_ids, part, parts)}
        found = _newest(source, func_ids, part, parts, chosen)
        waits = [found.pop(fingerprint) for fingerprint in retried.intersection(found)]
        if found:
            for mark in exceptions.waiting_jobs(source, func_ids, part, parts):
                if (waiting := found.pop(mark.fingerprint, None)) is not None:
                    waits.append(waiting)
        if found:
            for mark in exceptions.completed_jobs(source, func_ids, part, parts):
                failed = found.get(mark.fingerprint)
                if failed is not None and mark.time >= failed.time:  # started after it had failed
                    del found[mark.fingerprint]
        yield Part(_unmarked(found), {mark.id for mark in waits if not mark.retried})


def crossed(source: Source, func_ids: Sequence[int], of: Sequence[Mark]) -> list[int]:
    """Ids, ascending, of those whose job has crossed to Resque and goes on there.

    Reads of the outbox what moved since the oldest of them, and some minutes before.
    """
    if not of:
        return []
    by_fingerprint = {each.fingerprint: each for each in of}
    since = min(each.time for each in of) - LOGGED_WITHIN_SECONDS - CLOCKS_APART_SECONDS
    found: set[int] = set()
    for moved in exceptions.moved_jobs(source, func_ids, by_fingerprint.keys(), since):
        failed = by_fingerprint[moved.fingerprint]
        if failed.id not in found and _is_of(source, moved, failed):
            found.add(failed.id)
    return sorted(found)


def gone(source: Source, func_ids: Sequence[int], of: Sequence[Mark]) -> list[Mark]:
    """Those that don't wait in `job`, asked last: a rollback may have put a job back since it was looked for."""
    left = {each.fingerprint: each for each in of}
    for mark in exceptions.waiting_jobs(source, func_ids, 0, 1) if left else ():
        left.pop(mark.fingerprint, None)
    return list(left.values())


def _is_of(source: Source, moved: Mark, failed: Mark) -> bool:
    """Whether the newest failure is one of a job that has crossed since; a later one is the end of another job.

    Qudo puts a job back first and logs the failure after that; the migrator may take the row in between. Where that
    failure is logged already, this one is another's.
    """
    if failed.time <= moved.time:
        return True
    if not 0 <= failed.time - moved.put_back <= LOGGED_WITHIN_SECONDS:
        return False
    return not exceptions.failed_between(source, failed, moved.put_back)


def _parts(chosen: Look) -> Iterator[tuple[int, int]]:
    """Each part's number, and how many there are."""
    parts = chosen.rows // MARKS_IN_MEMORY + 1
    yield from ((part, parts) for part in range(parts))


def _newest(source: Source, func_ids: Sequence[int], part: int, parts: int, chosen: Look) -> dict[int, Mark]:
    """The newest row of each job by its fingerprint, with a mark or not."""
    rows = exceptions.failures(source, func_ids, part, parts, chosen.since, chosen.also)
    return {mark.fingerprint: mark for mark in rows}


def _unmarked(found: Mapping[int, Mark]) -> list[Mark]:
    return [mark for mark in found.values() if not mark.retried]

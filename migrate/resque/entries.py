"""Every entry of a live Resque that may hold a job, each once, in the order in which a job goes its way. Reads only.

Lists are read from the tail: workers pop at the head. Pushes meanwhile shift what was read towards the head, so each
page begins with the last entries of the one before, which tell where to go on: what is met twice would look doubled.
A rollback takes entries near the tail; then the others shift towards it, and the reader steps back (seen: 42 of 20,000
queued jobs were never met).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from migrate.resque.looking import Place
from migrate.resque.target import Target

#: Bytes that one page should bring, and the entries that it may have.
PAGE_BYTES = 1024 * 1024
FIRST_PAGE_ENTRIES = 100
MOST_PAGE_ENTRIES = 4000
#: Entries of a page by which the next one finds its beginning.
ANCHOR_ENTRIES = 8
#: Entries to step back at first when a page has nothing of the one before, and steps before that is given up.
STEP_BACK_ENTRIES, MOST_STEPS_BACK = 4000, 50


class Page(NamedTuple):
    """Some entries of one list, from its tail; or one worker's note."""

    texts: list[bytes]
    place: Place
    where: str  #: the queue, the second that it is due, the worker, or the name of a list


class Entry(NamedTuple):
    """One entry of a list, or one worker's note."""

    text: bytes
    place: Place
    where: str  #: the queue, the second that it is due, the worker, or the name of a list


def everything(target: Target) -> Iterator[Entry]:
    """All of `pages`, one by one."""
    for page in pages(target):
        for text in page.texts:
            yield Entry(text, page.place, page.where)


def pages(target: Target) -> Iterator[Page]:
    """Delayed, queues, what workers are at, failures. A job that moves on meanwhile is met twice, never missed."""
    keys = target.keys
    with target.commands() as client:
        seconds: list[bytes] = client.zrange(keys.schedule, 0, -1)  # type: ignore[assignment]
    for second in seconds:
        if second.isdigit():
            yield from _list(target, keys.delayed(int(second)), Place.DELAYED, second.decode())
    yield from _list(target, keys.unscheduled, Place.DELAYED, "unscheduled")
    with target.commands() as client:
        queues: Iterable[bytes] = client.smembers(keys.queues)  # type: ignore[assignment]
    for queue in sorted(queues):
        name = queue.decode("utf-8", "surrogateescape")
        yield from _list(target, keys.queue(name), Place.QUEUED, name)
    with target.commands() as client:
        workers: Iterable[bytes] = client.smembers(keys.workers)  # type: ignore[assignment]
    for worker in sorted(workers):
        name = worker.decode("utf-8", "surrogateescape")
        with target.commands() as client:
            note: bytes | None = client.get(keys.worker(name))  # type: ignore[assignment]
        if note is not None:
            yield Page([note], Place.WORKING, name)
    yield from _list(target, keys.failed, Place.FAILED, "failed")


def _list(target: Target, key: bytes, place: Place, where: str) -> Iterator[Page]:
    for texts in from_tail(target, key):
        yield Page(texts, place, where)


def from_tail(target: Target, key: bytes) -> Iterator[list[bytes]]:
    """A list's entries from the tail, each once; in doubt (somebody took entries out of its middle) some twice."""
    read = back = steps = 0
    wanted = FIRST_PAGE_ENTRIES
    before: list[bytes] = []
    while True:
        overlap = min(ANCHOR_ENTRIES, len(before))
        first = max(0, read - overlap - back)
        with target.commands() as client:
            page: list[bytes] = client.lrange(key, -first - wanted - overlap, -first - 1)  # type: ignore[assignment]
        page.reverse()
        if first and steps < MOST_STEPS_BACK and page[:overlap] != before[-overlap:] and set(before).isdisjoint(page):
            back, steps = back * 2 or STEP_BACK_ENTRIES, steps + 1
            continue
        back = 0
        yield page[fresh_from(before, page) :]
        if len(page) < wanted + overlap:
            return
        read = first + len(page)
        before = page
        mean = sum(map(len, page)) // len(page) + 1
        wanted = max(1, min(MOST_PAGE_ENTRIES, PAGE_BYTES // mean))


def fresh_from(before: list[bytes], page: list[bytes]) -> int:
    """Where in a page begins what the page before it didn't have. Both begin at the list's tail.

    A page begins with the last entries of the one before, unless pushes have shifted these into it, or they are gone:
    popped, or taken out. In doubt an entry is given twice; none is missed.
    """
    anchor = before[-ANCHOR_ENTRIES:]
    length = len(anchor)
    if page[:length] == anchor:
        return length
    for start in range(len(page) - length + 1):
        if page[start] == anchor[0] and page[start : start + length] == anchor:
            return start + length
    known = set(before)
    return next((at for at, text in enumerate(page) if text not in known), len(page))

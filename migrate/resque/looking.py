"""Looking for jobs in a live Resque: where each of them is now. Reads only.

Lists are read from the tail with negative offsets: workers pop at the head, so a reader that begins there misses jobs
(seen: 2,800 of 16,600). The order is delayed, queues, working, failed: the way a job goes. Perl and Ruby workers pop
first and register after, so what is found nowhere is looked for twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from migrate.jobs import Identity
from migrate.resque.target import Target

#: Entries of a list that one command reads.
PAGE_ENTRIES = 500
#: Seconds between the two looks for what the first did not find.
SECOND_LOOK_SECONDS = 0.25


class Place(StrEnum):
    """Where in Resque a job can be."""

    DELAYED = "delayed"
    QUEUED = "queued"
    WORKING = "working"
    FAILED = "failed"


class Wanted(NamedTuple):
    """A job to look for. `content` tells it where its identity was lost on the way."""

    identity: Identity
    content: str


class Sighting(NamedTuple):
    """Where a job was seen."""

    place: Place
    where: str  #: the queue, the second it is due, or the worker
    by_identity: bool  #: false: its identity was lost (delayed, or retried by a plugin), its content is the same


def content_of(payload: bytes) -> str:
    """What a job is, whoever encoded it: class and args, decoded, in one spelling. Raises ValueError."""
    return _content(json.loads(payload))


def _content(job: Any) -> str:
    if not isinstance(job, dict):
        raise TypeError("not a job")
    return json.dumps([job.get("class"), job.get("args")], sort_keys=True, separators=(",", ":"))


def find(target: Target, wanted: Collection[Wanted]) -> dict[Identity, Sighting]:
    """Where each of the jobs is; those that two looks found nowhere are left out.

    A job known by content alone may be any of several alike: each sighting accounts for one of them.
    """
    by_identity: dict[Identity, Sighting] = {}
    alike: dict[str, list[Sighting]] = {}
    found: dict[Identity, Sighting] = {}
    for attempt in range(2):
        if len(found) == len(wanted):
            break
        if attempt:
            time.sleep(SECOND_LOOK_SECONDS)
        seen = _look(target, wanted)
        by_identity.update(seen.by_identity)
        # The same entries are met twice: what counts is how many there were at a time.
        alike.update({key: value for key, value in seen.alike.items() if len(value) > len(alike.get(key, ()))})
        found = _account(wanted, by_identity, alike)
    return found


class _Seen(NamedTuple):
    """What one look met."""

    by_identity: dict[Identity, Sighting]
    alike: dict[str, list[Sighting]]  #: entries without an identity, by content


def _look(target: Target, wanted: Iterable[Wanted]) -> _Seen:
    by_text = {each.identity.text: each.identity for each in wanted}
    contents = {each.content for each in wanted}
    seen = _Seen({}, {})
    for text, place, where in _everything(target):
        job = _job(text, place)
        if job is None:
            continue
        name = _own_identity(job)
        if name is not None:
            if name in by_text:
                # The furthest place on a job's way counts: it was moved on while this look went on.
                seen.by_identity[by_text[name]] = Sighting(place, where, by_identity=True)
        elif (content := _content(job)) in contents:
            seen.alike.setdefault(content, []).append(Sighting(place, where, by_identity=False))
    return seen


def _account(
    wanted: Iterable[Wanted], by_identity: dict[Identity, Sighting], alike: dict[str, list[Sighting]]
) -> dict[Identity, Sighting]:
    """Each job's sighting: its own, else one of an entry alike that accounts for no other job."""
    found = dict(by_identity)
    left = {content: iter(sightings) for content, sightings in alike.items()}
    for each in wanted:
        if each.identity not in found and (sighting := next(left.get(each.content, iter(())), None)) is not None:
            found[each.identity] = sighting
    return found


def _job(text: bytes, place: Place) -> dict[str, Any] | None:
    """The job in an entry of a queue, a delayed list, a failure or a worker's note; None for what isn't one."""
    value = _decoded(text)
    if not isinstance(value, dict):
        return None
    if place is Place.FAILED and value.get("retried_at"):
        return None  # history: it was put back, and is wherever that has led it
    if place in (Place.WORKING, Place.FAILED):
        value = value.get("payload")
    return value if isinstance(value, dict) else None


def _decoded(text: bytes) -> Any:
    """The value of an entry; None for what is no JSON, or deeper than any job that crossed."""
    try:
        return msgspec.json.decode(text)
    except UnicodeDecodeError:
        # A Perl worker's last words may be in any character set; the job that it tells of is there all the same.
        return _decoded(text.decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError):
        return None


def _own_identity(job: dict[str, Any]) -> str | None:
    ours = job.get("qudo")
    name = ours.get("outbox", ours.get("native")) if isinstance(ours, dict) else None
    return name if isinstance(name, str) else None


def _everything(target: Target) -> Iterator[tuple[bytes, Place, str]]:
    """Every entry that may hold a job, in the order in which a job goes its way."""
    keys = target.keys
    with target.commands() as client:
        seconds: list[bytes] = client.zrange(keys.schedule, 0, -1)  # type: ignore[assignment]
    for second in seconds:
        yield from _named(_from_tail(target, keys.delayed(int(second))), Place.DELAYED, second.decode())
    with target.commands() as client:
        queues: Iterable[bytes] = client.smembers(keys.queues)  # type: ignore[assignment]
    for queue in sorted(queues):
        name = queue.decode("utf-8", "surrogateescape")
        yield from _named(_from_tail(target, keys.queue(name)), Place.QUEUED, name)
    with target.commands() as client:
        workers: Iterable[bytes] = client.smembers(keys.workers)  # type: ignore[assignment]
        for worker in sorted(workers):
            name = worker.decode("utf-8", "surrogateescape")
            note: bytes | None = client.get(keys.worker(name))  # type: ignore[assignment]
            if note is not None:
                yield note, Place.WORKING, name
    yield from _named(_from_tail(target, keys.failed), Place.FAILED, "failed")


def _named(entries: Iterator[bytes], place: Place, where: str) -> Iterator[tuple[bytes, Place, str]]:
    return ((entry, place, where) for entry in entries)


def _from_tail(target: Target, key: bytes) -> Iterator[bytes]:
    """A list's entries from the tail. Pushes meanwhile shift them towards the head: some are met twice, none missed."""
    seen = 0
    while True:
        with target.commands() as client:
            page: list[bytes] = client.lrange(key, -seen - PAGE_ENTRIES, -seen - 1)  # type: ignore[assignment]
        yield from reversed(page)
        if len(page) < PAGE_ENTRIES:
            return
        seen += len(page)

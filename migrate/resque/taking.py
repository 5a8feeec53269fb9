"""Taking jobs out of a live Resque, on their way back to Qudo. Writes to Resque's lists, the ledger and our own keys.

A job that is taken stands in `returning` until it is in Qudo. All that must be atomic is in the Lua scripts: at every
instant a job is in its list or in `returning`, never in both and never in neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from migrate.identities import Identities
from migrate.jobs import Identity
from migrate.parts import in_parts
from migrate.resque import lua
from migrate.resque.handoff import BEHIND_SECONDS, outcome
from migrate.resque.target import Target

#: Jobs that one call of a script carries.
CALL_JOBS = 1000
#: Bytes of entries that a page should have, and its entries: at first, and at most.
PAGE_BYTES = 2 * 1024 * 1024
FIRST_PAGE_ENTRIES, MOST_PAGE_ENTRIES = 50, CALL_JOBS
#: Notes of jobs on their way that one call reads: each holds an entry, and Redis does nothing else meanwhile.
SCANNED_NOTES = 200


class Place(NamedTuple):
    """A list of Resque's that may hold jobs nobody has started."""

    key: bytes
    name: bytes  #: the key behind the namespace: `queue:<name>` or `delayed:<second>`
    second: int | None  #: of a delayed list


class Entry(NamedTuple):
    """An entry of a list, and the job that it is."""

    identity: Identity
    text: bytes
    own: bool  #: false: the text doesn't carry the identity, it is only alike
    native: bool = False  #: born in Resque: no ledger knows it


class Taking:
    """Takes and gives back jobs of one source. Safe to repeat and side by side.

    Every method raises TargetMismatch with nothing written, and Unavailable: then some may be done, which the next look
    at `returning` tells.
    """

    def __init__(self, target: Target, source: str, *, target_id: str, beat: int) -> None:
        """`target_id` and `beat` are what the source remembers."""
        self._target = target
        self._source = source
        self._known = (target_id, beat, BEHIND_SECONDS)

    def places(self) -> list[Place]:
        """All lists, delayed ones first: the way a job goes."""
        keys = self._target.keys
        with self._target.commands() as client:
            seconds: list[bytes] = client.zrange(keys.schedule, 0, -1)  # type: ignore[assignment]
            queues: Iterable[bytes] = client.smembers(keys.queues)  # type: ignore[assignment]
        delayed = [Place(keys.delayed(int(each)), b"delayed:" + each, int(each)) for each in seconds]
        names = sorted(queues)
        return delayed + [
            Place(keys.queue(name.decode("utf-8", "surrogateescape")), b"queue:" + name, None) for name in names
        ]

    def work_through(self, place: Place, choose: Callable[[Sequence[bytes]], Sequence[Entry]]) -> Iterator[int]:
        """Show each entry of a list to `choose`, from the tail, and take those that it names; yields how many.

        What isn't taken keeps its place. Pushes meanwhile shift entries towards the head: some are shown twice.
        """
        kept, size = 0, FIRST_PAGE_ENTRIES
        while True:
            with self._target.commands() as client:
                page: list[bytes] = client.lrange(place.key, -kept - size, -kept - 1)  # type: ignore[assignment]
            if not page:
                return
            chosen = choose(page)
            taken = self.take(place, chosen, (-kept - len(page), -kept - 1)) if chosen else []
            yield len(taken)
            if len(page) < size:
                return
            kept += len(page) - len(taken)
            mean = sum(map(len, page)) // len(page)
            size = max(1, min(MOST_PAGE_ENTRIES, PAGE_BYTES // (mean + 1)))

    def take(self, place: Place, entries: Sequence[Entry], window: tuple[int, int]) -> list[Identity]:
        """Take these entries where the window still has them; returns whom it got. One script, atomic."""
        keys = self._target.keys
        batches = sorted({entry.identity.batch for entry in entries if not entry.native})
        number = {batch: place for place, batch in enumerate(batches, start=1)}
        bitmaps = [key for batch in batches for key in (keys.ledger(batch), keys.taken(batch))]
        second = "" if place.second is None else place.second
        arguments: list[Any] = [*window, place.name, second, f"{keys.namespace}:"]
        for entry in entries:
            batch, seq = entry.identity
            kind = 2 if entry.native else int(entry.own)
            arguments += (0 if entry.native else number[batch], seq, entry.identity.text, entry.text, kind)
        natives = keys.returning_natives(self._source)
        own_keys = [keys.returning(self._source), place.key, keys.schedule, natives, *bitmaps]
        taken: Sequence[bytes] = self._run("take", own_keys, arguments)
        return [Identity.parse(identity.decode()) for identity in taken]

    def claim(self, batch: int, seqs: Sequence[int]) -> int:
        """Claim jobs that were never handed off: from now on no migrator will. Returns how many were still free."""
        keys = self._target.keys
        own_keys = [keys.batches, keys.returning(self._source), keys.ledger(batch), keys.taken(batch)]
        claimed = 0
        for start in range(0, len(seqs), CALL_JOBS):
            arguments = [f"{batch:016x}", self._source, *seqs[start : start + CALL_JOBS]]
            claimed += len(self._run("claim", own_keys, arguments))
        return claimed

    def forget(self, identities: Sequence[Identity], *, natives: bool = False) -> int:
        """These jobs are in Qudo again: drop their notes and count them as returned; how many had a note.

        `natives`: they were born in Resque.
        """
        keys = self._target.keys
        own_keys = [keys.returning(self._source), keys.returned]
        if natives:
            own_keys = [keys.returning_natives(self._source), keys.returned_natives]
        ended = 0
        for start in range(0, len(identities), CALL_JOBS):
            part = [identity.text for identity in identities[start : start + CALL_JOBS]]
            ended += int(self._run("forget", own_keys, [self._source, *part]))
        return ended

    def put_back(self, identities: Sequence[Identity]) -> int:
        """Put jobs back where they were taken from; how many. Those that never were in Resque stay `returning`."""
        keys = self._target.keys
        own_keys = [keys.returning(self._source), keys.queues, keys.schedule]
        texts = [identity.text for identity in identities]
        return int(self._run("putback", own_keys, [f"{keys.namespace}:", *texts]))

    def _run(self, script: str, own_keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        keys = self._target.keys
        reply = self._target.run(
            lua.source("guard", script), [keys.target_id, keys.beat, *own_keys], [*self._known, *arguments]
        )
        if reply[0] != b"ok":
            outcome(reply, self._target, self._known[0], self._known[1])  # raises
        return reply[1]


def returning(target: Target, source: str) -> Identities:
    """The jobs of a source that are on their way back to Qudo; those born in Resque are told by `returning_natives`.

    Who comes or goes during the call may be in it or not.
    """
    return _noted(target, target.keys.returning(source))


def returning_natives(target: Target, source: str) -> Identities:
    """The jobs born in Resque that are on their way into Qudo."""
    return _noted(target, target.keys.returning_natives(source))


def _noted(target: Target, key: bytes) -> Identities:
    found, cursor = Identities(), b"0"
    while True:
        cursor, fields = target.run(lua.source("fields"), [key], [cursor, SCANNED_NOTES])
        found.update(Identity.parse(field.decode()) for field in fields)
        if int(cursor) == 0:
            return found


def count_returning(target: Target, source: str) -> tuple[int, int]:
    """How many jobs of a source are on their way: that crossed, and that were born in Resque."""
    keys = target.keys
    with target.commands() as client:
        return int(client.hlen(keys.returning(source))), int(client.hlen(keys.returning_natives(source)))


def returning_of(target: Target, source: str, identities: Iterable[Identity]) -> set[Identity]:
    """Those of some jobs of a source that are on their way back to Qudo."""
    key = target.keys.returning(source)
    found: set[Identity] = set()
    for part in in_parts(identities, CALL_JOBS):
        with target.commands() as client, client.pipeline(transaction=False) as pipe:
            for identity in part:
                pipe.hexists(key, identity.text)
            found.update(identity for identity, is_there in zip(part, pipe.execute(), strict=True) if is_there)
    return found


def natives(
    target: Target, source: str, identities: Sequence[Identity]
) -> Iterator[tuple[Identity, int | None, bytes]]:
    """Those of these jobs that are on their way: the second of the delayed list they stood in, and the entry."""
    if not identities:
        return
    fields = [identity.text for identity in identities]
    with target.commands() as client:
        notes: Sequence[bytes | None] = client.hmget(target.keys.returning_natives(source), fields)  # type: ignore[assignment]
    for identity, note in zip(identities, notes, strict=True):
        if note is not None:
            length, _, rest = note.partition(b":")
            place, text = rest[: int(length)], rest[int(length) :]
            second = place.removeprefix(b"delayed:")
            yield identity, int(second) if second != place else None, text


def natives_of_any(target: Target, identities: Sequence[Identity]) -> set[Identity]:
    """Those of these jobs that are on their way into any source."""
    fields = [identity.text for identity in identities]
    if not fields:
        return set()
    with target.commands() as client:
        sources: Iterable[bytes] = client.hkeys(target.keys.sources)  # type: ignore[assignment]
        found: set[Identity] = set()
        for source in sources:
            key = target.keys.returning_natives(source.decode("utf-8", "surrogateescape"))
            notes: Sequence[bytes | None] = client.hmget(key, fields)  # type: ignore[assignment]
            found.update(each for each, note in zip(identities, notes, strict=True) if note is not None)
    return found


def taken(target: Target, batches: Sequence[int]) -> dict[int, bytes]:
    """The bitmaps of what rollbacks have ever taken or claimed, and not put back; empty where there is none."""
    with target.commands() as client, client.pipeline(transaction=False) as pipe:
        for batch in batches:
            pipe.get(target.keys.taken(batch))
        return {batch: value or b"" for batch, value in zip(batches, pipe.execute(), strict=True)}


def returned(target: Target) -> Mapping[str, int]:
    """How many jobs rollbacks have returned to each source, ever."""
    with target.commands() as client:
        held: Mapping[bytes, bytes] = client.hgetall(target.keys.returned)  # type: ignore[assignment]
    return {source.decode(): int(count) for source, count in held.items()}


def begun(target: Target) -> Iterator[bytes]:
    """What tells of jobs that workers have begun: their notes, and all failures, those put back included."""
    keys = target.keys
    with target.commands() as client:
        workers: Iterable[bytes] = client.smembers(keys.workers)  # type: ignore[assignment]
        for worker in sorted(workers):
            note: bytes | None = client.get(keys.worker(worker.decode("utf-8", "surrogateescape")))  # type: ignore[assignment]
            if note is not None:
                yield note
    seen, size = 0, FIRST_PAGE_ENTRIES
    while True:
        with target.commands() as client:
            page: list[bytes] = client.lrange(keys.failed, -seen - size, -seen - 1)  # type: ignore[assignment]
        yield from page
        if len(page) < size:
            return
        seen += len(page)
        size = MOST_PAGE_ENTRIES // 2

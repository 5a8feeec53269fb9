"""The hand-off: jobs of one batch go to their queues, each once. Writes to Resque's keys and the ledger.

Everything that must be atomic is in `lua/handoff.lua`; this module only builds its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from migrate.errors import PausesChanged, ServerError, Unavailable, UsageError
from migrate.failpoints import reach
from migrate.jobs import Identity, ResqueJob
from migrate.resque import binding, lua
from migrate.resque.target import Target

#: Jobs that one call of the script carries.
CALL_JOBS = 1000
#: Bytes of payload that one call carries (one larger job goes alone): Redis does nothing else meanwhile.
CALL_BYTES = 4 * 1024 * 1024
#: Seconds that a Redis may be behind the newest beat that a source saw: a second lost by everysec, and some more.
BEHIND_SECONDS = 10


class HandedOff(NamedTuple):
    """What a hand-off did; jobs."""

    pushed: int  #: now, by this call
    before: int  #: were there already


class HandOff:
    """Hands off the jobs of one source. Safe to repeat and side by side: the bit is the arbiter."""

    def __init__(self, target: Target, source: str, *, keeps_order: bool = False) -> None:
        """`keeps_order`: refuse to push behind a gap, where Redis has forgotten what this object pushed last."""
        self._target = target
        self._source = source
        self._script = lua.source("guard", "handoff")
        self._keeps_order = keeps_order
        self._last: Identity | None = None  # of the last call that pushed all its jobs

    def begin_with_the_oldest(self) -> None:
        """What comes next is what lacks, the oldest first: no gap can be behind it."""
        self._last = None

    def push(
        self, jobs: Sequence[ResqueJob], *, target_id: str, beat: int, pause_version: int | None = None
    ) -> HandedOff:
        """Hand off jobs of one batch, in order; those of one queue stay in order.

        `target_id` and `beat` are what the source remembered in the transaction that read or moved the rows.
        `pause_version`: of what the caller knows to be paused; None: hand off whatever is paused.
        Raises PausesChanged (the caller must look again) and TargetMismatch with nothing written by that call;
        Unavailable and ServerError: then some may have been pushed, which the ledger tells. After Unavailable the
        caller begins with what lacks, the oldest first; a Redis that forgot something is refused once.
        """
        pushed = before = 0
        reach("handoff.begun")
        for part in _calls(jobs):
            done = self._push(part, target_id, beat, pause_version)
            pushed, before = pushed + done.pushed, before + done.before
            reach("handoff.part")
        reach("handoff.done")
        return HandedOff(pushed, before)

    def _push(self, jobs: Sequence[ResqueJob], target_id: str, beat: int, pause_version: int | None) -> HandedOff:
        last, self._last = self._last, None
        known = (target_id, beat, BEHIND_SECONDS, pause_version, None if last is None else last.seq)
        keys, arguments = _call(self._target, jobs, known, self._source, jobs[0].identity if last is None else last)
        try:
            done = outcome(self._target.run(self._script, keys, arguments), self._target, target_id, beat)
        except PausesChanged:
            self._last = last  # nothing was looked at yet
            raise
        if self._keeps_order:
            self._last = jobs[-1].identity if done.pushed == len(jobs) else last
        return done


def outcome(reply: Any, target: Target, target_id: str, beat: int) -> HandedOff:
    """What a pushing script answered. Raises TargetMismatch, UsageError, ServerError."""
    match reply[0]:
        case b"ok":
            return HandedOff(int(reply[1]), int(reply[2]))
        case b"target":
            raise binding.wrong_target(target, target_id, reply[1].decode())
        case b"behind":
            raise binding.older_than_known(target, beat, int(reply[1]))
        case b"forgot":
            raise Unavailable(
                f"target {target.label}: it has restarted and forgotten its newest jobs, which are handed off again"
            )
        case b"paused":
            raise PausesChanged(f"target {target.label}: what is paused has changed")
        case b"type":
            raise wrong_type(target, reply[1], reply[2])
        case _:
            raise ServerError(f"target {target.label}: {reply[2].decode('utf-8', 'replace')}")


def wrong_type(target: Target, key: bytes, kind: bytes) -> UsageError:
    """Something else uses a key that a script needs, and so the script did nothing."""
    name = key.decode("utf-8", "replace")[:120]
    return UsageError(
        f"target {target.label}: {name} is a {kind.decode()}: something else than Resque uses this name",
        advice="remove that key, or choose another queue or namespace; nothing was pushed",
    )


def _calls(jobs: Sequence[ResqueJob]) -> Iterator[Sequence[ResqueJob]]:
    """Cut jobs into calls bounded in jobs and bytes."""
    start = size = 0
    for place, job in enumerate(jobs):
        weight = len(job.payload) + len(job.delayed or b"")
        if place > start and (place - start >= CALL_JOBS or size + weight > CALL_BYTES):
            yield jobs[start:place]
            start, size = place, 0
        size += weight
    if start < len(jobs):
        yield jobs[start:]


def _call(
    target: Target,
    jobs: Sequence[ResqueJob],
    known: tuple[str, int, int, int | None, int | None],
    source: str,
    last: Identity,
) -> tuple[list[bytes], list[Any]]:
    """Keys and arguments of one call, as `lua/handoff.lua` lists them."""
    own = target.keys
    batch = jobs[0].identity.batch
    queues = list(dict.fromkeys([job.queue for job in jobs]))
    place_of = {queue: place for place, queue in enumerate(queues, start=1)}
    numbers: dict[bytes, int] = {own.queue(queue): place for queue, place in place_of.items()}
    arguments: list[Any] = ["" if value is None else value for value in known]
    arguments += (f"{batch:016x}", source, len(queues), *queues)
    for run in _runs(jobs):
        first = run[0]
        if first.delayed is None:
            arguments += (len(run), place_of[first.queue], first.identity.seq)
            arguments += [job.payload for job in run]
            continue
        places = [numbers.setdefault(key, len(numbers) + 1) for key in _delayed_keys(target, first)]
        arguments += (0, place_of[first.queue], first.identity.seq, first.payload, first.due, first.delayed, *places)
    fixed = (own.target_id, own.beat, own.pause_version, own.batches, own.ledger(batch), own.queues, own.schedule)
    return [*fixed, own.ledger(last.batch), *numbers], arguments


def _runs(jobs: Sequence[ResqueJob]) -> Iterator[Sequence[ResqueJob]]:
    """Jobs of one queue, due at once, their seqs without a gap; jobs for later one by one."""
    start = 0
    queue, seq = None, -1
    for place, job in enumerate(jobs):
        now, (_, own) = job.delayed is None, job.identity
        if place and not (now and own == seq + 1 and job.queue == queue):
            yield jobs[start:place]
            start = place
        queue, seq = (job.queue if now else None), own
    yield jobs[start:]


def _delayed_keys(target: Target, job: ResqueJob) -> tuple[bytes, bytes]:
    return target.keys.delayed(job.due), target.keys.timestamps(job.delayed or b"")

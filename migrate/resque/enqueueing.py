"""One job at a time: the hand-off of what an app has just written, and jobs that are born in Resque.

Everything that must be atomic is in `lua/enqueue.lua` and `lua/native.lua`. What is sent and what is answered is built
and read here without I/O, so that threads and asyncio share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from migrate.errors import MigrateError, ServerError
from migrate.jobs import ResqueJob
from migrate.resque import binding, lua
from migrate.resque.handoff import BEHIND_SECONDS, outcome, wrong_type
from migrate.resque.keys import Keys
from migrate.resque.target import Target

HAND_OFF = lua.source("enqueue")
NATIVE = lua.source("native")


class KeyHeld(MigrateError):
    """A uniqkey is held in Redis; caught inside: is its holder over?"""

    def __init__(self, holder: str) -> None:
        super().__init__("a uniqkey is held")
        self.holder = holder


class Call(NamedTuple):
    """One call of a script."""

    keys: Sequence[bytes]
    arguments: Sequence[Any]


class Claim(NamedTuple):
    """A uniqkey that Redis guards."""

    func: str
    key: str  #: as it is spelled in Redis: keys that the databases take for equal are the same text
    holder: str  #: what names the job
    over: str = ""  #: a holder that was found to be over


class HandOffCalls:
    """Builds the hand-offs of one source."""

    def __init__(self, target: Target, source: str) -> None:
        self._target = target
        self._keys: Keys = target.keys
        self._source = source
        self._batch = -1
        self._fixed: tuple[bytes, ...] = ()
        self._queues: dict[str, bytes] = {}

    def call(self, job: ResqueJob, *, target_id: str, beat: int, pause_version: int) -> Call:
        """Arguments as `lua/enqueue.lua` lists them."""
        own = self._keys
        identity = job.identity
        batch = identity.batch
        keys = [own.target_id, own.beat, own.pause_version, own.batches, own.ledger(batch), own.queues]
        queue = self._queues.get(job.queue)
        if queue is None:
            queue = self._queues[job.queue] = own.queue(job.queue)
        keys.append(queue)
        arguments: list[Any] = [target_id, beat, BEHIND_SECONDS, pause_version, f"{batch:016x}", self._source]
        arguments += (identity.seq, job.queue, job.payload)
        if job.delayed is not None:
            keys += (own.schedule, own.delayed(job.due), own.timestamps(job.delayed))
            arguments += (job.due, job.delayed)
        return Call(keys, arguments)

    def outcome(self, reply: Any, *, target_id: str, beat: int) -> None:
        """What the script answered. Raises PausesChanged, TargetMismatch, UsageError, ServerError."""
        outcome(reply, self._target, target_id, beat)


def native_call(
    target: Target, job: ResqueJob, target_id: str, claim: Claim | None, *, only_claim: bool = False
) -> Call:
    """Arguments as `lua/native.lua` lists them."""
    own = target.keys
    keys = [own.target_id, own.queues, own.queue(job.queue)]
    if claim is not None or job.delayed is not None:
        keys.append(own.unique(claim.func if claim is not None else job.func))
    if job.delayed is not None:
        keys += (own.schedule, own.delayed(job.due), own.timestamps(job.delayed))
    held = ("", "", "") if claim is None else (claim.key, claim.holder, claim.over)
    later = ("", "") if job.delayed is None else (job.due, job.delayed)
    what = "claim" if only_claim else "push"
    return Call(keys, [target_id, what, job.queue, job.payload, *held, *later])


def native_outcome(target: Target, reply: Any, target_id: str) -> None:
    """What the script answered. Raises KeyHeld, TargetMismatch, UsageError, ServerError."""
    match reply[0]:
        case b"ok":
            return
        case b"held":
            raise KeyHeld(reply[1].decode())
        case b"target":
            raise binding.wrong_target(target, target_id, reply[1].decode())
        case b"type":
            raise wrong_type(target, reply[1], reply[2])
        case _:
            raise ServerError(f"target {target.label}: {reply!r:.200}")

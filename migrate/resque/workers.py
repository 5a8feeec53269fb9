"""One worker in Resque: its place in the lists that all tools show, and its turns. Writes to Resque's keys.

A job is never in a worker's memory alone: the script that pops it writes the worker's note, `worker:<id>`, which holds
the queue's text; the script that settles the job deletes the note. Perl's and Ruby's workers pop with one command and
register with another; theirs and ours take from the same lists without a word between them.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from migrate.errors import ServerError
from migrate.resque import lua, moments
from migrate.resque.dialects import Dialect
from migrate.resque.handoff import wrong_type
from migrate.resque.process import Process
from migrate.resque.target import Target

_PAYLOAD = b'"payload":'


class Taken(NamedTuple):
    """A job that a worker has, as its note tells."""

    head: bytes  #: how the note begins, up to the payload's text; its claim is used once
    queue: str
    text: bytes
    some_left_keys: bool = False  #: jobs were delayed whose keys were left behind: this may be one


class HeldKey(NamedTuple):
    """A uniqkey that Redis may hold for a job."""

    func: str
    spellings: Sequence[str]  #: as which the key may stand there
    identity: str


class Settlement(NamedTuple):
    """What becomes of a job that a worker has had."""

    action: str  #: done, failed, queue (tried again at once) or delay
    failure: bytes = b""  #: for the list of failures; empty: none
    queue: str = ""
    text: bytes = b""  #: for the queue or the delayed list
    delay_seconds: float = 0.0  #: counted by Redis's clock
    left_behind: bytes = b""  #: see `payloads.NextTry`
    content: str = ""  #: see `payloads.NextTry`
    frees: HeldKey | None = None  #: the job is over: its key goes if it is still its own

    def arguments(self, target: Target, head: bytes) -> list[Any]:
        """As settle.lua has them, from the note's beginning on."""
        delay = f"{self.delay_seconds:.6f}"
        held: tuple[Any, ...] = ("", "", "")
        if self.frees is not None:
            held = (target.keys.unique(self.frees.func), msgspec.json.encode(self.frees.spellings), self.frees.identity)
        texts = (self.action, self.failure, self.queue, self.text, delay, self.content, self.left_behind)
        return [head, *texts, *held]


DONE = Settlement("done")
_NOTHING: list[Any] = [b"", "done", b"", "", b"", "0", "", b"", "", "", ""]


class Member(NamedTuple):
    """A worker of ours, as Redis has it."""

    id: str
    process: Process
    heartbeat: bytes | None
    job: Taken | None


class Seat:
    """One worker's place. Not shared between threads or processes."""

    def __init__(self, target: Target, worker_id: str, dialect: Dialect) -> None:
        self.id = worker_id
        self._target = target
        self._dialect = dialect
        self._turn = target.client.register_script(lua.source("guard", "settle", "turn"))
        self._recall = target.client.register_script(lua.source("recall"))
        self._fixed = [*_settle_keys(target, worker_id, dialect)]
        # node-resque's tools look for a worker's name in its note.
        name = msgspec.json.encode(shown_name(worker_id, dialect)).decode()
        self._named = f'"worker":{name},' if dialect is Dialect.NODE else ""
        self._claims = (f"{os.urandom(6).hex()}-{number}" for number in itertools.count(1))
        self._claim = next(self._claims)
        self._names: dict[str, tuple[bytes, bytes]] = {}

    def register(self, process: Process, now: float) -> None:
        """Appear in the lists. Safe to repeat, after a prune by others too."""
        keys, target = self._target.keys, self._target
        with target.commands() as client, client.pipeline() as pipe:
            pipe.sadd(keys.workers, self.id)
            pipe.set(keys.worker_started(self.id), moments.started(self._dialect, now))
            pipe.hset(keys.our_workers.decode(), self.id, msgspec.json.encode(process))
            pipe.execute()

    def beat(self) -> bool:
        """Say that this worker lives; returns whether it is still registered."""
        keys = self._target.keys
        with self._target.commands() as client:
            now = int(client.time()[0])
            with client.pipeline() as pipe:
                pipe.hset(keys.heartbeats.decode(), self.id, moments.heartbeat(now))
                if self._dialect is Dialect.NODE:
                    _, pid, queues = self.id.split(":", 2)
                    name = shown_name(self.id, self._dialect)
                    ping = {"time": now, "name": name, "queues": queues, "pid": int(pid)}
                    pipe.set(keys.worker_ping(name), msgspec.json.encode(ping))
                pipe.sismember(keys.workers.decode(), self.id)
                return bool(pipe.execute()[-1])

    def turn(self, ended: tuple[Taken, Settlement] | None, queues: Sequence[str] | None) -> Taken | None:
        """Settle the job that ended, if one did, and take the next; None: there is none, or `queues` is None.

        Safe to repeat after Unavailable: what was done then is known by the job's claim. Raises UsageError when
        something else uses Resque's keys; then nothing was written.
        """
        keys, arguments = [*self._fixed], [f"{self._target.namespace}:", *_NOTHING]
        if ended is not None:
            arguments[1:] = ended[1].arguments(self._target, ended[0].head)
        head = b""
        if queues is not None:
            run_at = moments.run_at(self._dialect, time.time())
            head = f'{{"run_at":"{run_at}",{self._named}"qudo_migrate":"{self._claim}","queue":'.encode()
        arguments.append(head)
        for queue in queues or ():
            key, name = self._queue(queue)
            keys.append(key)
            arguments.append(name)
        with self._target.commands():
            reply = self._turn(keys=keys, args=arguments)
        return self._taken(reply, head, queues or ())

    def _taken(self, reply: list[Any], head: bytes, queues: Sequence[str]) -> Taken | None:
        match reply:
            case [b"none"] | [b"lost"]:
                return None
            case [b"job", number, text, left]:
                self._claim = next(self._claims)
                queue = queues[number - 1]
                return Taken(head + self._queue(queue)[1] + b"," + _PAYLOAD, queue, text, bool(left))
            case [b"mine", note]:
                self._claim = next(self._claims)
                return read_note(note)
            case [b"type", key, kind]:
                raise wrong_type(self._target, key, kind)
            case _:
                raise ServerError(f"target {self._target.label}: an answer that makes no sense: {str(reply)[:80]}")

    def _queue(self, name: str) -> tuple[bytes, bytes]:
        if name not in self._names:
            as_json = msgspec.json.encode(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
            self._names[name] = self._target.keys.queue(name), as_json
        return self._names[name]

    def recall(self, taken: Taken, content: str) -> bytes:
        """The inside of an object with the keys that this job left behind when it was delayed; b"" when none."""
        keys = [self._fixed[0], self._target.keys.retrying]
        with self._target.commands():
            found: bytes = self._recall(keys=keys, args=[taken.head, content, taken.text])
        return found

    def leave(self) -> None:
        """Disappear from the lists, and the counters of this worker with it. Only without a job."""
        bury(self._target, Member(self.id, Process("", 0, 0, ""), None, None), None, self._dialect)


def shown_name(worker_id: str, dialect: Dialect) -> str:
    """What tools call a worker in notes, failures, counters: its id; node-resque leaves the queues out."""
    return worker_id if dialect is not Dialect.NODE else ":".join(worker_id.split(":", 2)[:2])


def bury(
    target: Target, member: Member, settlement: Settlement | None, dialect: Dialect, *, by_heartbeat: bool = False
) -> str:
    """Settle the job of a worker that is no more and take it off the lists. Returns what bury.lua answers.

    `by_heartbeat`: only if it hasn't beaten since. Safe to repeat and side by side.
    """
    keys = target.keys
    arguments = [f"{target.namespace}:", *_NOTHING]
    if member.job is not None and settlement is not None:
        arguments[1:] = settlement.arguments(target, member.job.head)
    arguments += (member.id, (member.heartbeat or b"") if by_heartbeat else b"")
    ping = keys.worker_ping(shown_name(member.id, Dialect.NODE))
    own = [keys.workers, keys.heartbeats, keys.our_workers, keys.worker_started(member.id), ping]
    script = lua.source("guard", "settle", "bury")
    reply = target.run(script, [*_settle_keys(target, member.id, dialect), *own], arguments)
    if reply[0] == b"type":
        raise wrong_type(target, reply[1], reply[2])
    answer: bytes = reply[0]
    return answer.decode()


def members(target: Target) -> list[Member]:
    """All workers of ours that are registered, with their jobs."""
    keys = target.keys
    with target.commands() as client:
        known: Any = client.hgetall(keys.our_workers.decode())
        found = []
        for raw_id, record in known.items():
            worker_id = raw_id.decode("utf-8", "surrogateescape")
            with client.pipeline(transaction=False) as pipe:
                pipe.hget(keys.heartbeats.decode(), worker_id)
                pipe.get(keys.worker(worker_id))
                heartbeat, note = pipe.execute()
            process = msgspec.json.decode(record, type=Process)
            found.append(Member(worker_id, process, heartbeat, read_note(note) if note else None))
    return found


def read_note(note: bytes) -> Taken | None:
    """The job in a note that a worker of ours has written; None for another's."""
    before, found, after = note.partition(_PAYLOAD)
    if not found or not before.startswith(b'{"run_at":') or not after.endswith(b"}"):
        return None
    try:
        said = msgspec.json.decode(before.rstrip(b",") + b"}", type=dict[str, str])
        return Taken(before + found, said["queue"], after[:-1], some_left_keys=True)
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return None


def queue_names(target: Target) -> list[str]:
    """All queues that Resque knows, sorted."""
    with target.commands() as client:
        names: Any = client.smembers(target.keys.queues)
    return sorted(name.decode("utf-8", "surrogateescape") for name in names)


def _settle_keys(target: Target, worker_id: str, dialect: Dialect) -> tuple[bytes, ...]:
    keys, name = target.keys, shown_name(worker_id, dialect)
    return (
        keys.worker(worker_id),
        keys.stat("processed"),
        keys.stat("failed"),
        keys.stat(f"processed:{name}"),
        keys.stat(f"failed:{name}"),
        keys.failed,
        keys.queues,
        keys.schedule,
        keys.retrying,
    )

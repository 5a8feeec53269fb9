"""The step on which each func stands between Qudo and Resque, and which processes have followed. Keys of our own only.

A version counts the changes. Every process that enqueues reads it twice a second and says which one it has seen, so
that `cutover` can name who has not followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from migrate.resque import lua
from migrate.resque.target import Target
from migrate.resque.unique_keys import Spelling

#: Seconds between two readings of the version by a process that enqueues.
FRESH_SECONDS = 0.5
#: Seconds between two reports of a process that has seen no change.
REPORT_SECONDS = 5.0
#: Seconds of silence after which a process is called silent: it may be dead, or cut off with an old step in mind.
SILENT_SECONDS = 20
#: Seconds of silence after which a process is forgotten.
FORGOTTEN_SECONDS = 3600


class Step(StrEnum):
    """Where a func's jobs are written and run. In the order of a cut-over."""

    QUDO = "qudo"  #: a Qudo row, run by Qudo
    MIRROR = "mirror"  #: the same, and a shadow copy beside Resque's queues
    SWITCHED = "switched"  #: an outbox row and its hand-off, run by Resque
    RESQUE = "resque"  #: a Resque job, no row anywhere


class KeyGuard(StrEnum):
    """Where a func's uniqkeys are held."""

    QUDO = "qudo"  #: in the source, as long as no job of the func was ever born in Resque
    BOTH = "both"  #: in the source and in Redis, for jobs of both kinds may be pending
    REDIS = "redis"  #: in Redis alone: `cutover` has seen that the source holds none


class StepNote(msgspec.Struct, frozen=True):
    """A func's step: who set it, where and when."""

    step: Step
    percent: int  #: of the jobs that are switched, on step `switched`; else 100
    guard: KeyGuard
    version: int  #: counted up with each change; that of this one
    user: str
    host: str
    at: datetime
    #: Of its uniqkeys in Redis; decided when the guard leaves `qudo`, when Redis holds none, and kept until it is back.
    spelling: Spelling = Spelling.FOLDED

    @property
    def keeps(self) -> bool:
        """Whether `run` and `follow` leave the func's rows in Qudo."""
        return self.step in (Step.QUDO, Step.MIRROR) or (self.step is Step.SWITCHED and self.percent < 100)

    @property
    def text(self) -> str:
        """For people: the step, and the percentage where it says something."""
        return f"{self.step} {self.percent} %" if self.step is Step.SWITCHED and self.percent < 100 else str(self.step)


class Steps(msgspec.Struct, frozen=True):
    """All steps when `version` was read."""

    version: int
    notes: Mapping[str, StepNote]  #: by func

    def keeps(self, func: str) -> bool:
        """Whether `run` and `follow` leave this func's rows in Qudo; a func without a step is simply migrated."""
        note = self.notes.get(func)
        return note is not None and note.keeps


NO_STEPS = Steps(0, {})


class Process(msgspec.Struct, frozen=True):
    """A process that enqueues, as it reported itself."""

    host: str
    pid: int
    program: str
    version: int  #: of the steps that it goes by
    at: int = 0  #: Redis's second of its last report


def read(target: Target) -> Steps:
    """All steps now. The version is read first: a change in between only makes it look older."""
    keys = target.keys
    with target.commands() as client:
        version: bytes | None = client.get(keys.step_version)  # type: ignore[assignment]
        held: Mapping[bytes, bytes] = client.hgetall(keys.steps)  # type: ignore[assignment]
    notes = {func.decode(): msgspec.json.decode(note, type=StepNote) for func, note in sorted(held.items())}
    return Steps(int(version or 0), notes)


def put(target: Target, notes: Mapping[str, StepNote], *, known: int) -> int | None:
    """Set the steps of these funcs; the new version, or None when they were changed since version `known`."""
    arguments: list[str | bytes | int] = [known]
    for func, note in notes.items():
        arguments += [func, msgspec.json.encode(note)]
    version = int(target.run(lua.source("steps"), [target.keys.steps, target.keys.step_version], arguments))
    return None if version < 0 else version


def new_note(
    step: Step,
    percent: int,
    guard: KeyGuard,
    *,
    known: int,
    user: str,
    host: str,
    spelling: Spelling = Spelling.FOLDED,
) -> StepNote:
    """A note of this moment, for the change that follows version `known`."""
    return StepNote(step, percent, guard, known + 1, user, host, datetime.now(UTC).replace(microsecond=0), spelling)


def report(target: Target, name: str, process: Process) -> None:
    """Say that a process is there, and which version it goes by. `name` tells processes apart."""
    now = target.now()
    with target.commands() as client:
        client.hset(target.keys.processes, name, msgspec.json.encode(msgspec.structs.replace(process, at=now)))


def processes(target: Target) -> dict[str, Process]:
    """All processes that have reported themselves and were not forgotten, by name."""
    with target.commands() as client:
        held: Mapping[bytes, bytes] = client.hgetall(target.keys.processes)  # type: ignore[assignment]
    return {name.decode(): msgspec.json.decode(text, type=Process) for name, text in sorted(held.items())}


def forget(target: Target, names: Iterable[str]) -> None:
    """Strike off processes that have ended."""
    listed = list(names)
    if listed:
        with target.commands() as client:
            client.hdel(target.keys.processes, *listed)

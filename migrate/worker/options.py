"""What the operator has said of a pool and its workers. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import msgspec

from migrate.errors import UsageError


class WorkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool works. Times are seconds."""

    queues: tuple[str, ...]  #: names and globs in the order in which they are looked at; `!name` leaves queues out
    apps: tuple[str, ...] = ()  #: modules that register job functions
    workers: int = 1
    jobs_per_fork: int = 1  #: 0: no fork at all
    scheduler: bool = True
    grace: float = 5.0  #: between TERM and KILL for a job that is over its time
    dead_after: float = 300.0  #: without a heartbeat a worker on another machine is taken for dead after this


def parse_queues(texts: Sequence[str]) -> tuple[str, ...]:
    """`mail,thumb,*`, as often as it is given. Raises UsageError."""
    names = tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
    if not any(not name.startswith("!") for name in names):
        raise UsageError("--queues names no queue", advice="e.g. --queues mail,thumb,* or --queues '*,!slow'")
    if any(":" in name for name in names):
        raise UsageError("--queues: a worker's id is host:pid:queues, so a queue's name must not have a colon")
    return names


def is_dynamic(queues: Sequence[str]) -> bool:
    """Whether they must be looked up: there is a glob."""
    return any(_is_glob(name) for name in queues)


def expand(queues: Sequence[str], known: Sequence[str]) -> list[str]:
    """The queues to look at, in order, each once: a glob stands for all known names that it matches, sorted."""
    left_out = [name[1:] for name in queues if name.startswith("!")]
    found: dict[str, None] = {}
    for name in queues:
        if name.startswith("!"):
            continue
        for match in sorted(fnmatch.filter(known, name)) if _is_glob(name) else [name]:
            if not any(fnmatch.fnmatchcase(match, glob) for glob in left_out):
                found.setdefault(match)
    return list(found)


def _is_glob(name: str) -> bool:
    return not name.startswith("!") and any(sign in name for sign in "*?[")

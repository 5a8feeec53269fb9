"""Stop and go for all migrators of a func, on all hosts. Writes two keys of our own in Redis."""

from __future__ import annotations

import socket

import msgspec

from migrate.config import Config
from migrate.engine.recording import operator, record
from migrate.errors import Refused
from migrate.resque import pauses
from migrate.resque.pauses import PauseNote
from migrate.resque.target import Target


class PausedGlob(msgspec.Struct, frozen=True):
    """One pause."""

    func: str  #: glob
    user: str
    host: str
    at: str  #: UTC, ISO 8601


class PauseResult(msgspec.Struct, frozen=True):
    """What `pause` and `resume` print with `--json`."""

    command: str
    changed: bool
    paused: list[PausedGlob]  #: what is paused now
    next: str


def pause(config: Config, func_glob: str) -> PauseResult:
    """Pause all funcs that the glob matches. When it returns, none of their jobs is handed off any more."""
    target = Target.open(config.target.url, config.target.namespace)
    try:
        changed = pauses.pause(target, func_glob, PauseNote.now(operator(), socket.gethostname()))
        record(target, "pause", seconds=0, options={"func": func_glob}, counts={}, exit_status=0)
        return PauseResult("pause", changed, listed(target), f"qudo-migrate resume --func '{func_glob}'")
    finally:
        target.close()


def resume(config: Config, func_glob: str) -> PauseResult:
    """Take back the pause of this very glob. Raises Refused when there is none, naming those that there are."""
    target = Target.open(config.target.url, config.target.namespace)
    try:
        changed = pauses.resume(target, func_glob)
        now_paused = listed(target)
        if not changed and now_paused:
            raise Refused(
                f"{func_glob} isn't paused; paused are: {', '.join(each.func for each in now_paused)}",
                advice=f"qudo-migrate resume --func '{now_paused[0].func}'",
            )
        record(target, "resume", seconds=0, options={"func": func_glob}, counts={}, exit_status=0)
        return PauseResult("resume", changed, now_paused, "qudo-migrate run")
    finally:
        target.close()


def listed(target: Target) -> list[PausedGlob]:
    """What is paused now."""
    notes = pauses.read(target).notes
    return [PausedGlob(glob, note.user, note.host, note.at.isoformat()) for glob, note in notes.items()]

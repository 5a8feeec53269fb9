"""Stop and go for all migrators of a func, on all hosts. Writes two keys of our own in Redis."""

from __future__ import annotations

import getpass
import os
import socket

import msgspec

from migrate.config import Config
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
        changed = pauses.pause(target, func_glob, PauseNote.now(_user(), socket.gethostname()))
        return PauseResult("pause", changed, _listed(target), f"qudo-migrate resume --func '{func_glob}'")
    finally:
        target.close()


def resume(config: Config, func_glob: str) -> PauseResult:
    """Take back the pause of this very glob. Raises Refused when there is none, naming those that there are."""
    target = Target.open(config.target.url, config.target.namespace)
    try:
        changed = pauses.resume(target, func_glob)
        listed = _listed(target)
        if not changed and listed:
            raise Refused(
                f"{func_glob} isn't paused; paused are: {', '.join(each.func for each in listed)}",
                advice=f"qudo-migrate resume --func '{listed[0].func}'",
            )
        return PauseResult("resume", changed, listed, "qudo-migrate run")
    finally:
        target.close()


def _listed(target: Target) -> list[PausedGlob]:
    notes = pauses.read(target).notes
    return [PausedGlob(glob, note.user, note.host, note.at.isoformat()) for glob, note in notes.items()]


def _user() -> str:
    """The operator: behind sudo, who called it."""
    return os.environ.get("SUDO_USER") or getpass.getuser()

"""What is paused: func globs that no migrator may move or hand off, on any host, until they are resumed.

Writes two keys of our own. A version counts the changes; the hand-off script compares it, so that nothing of a paused
func is pushed once `pause` has returned, however late a migrator is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from migrate.resque import lua
from migrate.resque.target import Target


class PauseNote(msgspec.Struct, frozen=True):
    """Who paused, where and when."""

    user: str
    host: str
    at: datetime

    @classmethod
    def now(cls, user: str, host: str) -> PauseNote:
        """A note of this moment."""
        return cls(user, host, datetime.now(UTC).replace(microsecond=0))


class Pauses(msgspec.Struct, frozen=True):
    """What was paused when `version` was read."""

    version: int
    notes: Mapping[str, PauseNote]  #: by func glob

    def covering(self, func: str) -> str | None:
        """The glob that pauses this func, or None."""
        return next((glob for glob in self.notes if fnmatch.fnmatchcase(func, glob)), None)


NOTHING = Pauses(0, {})


def read(target: Target) -> Pauses:
    """What is paused now. The version is read first: a change in between only makes it look older."""
    keys = target.keys
    with target.commands() as client:
        version: bytes | None = client.get(keys.pause_version)  # type: ignore[assignment]
        held: Mapping[bytes, bytes] = client.hgetall(keys.paused)  # type: ignore[assignment]
    notes = {glob.decode(): msgspec.json.decode(note, type=PauseNote) for glob, note in sorted(held.items())}
    return Pauses(int(version or 0), notes)


def pause(target: Target, glob: str, note: PauseNote) -> bool:
    """Pause all funcs that the glob matches; False when it was paused already."""
    return _change(target, "pause", glob, msgspec.json.encode(note))


def resume(target: Target, glob: str) -> bool:
    """Take back the pause of this very glob; False when there was none."""
    return _change(target, "resume", glob, b"")


def _change(target: Target, what: str, glob: str, note: bytes) -> bool:
    keys = target.keys
    return bool(target.run(lua.source("pause"), [keys.paused, keys.pause_version], [what, glob, note]))

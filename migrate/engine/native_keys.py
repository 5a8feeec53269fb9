"""Before jobs that were born in Resque go into Qudo: have every process that enqueues look for uniqkeys on both sides.

Writes steps: a func whose keys only Redis guards gets the guard of both, as when `cutover` moves it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import socket
from collections.abc import Sequence

from migrate.config import SourceConfig
from migrate.engine.followers import Followers
from migrate.engine.recording import operator
from migrate.engine.stopping import Stop
from migrate.errors import MigrateError, Refused
from migrate.qudo import step_notes
from migrate.qudo.source import Source
from migrate.qudo.step_notes import StoredStep
from migrate.resque import steps
from migrate.resque.steps import KeyGuard, Step
from migrate.resque.target import Target


def born_in_resque(target: Target, func_glob: str | None) -> list[str]:
    """The funcs whose jobs apps still push into Resque."""
    notes = steps.read(target).notes
    return sorted(func for func, note in notes.items() if note.step is Step.RESQUE and _chosen(func, func_glob))


def guard_both(
    target: Target, sources: Sequence[SourceConfig], func_glob: str | None, stop: Stop, *, force: bool
) -> list[str]:
    """Have it so when this returns; what `force` ignored. Raises Refused: a process has not followed."""
    known = steps.read(target)
    alone = {
        func: note for func, note in known.notes.items() if note.guard is KeyGuard.REDIS and _chosen(func, func_glob)
    }
    if not alone:
        return []
    host = socket.gethostname()
    notes = {
        func: steps.new_note(note.step, note.percent, KeyGuard.BOTH, known=known.version, user=operator(), host=host)
        for func, note in alone.items()
    }
    version = steps.put(target, notes, known=known.version)
    if version is None:
        raise Refused("somebody else has moved a step at this moment", advice="look, then try again")
    stored = [
        StoredStep(func, str(note.step), note.percent, str(note.guard), note.version) for func, note in notes.items()
    ]
    for config in sources:
        source = Source(config.name, config.url)
        with contextlib.closing(source), contextlib.suppress(MigrateError):  # its own rollback says what is wrong
            step_notes.write(source, stored)
    followers = Followers(target, stop)
    followers.wait(version)
    if not (late := followers.late(version)):
        return []
    reason = f"these look for uniqkeys in Redis alone, and have not followed: {', '.join(late)}"
    if not force:
        raise Refused(reason, advice="end them, or --force: then two jobs under one uniqkey may be pending")
    return [reason]


def _chosen(func: str, func_glob: str | None) -> bool:
    return func_glob is None or fnmatch.fnmatchcase(func, func_glob)

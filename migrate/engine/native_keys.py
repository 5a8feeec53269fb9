"""Before jobs that were born in Resque go into Qudo: have every process that enqueues look for uniqkeys on both sides.

Writes steps: a func whose keys only Redis guards gets the guard of both, as when `cutover` moves it.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Sequence

from migrate.config import SourceConfig
from migrate.engine import step_changes
from migrate.engine.followers import Followers
from migrate.engine.stopping import Stop
from migrate.errors import Refused
from migrate.qudo.source import Source
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
    notes = {
        func: step_changes.new_note(known, note.step, note.percent, KeyGuard.BOTH, note.spelling)
        for func, note in alone.items()
    }
    with contextlib.ExitStack() as ends:
        opened = [ends.enter_context(contextlib.closing(Source(each.name, each.url))) for each in sources]
        # What is wrong with a source, its own rollback says.
        version = step_changes.put(target, opened, notes, known, lambda _source, _error: None).version
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

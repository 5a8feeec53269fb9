"""Changing funcs' steps: in Redis, then what each source remembers of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence

from migrate.engine.recording import operator
from migrate.errors import MigrateError, Refused
from migrate.qudo import step_notes
from migrate.qudo.source import Source
from migrate.qudo.step_notes import StoredStep
from migrate.resque import steps
from migrate.resque.steps import KeyGuard, Step, StepNote, Steps
from migrate.resque.target import Target
from migrate.resque.unique_keys import Spelling


def new_note(known: Steps, step: Step, percent: int, guard: KeyGuard, spelling: Spelling) -> StepNote:
    """A note of this moment, by who works here, for the change that follows what is known."""
    user, host = operator(), socket.gethostname()
    return steps.new_note(step, percent, guard, known=known.version, user=user, host=host, spelling=spelling)


def put(
    target: Target,
    sources: Sequence[Source],
    notes: Mapping[str, StepNote],
    known: Steps,
    on_error: Callable[[Source, MigrateError], object],
) -> Steps:
    """Set these funcs' steps; returns what holds then. Raises Refused when steps have changed since.

    A source that can't remember them is told to `on_error`: it is a copy, never the authority.
    """
    if steps.put(target, notes, known=known.version) is None:
        raise Refused("somebody else has moved a step at this moment", advice="look, then try again")
    stored = [
        StoredStep(func, str(note.step), note.percent, str(note.guard), note.version, str(note.spelling))
        for func, note in notes.items()
    ]
    for source in sources:
        try:
            step_notes.write(source, stored)
        except MigrateError as error:
            on_error(source, error)
    return steps.read(target)

"""What an enqueue will do, decided before anything is written; shared by threads and asyncio."""

from __future__ import annotations

import time
from typing import NamedTuple

from migrate.dualwrite.placing import source_for, taken_step
from migrate.dualwrite.receipt import Request, request
from migrate.dualwrite.source_side import Crossing, SourceSide
from migrate.dualwrite.watch import Known
from migrate.errors import UsageError
from migrate.jobs import ResqueJob
from migrate.qudo.enqueueing import NewJob
from migrate.qudo.serializers import Serializer
from migrate.resque.steps import KeyGuard, Step, StepNote


class Planned(NamedTuple):
    """A checked enqueue: all that can raise for its values has been asked."""

    side: SourceSide
    asked: Request
    step: Step
    note: StepNote | None
    new: NewJob
    serializer: Serializer
    crossing: Crossing | None = None  #: on step `switched`
    native: ResqueJob | None = None  #: on step `resque`

    @property
    def guard(self) -> KeyGuard:
        """Where its uniqkey is held."""
        return KeyGuard.QUDO if self.note is None else self.note.guard


def chosen_side(sides: dict[str, SourceSide], func: str, uniqkey: str | None, source: str | None) -> SourceSide:
    """The source that a job goes to. Raises UsageError for an unknown name."""
    name = source_for(list(sides), func, uniqkey) if source is None else source
    if name not in sides:
        raise UsageError(f"enqueue {func}: no source {name}; known: {', '.join(sides)}")
    return sides[name]


def plan(
    side: SourceSide,
    known: Known,
    func: str,
    arg: object,
    uniqkey: str | None,
    priority: int,
    run_after: int,
    *,
    in_transaction: bool = False,
) -> Planned:
    """Decide and make what will be written. Reads func and serializer at their first use, writes nothing of the job.

    `in_transaction`: the caller's: only a row can commit with it, so on step `resque` too it is one of the outbox.

    Raises UsageError, Untranslatable, and what reading the source raises.
    """
    now = int(time.time())
    asked = request(func, uniqkey, priority, run_after, now)
    note = known.steps.notes.get(func)
    on_resque = note is not None and note.step is Step.RESQUE
    if on_resque and not in_transaction:
        data, serializer = side.native_arg(func, arg)
        new = NewJob(0, data, asked.key, now, now + run_after, priority)
        return Planned(side, asked, Step.RESQUE, note, new, serializer, native=side.native(func, new, serializer))
    data, serializer = side.arg(func, arg)
    step = Step.SWITCHED if on_resque else taken_step(note, func, uniqkey, data)
    new = NewJob(side.func_id(func), data, asked.key, now, now + run_after, priority)
    if step is not Step.SWITCHED:
        return Planned(side, asked, step, note, new, serializer)
    crossing = side.crossing(func, new, serializer)
    return Planned(side, asked, step, note, new, serializer, crossing)

"""One source, one target: both sides must know each other before anything is written, and stay the same while it is.

Reads and writes the source's meta table and the target's own keys.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from migrate.errors import MigrateError, TargetMismatch, Unavailable
from migrate.failpoints import reach
from migrate.qudo import binding as source_side
from migrate.qudo import ddl
from migrate.qudo.source import Source
from migrate.resque import binding as target_side
from migrate.resque.handoff import BEHIND_SECONDS
from migrate.resque.target import Target

#: Seconds between two beats.
BEAT_SECONDS = 5.0


def check(source: Source, target: Target) -> None:
    """Raise TargetMismatch when source and target are bound elsewhere. Writes nothing; a new pair is fine."""
    if ddl.lacking(source):
        return
    with source.reading() as connection:
        held = source_side.read(connection)
    with named(source):
        _compare(target, source.name, held)


def _compare(target: Target, name: str, held: source_side.Binding) -> None:
    if held.source_id is not None:
        target_side.check_source(target, name, held.source_id)
    if held.target_id is None:
        return
    found = target_side.read_target_id(target)
    if found != held.target_id:
        raise target_side.wrong_target(target, held.target_id, found or "")
    seen = target_side.read_beat(target) or 0
    if seen < held.beat - BEHIND_SECONDS:
        raise target_side.older_than_known(target, held.beat, seen)


@contextmanager
def named(source: Source) -> Iterator[None]:
    """Put the source's name before the errors that know only the target."""
    try:
        yield
    except TargetMismatch as error:
        prefix = f"source {source.name}: "
        message = error.message if error.message.startswith(prefix) else prefix + error.message
        raise TargetMismatch(message, advice=error.advice) from error


def bind(source: Source, target: Target) -> str:
    """Bind a source to the target, or check that it is bound to it; returns the target id.

    Creates our tables where they lack. Safe to repeat and side by side.
    """
    ddl.create_tables(source)
    reach("binding.created")
    check(source, target)
    with source.reading() as connection:
        held = source_side.read(connection)
    with named(source):
        target_side.register_source(target, source.name, source_side.identify(source))
        reach("binding.registered")
        target_id = held.target_id or source_side.bind(source, target_side.claim(target))
    reach("binding.bound")
    check(source, target)
    return target_id


class Beat:
    """A thread that writes the beat while a source is at work: Redis first, then the source."""

    def __init__(self, target: Target, source: Source, target_id: str) -> None:
        self._target = target
        self._source = source
        self._target_id = target_id
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)
        self.error: MigrateError | None = None  #: why no beat is written any more

    def __enter__(self) -> Beat:
        self.once()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end.set()
        self._thread.join(timeout=BEAT_SECONDS)

    def _run(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            try:
                self.once()
            except Unavailable:
                continue  # the drains meet the same fault and report it; the next beat tries again
            except MigrateError as error:
                self.error = error  # the hand-off script refuses such a target by itself, and says why
                return

    def once(self) -> None:
        """Write one beat. Raises TargetMismatch, Unavailable."""
        source_side.remember_beat(self._source, target_side.beat(self._target, self._target_id))

"""`Enqueuer`: writes each job to where its func stands. Usable from threads, after a fork, and under gunicorn."""

from __future__ import annotations

import atexit
import os
import time
import weakref
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from migrate import config as configuration
from migrate.config import Config
from migrate.dualwrite import unique
from migrate.dualwrite.background import Background
from migrate.dualwrite.handing import Handing
from migrate.dualwrite.planning import Planned, chosen_side, plan
from migrate.dualwrite.receipt import Receipt, request
from migrate.dualwrite.source_side import SourceSide
from migrate.dualwrite.transactions import Transactions
from migrate.dualwrite.watch import Watch
from migrate.errors import Contention, MigrateError, TargetMismatch, UsageError
from migrate.qudo import step_notes
from migrate.qudo.source import Source
from migrate.qudo.step_notes import StoredStep
from migrate.resque.steps import KeyGuard, Step, StepNote, Steps
from migrate.resque.target import Target
from migrate.resque.unique_keys import Spelling

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, scoped_session

#: Seconds that Redis may take for an answer: after that the job waits in the outbox, or the caller is told.
ANSWER_SECONDS = 0.5


class Enqueuer:
    """Enqueues jobs in Qudo, in Resque, or on the way from one to the other. Keep one for each process.

    `enqueue` has the arguments and the meaning of Qudo's own. Close it at the end of the process, or let it be.
    """

    def __init__(self, config: Config) -> None:
        """Connects when first used."""
        self._config = config
        self._target = Target.open(config.target.url, config.target.namespace, answer_seconds=ANSWER_SECONDS)
        self._sides = {
            each.name: SourceSide(Source(each.name, each.url), self._target, config) for each in config.source
        }
        self._watch = Watch(self._target, self._stored_steps)
        self._handing = Handing(self._target, self._watch)
        self._background = Background(self._target, self._watch, self._handing)
        self._transactions = Transactions(self._sides, self._background)
        self._pid = os.getpid()
        _register(self)

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] = configuration.DEFAULT_PATH) -> Enqueuer:
        """By a qudo-migrate.toml. Raises UsageError."""
        return cls(configuration.load(Path(path)))

    def enqueue(
        self,
        func: str,
        arg: object = None,
        *,
        uniqkey: str | None = None,
        run_after: int = 0,
        priority: int = 0,
        source: str | None = None,
        session: Session | scoped_session[Session] | None = None,
        connection: Connection | None = None,
    ) -> Receipt:
        """Enqueue a job; returns where it was written.

        `run_after` is a delay in seconds. `session` or `connection`: in the caller's transaction, which must be one of
        a source's database: the job exists if and only if it commits.

        Raises Untranslatable (an arg that can't be carried) and UsageError before anything is written; DuplicateJob
        while a job with this uniqkey is pending; Unavailable when the source is down or, on step `resque`, Redis.
        """
        known = self._watch.now()
        if session is not None or connection is not None:
            if session is not None and connection is not None:
                raise UsageError(f"enqueue {func}: give session or connection, not both")
            joined = self._transactions.join(session if session is not None else connection, func, source)
            try:
                if joined.side.source.is_sqlite:
                    self.prepare(func, joined.side.source.name, priority=priority)
                planned = plan(joined.side, known, func, arg, uniqkey, priority, run_after, in_transaction=True)
            except Contention as error:
                if not joined.side.source.is_sqlite:
                    raise
                raise Contention(
                    f"enqueue {func}: the row of the func can't be written beside an open transaction of SQLite",
                    advice="call prepare(func) once, when the app starts",
                ) from error
            return self._transactions.enqueue(joined, planned, self._handing)
        side = chosen_side(self._sides, func, uniqkey, source)
        return self._write(plan(side, known, func, arg, uniqkey, priority, run_after))

    def joined_source(self, given: Session | Connection, func: str, source: str | None) -> str:
        """The source whose transaction this is. Raises UsageError as `enqueue` does."""
        return self._transactions.join(given, func, source).side.source.name

    def prepare(self, func: str | None = None, source: str | None = None, *, priority: int = 0) -> None:
        """Ask servers now for what an enqueue in a transaction needs to know, so that it need not wait for them.

        For event loops, and for SQLite, where nothing else can be written beside an open transaction. Writes the row
        of the func and its decision where they lack; nothing of a job. Raises what reading the source raises.
        """
        known = self._watch.now()
        self._transactions.prepare()
        if func is None:
            return
        request(func, None, priority, 0, int(time.time()))
        side = chosen_side(self._sides, func, None, source)
        note = known.steps.notes.get(func)
        side.func_id(func)
        if note is not None and note.step in (Step.SWITCHED, Step.RESQUE):
            side.prepare(func, priority)

    def _write(self, planned: Planned) -> Receipt:
        if planned.step is Step.RESQUE:
            return self._write_native(planned)
        if planned.step is Step.SWITCHED:
            return self._write_switched(planned)
        side, new = planned.side, planned.new
        job_id = side.writer.insert_job(new) if new.uniqkey is None else unique.insert_job(planned, self._handing)
        if planned.step is Step.MIRROR:
            self._background.shadow(planned, job_id)
        return Receipt(side.source.name, planned.step, job_id=job_id)

    def _write_switched(self, planned: Planned) -> Receipt:
        side, crossing = planned.side, planned.crossing
        assert crossing is not None  # noqa: S101  `plan` makes it for this step
        bound = side.binding()
        side.record_decision(crossing.decision)
        if planned.new.uniqkey is None:
            decision, identity = crossing.decision.id, crossing.job.identity
            if not side.writer.insert_outbox(planned.new, identity, decision, crossing.due, bound.target_id or ""):
                bound = side.read_binding()
                if not side.writer.insert_outbox(planned.new, identity, decision, crossing.due, bound.target_id or ""):
                    raise _belongs_elsewhere(side)
        else:
            bound = unique.insert_outbox(planned, self._handing, bound)
        handed_off = not crossing.due and self._handing.hand_off(side, crossing.job, bound)
        return Receipt(side.source.name, Step.SWITCHED, outbox=crossing.job.identity.text, handed_off=handed_off)

    def _write_native(self, planned: Planned) -> Receipt:
        job = planned.native
        assert job is not None  # noqa: S101
        if planned.new.uniqkey is None:
            self._handing.push_native(job, None)
        else:
            unique.push_native(planned, self._handing)
        return Receipt(planned.side.source.name, Step.RESQUE, native=job.identity.text, handed_off=True)

    def _stored_steps(self) -> Steps | None:
        """The steps as a source remembers them, for a process that begins while Redis is away."""
        for side in self._sides.values():
            try:
                found = step_notes.read(side.source)
            except MigrateError:
                continue
            if found:
                return Steps(max(each.version for each in found), {each.func: _note(each) for each in found})
        return None

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until what was committed is handed off (or left to `follow`) and shadows are sent; whether it is."""
        return self._background.flush(timeout)

    def close(self) -> None:
        """Hand off what is left, and close all connections."""
        self._background.close()
        self._watch.close()
        self._handing.scripts.close()
        for side in self._sides.values():
            side.close()
        self._target.close()

    def __enter__(self) -> Enqueuer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _forget_inherited(self) -> None:
        """In a forked child: threads, connections, identities and the report are the parent's."""
        self._watch.forget_inherited()
        self._handing.scripts.forget_inherited()
        self._background.forget_inherited()
        for side in self._sides.values():
            side.forget_inherited()


def _note(stored: StoredStep) -> StepNote:
    begin = datetime.fromtimestamp(0, UTC)
    step, guard = Step(stored.step), KeyGuard(stored.guard)
    return StepNote(step, stored.percent, guard, stored.version, "", "", begin, Spelling(stored.spelling))


def _belongs_elsewhere(side: SourceSide) -> MigrateError:
    return TargetMismatch(
        f"source {side.source.name}: it belongs to no Redis, or its meta table is gone",
        advice="qudo-migrate plan",
    )


_living: weakref.WeakSet[Enqueuer] = weakref.WeakSet()


def _register(enqueuer: Enqueuer) -> None:
    _living.add(enqueuer)


def _each() -> Iterable[Enqueuer]:
    return list(_living)


def _after_fork() -> None:
    for enqueuer in _each():
        enqueuer._forget_inherited()


def _at_exit() -> None:
    """What was committed a moment ago is handed off; a process that ends otherwise leaves it to `follow`."""
    for enqueuer in _each():
        enqueuer.flush(1.0)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)

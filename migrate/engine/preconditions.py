"""What must hold before a func takes a step, and where its uniqkeys may be held afterwards. Reads only.

Except `settled_guard`, which frees keys whose job is over, as any enqueue under them would.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from migrate.config import Config
from migrate.engine import mirroring, over
from migrate.engine.followers import Followers
from migrate.engine.routing import Routing
from migrate.qudo import ddl, func_counts
from migrate.qudo.func_counts import FuncCounts
from migrate.qudo.source import Source
from migrate.resque import ledger, unique_keys
from migrate.resque.steps import KeyGuard, Step, StepNote
from migrate.resque.target import Target
from migrate.verify.mirror import MirrorReport


class Preconditions:
    """Asks for all funcs of one command; what is the same for all is asked once."""

    def __init__(self, config: Config, sources: Sequence[Source], target: Target, followers: Followers) -> None:
        self._config = config
        self._sources = sources
        self._target = target
        self._followers = followers

    def reasons(self, func: str, note: StepNote | None, step: Step) -> list[str]:
        """Why the func should not take this step; empty: it may."""
        found = []
        late = self._followers.late(note.version) if note is not None else []
        if late:
            found.append(f"has not followed its last step: {', '.join(late)}")
        before = None if note is None else note.step
        if step is Step.SWITCHED and before not in (Step.SWITCHED, Step.RESQUE):
            found += self._unverified(func)
        if step is Step.RESQUE and before is not Step.RESQUE:
            if before is not Step.SWITCHED or (note is not None and note.percent < 100):
                found.append("it is not switched at 100 %")
            found += self._not_drained(func)
        return found

    @cached_property
    def _mirrors(self) -> dict[str, MirrorReport]:
        return {each.func: each for each in mirroring.compare(self._config, self._sources, self._target)}

    def _unverified(self, func: str) -> list[str]:
        report = self._mirrors.get(func)
        if report is None or not report.copied:
            return ["its mirror is not verified: no job of it was ever mirrored"]
        if report.different:
            return [
                f"its mirror differs from Qudo in {report.different} of {report.compared} jobs,"
                f" the first: {report.differences[0]}"
            ]
        if not report.compared:
            return [
                "its mirror is not verified: its copies have made room for those of other funcs, none is left to"
                " compare; try again after some more jobs"
            ]
        return []

    def _not_drained(self, func: str) -> list[str]:
        found = []
        for source in self._sources:
            counts = _counts(source, func)
            if counts.in_job:
                found.append(f"Qudo is not drained: {counts.in_job} jobs in source {source.name}")
            undelivered = len(counts.due) - len(ledger.delivered_many(self._target, counts.due))
            if undelivered:
                found.append(f"{undelivered} jobs in the outbox of source {source.name} are not handed off")
        return found

    # --- uniqkeys ---

    def settled_guard(self, func: str, note: StepNote | None) -> KeyGuard:
        """Where the func's keys are held from now on, if nothing of the other side holds any more."""
        if note is None or note.guard is not KeyGuard.BOTH:
            return KeyGuard.QUDO if note is None else note.guard
        if self._followers.late(note.version):
            return KeyGuard.BOTH
        if note.step is Step.RESQUE:
            return KeyGuard.BOTH if any(self._holds(source, func) for source in self._sources) else KeyGuard.REDIS
        return KeyGuard.BOTH if self._redis_holds(func) else KeyGuard.QUDO

    def _holds(self, source: Source, func: str) -> bool:
        """Whether a source still holds a key of the func; frees those whose job is over."""
        counts = _counts(source, func)
        routing = Routing(source, self._config)
        routing.refresh()
        freed = over.release_over(source, self._target, routing, list(counts.holders)) if counts.holders else set()
        return bool(set(counts.holders) - freed) or counts.in_job > 0

    def _redis_holds(self, func: str) -> bool:
        """Whether Redis still holds a key of the func; frees those whose job is over."""
        held = unique_keys.holders(self._target, func)
        ended = over.natives_over(self._target, held.values())
        over_now = {key: holder for key, holder in held.items() if holder in ended}
        unique_keys.release(self._target, func, over_now)
        return len(over_now) < len(held)


def _counts(source: Source, func: str) -> FuncCounts:
    return func_counts.of(source, func, has_our_tables=not ddl.lacking(source))

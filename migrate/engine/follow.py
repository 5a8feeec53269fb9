"""`follow`: all sources side by side, without end; what is said of them meanwhile, and when it is over.

A source that fails is tried again for ever (or for `retry_for`) while the others go on. The process ends when no source
can be followed: whoever supervises it then sees why.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from migrate.config import Config, SourceConfig
from migrate.engine import binding
from migrate.engine.follow_result import FollowedSource, FollowResult, families, status_line
from migrate.engine.follow_source import SourceFollow
from migrate.engine.follow_state import FollowState
from migrate.engine.limits import limits
from migrate.engine.meeting import meet
from migrate.engine.options import DrainOptions
from migrate.engine.recording import record
from migrate.engine.remaining import Remaining
from migrate.engine.reporters import Reporter
from migrate.engine.results import LISTED_JOBS, Tally
from migrate.engine.side_by_side import SourceWork, error_lines, error_statuses, exit_status, side_by_side
from migrate.engine.stopping import Stop
from migrate.engine.throttling import Rate
from migrate.errors import Interrupted, MigrateError, Unavailable
from migrate.metrics import Exposition
from migrate.notify import Notifier
from migrate.qudo.source import Source
from migrate.resque.target import Target

#: Seconds between two looks of the supervisor, and between two lines for the service manager.
SUPERVISE_SECONDS = 0.1
STATUS_SECONDS = 5.0
#: Seconds after which a source is tried again whose error only a person can mend (a right, a password).
MENDING_SECONDS = 30.0


class FollowOptions(NamedTuple):
    """What the operator asked for beside what all moves take."""

    drain: DrainOptions
    until_idle: float | None = None  #: seconds without anything to do after which it ends
    metrics: str | None = None  #: address


class Control:
    """What asks a running `follow` for something: set from signal handlers and other threads."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self._reload = threading.Event()

    def reload(self) -> None:
        """Read the configuration anew."""
        self._reload.set()

    def take_reload(self) -> bool:
        """Whether a reload was asked for since the last time."""
        asked = self._reload.is_set()
        self._reload.clear()
        return asked


def follow(
    load: Callable[[], Config],
    source_names: Sequence[str],
    options: FollowOptions,
    control: Control,
    reporter: Reporter,
    notifier: Notifier,
) -> FollowResult:
    """Follow until a stop is requested, there was nothing to do for `until_idle`, or no source can be followed.

    `load` reads the configuration, at once and at each reload. Raises UsageError, and what concerns the target as a
    whole at the first contact.
    """
    following = _Follow(options, control, reporter, notifier)
    try:
        config = load()
        with following.exposition():
            while True:
                works = following.generation(config, config.only_sources(source_names))
                if not following.reloads:
                    return following.result(works)
                config = _loaded_or_same(load, config, source_names, reporter)
                notifier.ready()
    finally:
        reporter.close()


def _loaded_or_same(load: Callable[[], Config], config: Config, names: Sequence[str], reporter: Reporter) -> Config:
    """The configuration as it is now; the one in use where the new one is wrong."""
    try:
        new = load()
        new.only_sources(names)
    except MigrateError as error:
        reporter.says(f"reload: {error.message}; the old configuration stays", level="error")
        return config
    reporter.says("reload: the configuration was read anew")
    return new


class _Follow:
    """One life of the process, over all reloads."""

    def __init__(self, options: FollowOptions, control: Control, reporter: Reporter, notifier: Notifier) -> None:
        self._options = options
        self._control = control
        self._reporter = reporter
        self._notifier = notifier
        self._started = time.monotonic()
        self._states: dict[str, FollowState] = {}
        self._rate = [Rate(options.drain.rate)] if options.drain.rate else []
        self._ended_by = "signal"
        self._ready = False
        self._followed = False  # a source was bound: the target is ours
        self._last: tuple[Config, Sequence[SourceConfig]] | None = None
        self.reloads = False

    @contextlib.contextmanager
    def exposition(self) -> Iterator[None]:
        """Metrics over HTTP, where they are asked for. Raises UsageError."""
        if self._options.metrics is None:
            yield
            return
        with Exposition(self._options.metrics, lambda: families(self._current())) as served:
            self._reporter.says(f"metrics: {served.url}")
            yield

    def _current(self) -> list[FollowState]:
        return list(self._states.values())

    # -- from one reload to the next --

    def generation(self, config: Config, sources: Sequence[SourceConfig]) -> list[SourceWork]:
        """Follow with this configuration until it is over or is to be read anew (`reloads`)."""
        self.reloads = False
        self._last = config, sources
        self._states = {each.name: self._state(each.name) for each in sources}
        target = Target.open(config.target.url, config.target.namespace)
        end = Stop()
        supervisor = threading.Thread(target=self._supervise, args=(end,), name="supervise", daemon=True)
        try:
            if not self._followed:
                meet(target, self._options.drain.retry_for, self._control.stop, self._reporter)
            supervisor.start()
            return side_by_side(sources, self._work(config, sources, target, end), self._reporter)
        except Interrupted:
            return []  # stopped while a Redis was loading
        finally:
            end.request()
            if supervisor.ident is not None:
                supervisor.join()
            target.close()

    def _state(self, name: str) -> FollowState:
        """The source's counts go on; what it remembers of rows is forgotten, since routes may have changed."""
        state = self._states.get(name)
        if state is None:
            return FollowState(name, lambda message: self._reporter.says(message, source=name, level="warning"))
        state.remaining = Remaining()
        return state

    def _work(
        self, config: Config, sources: Sequence[SourceConfig], target: Target, end: Stop
    ) -> Callable[[Source, Tally], None]:
        replicas = {each.name: each.replicas for each in sources}

        def attempt(source: Source, state: FollowState) -> None:
            target_id = binding.bind(source, target)
            self._followed = True
            self._reporter.source_started(source.name, 0)
            with binding.Beat(target, source, target_id) as beat:
                held_by = [*self._rate, *limits(source, replicas[source.name], target, self._options.drain)]
                follow = SourceFollow(
                    source, target, config, self._options.drain, state, end, self._reporter, beat, held_by
                )
                follow.run()
                if self._ended_by == "idle":
                    follow.forget_delivered()

        def work(source: Source, _tally: Tally) -> None:
            state = self._states[source.name]
            while not end.requested:
                try:
                    attempt(source, state)
                except MigrateError as error:
                    met = state.met
                    state.failed(error)
                    if not self._may_try_again(state, error, end, met=met):
                        self._end(end, "error")
                        raise
                    self._reporter.waits(source.name, f"{error.message}; the other sources go on")
                    source.forget_connections()
                    if self._pause(state, error, end) and self._ended_by == "error":
                        raise
                except BaseException:
                    self._end(end, "error")
                    raise

        return work

    def _may_try_again(self, state: FollowState, error: MigrateError, end: Stop, *, met: bool) -> bool:
        """Whether this source's error leaves the process something to do.

        A mistake that shows at the first contact ends it at once: the operator is looking. So does `retry_for`.
        """
        gave_up = met and isinstance(error, Unavailable)
        if gave_up or (not met and error.exit_status == 2):
            return False
        others = [each for each in self._current() if each is not state]
        while not end.requested and not all(each.tried for each in others):
            state.alive()
            end.wait(SUPERVISE_SECONDS)
        return any(each.error is None for each in others)

    def _pause(self, state: FollowState, error: MigrateError, end: Stop) -> bool:
        """Wait before the next try; True when it is all over."""
        until = time.monotonic() + (MENDING_SECONDS if not isinstance(error, Unavailable) else MENDING_SECONDS / 6)
        while time.monotonic() < until:
            state.alive()
            if end.wait(SUPERVISE_SECONDS):
                return True
        return False

    def _end(self, end: Stop, why: str) -> None:
        if not end.requested:
            self._ended_by = why
            end.request()

    # -- beside the sources --

    def _supervise(self, end: Stop) -> None:
        """Pass on stops, look for idleness, and keep the service manager informed."""
        said_at = pinged_at = -STATUS_SECONDS
        while not end.wait(SUPERVISE_SECONDS):
            now = time.monotonic()
            states = self._current()
            if self._control.stop.requested:
                self._notifier.stopping()
                self._end(end, "signal")
            elif self._control.take_reload():
                self._notifier.reloading()
                self.reloads = True
                end.request()
            elif self._is_idle(states):
                self._notifier.stopping()
                self._end(end, "idle")
            if not self._ready and all(state.tried for state in states) and any(state.met for state in states):
                self._ready = True
                self._notifier.ready()
                names = ", ".join(state.name for state in states if state.met)
                self._reporter.says(f"follows {names}")
            if self._watchdog_is_due(now - pinged_at, now, states):
                self._notifier.watchdog()
                pinged_at = now
            if now - said_at >= STATUS_SECONDS:
                self._notifier.status(status_line(states))
                said_at = now

    def _is_idle(self, states: Sequence[FollowState]) -> bool:
        most = self._options.until_idle
        return most is not None and all(state.idle_seconds > 0 and state.idle_seconds >= most for state in states)

    def _watchdog_is_due(self, since: float, now: float, states: Sequence[FollowState]) -> bool:
        """Whether to tell the watchdog of progress: each source's loop has come by not long ago."""
        within = self._notifier.watchdog_seconds
        if within is None or since < within / 4:
            return False
        return all(now - state.alive_at < within / 2 for state in states)

    # -- the end --

    def result(self, works: Sequence[SourceWork]) -> FollowResult:
        """What came of it; also noted in the target's history."""
        states = self._current()
        seconds = time.monotonic() - self._started
        errors = error_lines(works)
        by_source = {each.source: each.error for each in errors}
        status = exit_status(error_statuses(works))
        result = FollowResult(
            command="follow",
            ended_by=self._ended_by,
            exit_status=status,
            seconds=round(seconds, 3),
            moved=sum(state.tally.moved_total for state in states),
            handed_off=sum(state.tally.handed_off for state in states),
            imported=sum(state.failures.imported for state in states),
            sources=[FollowedSource.of(state, by_source.get(state.name)) for state in states],
            untranslatable_jobs=[job for state in states for job in state.tally.untranslatable][:LISTED_JOBS],
            errors=errors,
            next="qudo-migrate follow    goes on where this one stopped" if status else "qudo-migrate status",
        )
        self._record(result)
        return result

    def _record(self, result: FollowResult) -> None:
        if self._last is None or not self._followed:
            return
        config = self._last[0]
        chosen = self._options.drain.given()
        counts = {"moved": result.moved, "handed_off": result.handed_off, "imported": result.imported}
        target = Target.open(config.target.url, config.target.namespace)
        try:
            record(
                target, "follow", seconds=result.seconds, options=chosen, counts=counts, exit_status=result.exit_status
            )
        finally:
            target.close()

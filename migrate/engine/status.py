"""What stands where, right now: cheap enough to be asked every second or two. Writes nothing.

Nothing here scans a table but the count of `job` by func and state, which is taken anew only when the last one has
cost less than a twentieth of the time since.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec

from migrate.config import Config, SourceConfig
from migrate.engine import binding, delivery
from migrate.engine.pause import PausedGlob, listed
from migrate.engine.reporters import Reporter
from migrate.engine.results import ErrorLine, Tally
from migrate.engine.routing import Routing
from migrate.engine.side_by_side import error_lines, error_statuses, exit_status, side_by_side
from migrate.engine.step_watch import StepWatch
from migrate.engine.stopping import Stop
from migrate.errors import MigrateError
from migrate.qudo import counting, ddl, reading
from migrate.qudo.source import Source
from migrate.resque import binding as target_side
from migrate.resque import history, ledger, queues
from migrate.resque.history import Record
from migrate.resque.queues import QueueLengths
from migrate.resque.target import Target

#: Records of the history that are shown.
SHOWN_RECORDS = 5
#: A count of `job` may take this share of the time.
COUNT_SHARE = 0.05
#: Seconds after which a beat means that no migrator is at work.
BEAT_IS_OLD_SECONDS = 8


class FuncStatus(msgspec.Struct, frozen=True):
    """Jobs of one func that are in Qudo, counted `counted_ago` seconds ago."""

    func: str
    moves: bool
    ready: int
    delayed: int
    in_flight: int


class SourceStatus(msgspec.Struct, frozen=True):
    """One source; integers count jobs, times are seconds."""

    name: str
    in_job: int  #: the catalogue's estimate between two counts
    counted_ago: float
    oldest_ago: int | None  #: since the job with the lowest id was enqueued: the lag of a shop that still enqueues
    not_handed_off: int
    not_handed_off_for: int | None  #: since the oldest of them moved
    funcs: list[FuncStatus]


class StatusResult(msgspec.Struct, frozen=True):
    """What `status` prints with `--json`; with `--watch`, one such object a line."""

    command: str
    exit_status: int
    handed_off: int  #: jobs, ever, into this target
    rate: float | None  #: jobs handed off a second since the last look; None at the first
    migrators_at_work: bool  #: a beat was written a moment ago
    queues: dict[str, int]
    delayed: int
    failed: int
    workers: int
    working: int
    paused: list[PausedGlob]
    sources: list[SourceStatus]
    history: list[Record]
    errors: list[ErrorLine]
    next: str


class _Counted(msgspec.Struct):
    """The last count of one source's `job`."""

    at: float
    took: float
    jobs: int
    funcs: list[FuncStatus]


class Status:
    """Looks again and again, remembering what a rate and a cheap count need."""

    def __init__(self, config: Config, sources: Sequence[SourceConfig]) -> None:
        self._config = config
        self._sources = sources
        self._target = Target.open(config.target.url, config.target.namespace)
        self._counted: dict[str, _Counted] = {}
        self._last: tuple[float, int] | None = None

    def look(self) -> StatusResult:
        """One look. Raises what concerns the target; errors of sources are part of the result."""
        target = self._target
        at, handed_off = time.monotonic(), ledger.total(target)
        rate = None
        if self._last is not None and at > self._last[0]:
            rate = round((handed_off - self._last[1]) / (at - self._last[0]), 1)
        self._last = at, handed_off
        lengths: QueueLengths = queues.all_lengths(target)
        beat = target_side.read_beat(target)
        seen: dict[str, SourceStatus] = {}

        def work(source: Source, _tally: Tally) -> None:
            seen[source.name] = self._look_at(source)

        works = side_by_side(self._sources, work, Reporter())
        status = exit_status(error_statuses(works))
        waiting = any(source.not_handed_off for source in seen.values())
        return StatusResult(
            command="status",
            exit_status=status,
            handed_off=handed_off,
            rate=rate,
            migrators_at_work=beat is not None and target.now() - beat < BEAT_IS_OLD_SECONDS,
            queues=lengths.queues,
            delayed=lengths.delayed,
            failed=lengths.failed,
            workers=lengths.workers,
            working=lengths.working,
            paused=listed(target),
            sources=[seen[each.source.name] for each in works if each.source.name in seen],
            history=history.newest(target, SHOWN_RECORDS),
            errors=error_lines(works),
            next="qudo-migrate run    hands off what waits in the outbox" if waiting else "qudo-migrate run --dry-run",
        )

    def _look_at(self, source: Source) -> SourceStatus:
        binding.check(source, self._target)
        counted = self._count(source)
        with source.reading() as connection:
            now = source.now(connection)
            fresh = time.monotonic() - counted.at < 1
            estimate = counted.jobs if fresh else reading.row_estimate(source, connection)
            oldest = reading.oldest_enqueue_time(connection)
        waits = delivery.undelivered_since(source, self._target) if not ddl.lacking(source) else (0, None)
        return SourceStatus(
            name=source.name,
            in_job=estimate,
            counted_ago=round(time.monotonic() - counted.at, 1),
            oldest_ago=None if oldest is None else max(0, now - oldest),
            not_handed_off=waits[0],
            not_handed_off_for=None if waits[1] is None else max(0, now - waits[1]),
            funcs=counted.funcs,
        )

    def _count(self, source: Source) -> _Counted:
        """The jobs by func and state: one scan by the server, unless the last one is too dear to repeat."""
        last = self._counted.get(source.name)
        started = time.monotonic()
        if last is not None and last.took > COUNT_SHARE * (started - last.at):
            return last
        routing = Routing(source, self._config, steps=StepWatch(self._target))
        routing.refresh()
        with source.reading() as connection:
            groups = counting.groups(connection, source.now(connection))
        by_func: dict[int, list[int]] = {}
        for group in groups:
            counts = by_func.setdefault(group.func_id, [0, 0, 0])
            counts[0] += group.jobs - group.in_flight - group.delayed
            counts[1] += group.delayed
            counts[2] += group.in_flight
        funcs = []
        for func_id, counts in by_func.items():
            routed = routing.known(func_id)
            funcs.append(FuncStatus(routing.name(func_id), routed is not None and routed.moves, *counts))
        jobs = sum(group.jobs for group in groups)
        self._counted[source.name] = _Counted(time.monotonic(), time.monotonic() - started, jobs, funcs)
        return self._counted[source.name]

    def close(self) -> None:
        """Close the connections."""
        self._target.close()


def watch(config: Config, sources: Sequence[SourceConfig], stop: Stop, every_seconds: float) -> Iterator[StatusResult]:
    """Look until a stop is requested, a server's silence included: it is part of what is to be seen."""
    status = Status(config, sources)
    try:
        while not stop.requested:
            yield _look_or_error(status)
            stop.wait(every_seconds)
    finally:
        status.close()


def _look_or_error(status: Status) -> StatusResult:
    try:
        return status.look()
    except MigrateError as error:
        return StatusResult(
            command="status",
            exit_status=error.exit_status,
            handed_off=0,
            rate=None,
            migrators_at_work=False,
            queues={},
            delayed=0,
            failed=0,
            workers=0,
            working=0,
            paused=[],
            sources=[],
            history=[],
            errors=[ErrorLine("target", error.message, error.advice)],
            next="qudo-migrate plan",
        )


def status(config: Config, sources: Sequence[SourceConfig]) -> StatusResult:
    """One look. Raises what concerns the target."""
    looking = Status(config, sources)
    try:
        return looking.look()
    finally:
        looking.close()

"""What a run did, as plain records: filled by the drains, shown by the command line, printed as `--json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from migrate.errors import MigrateError

#: Untranslatable jobs that a result lists; further ones are only counted.
LISTED_JOBS = 1000


class UntranslatableJob(msgspec.Struct, frozen=True):
    """A job that stays in Qudo, and why."""

    source: str
    id: int
    func: str
    reason: str


class FuncResult(msgspec.Struct, frozen=True):
    """Jobs of one func that went to one queue."""

    func: str
    queue: str
    moved: int


class Tally:
    """Counts of one source while work goes on. Written by one thread, read by any."""

    def __init__(self) -> None:
        self.moved: Counter[tuple[str, str]] = Counter()  #: by func and queue
        self.moved_total = 0
        self.handed_off = 0
        self.imported = 0
        self.purged = 0  #: outbox rows
        self.left: Counter[str] = Counter()  #: rows that stay in `job`, by state
        self.counted = False  #: whether `left` is the whole of a look that came to its end
        self.untranslatable: list[UntranslatableJob] = []
        self.findings: Counter[tuple[str, str]] = Counter()  #: by func and what was found
        self.seconds = 0.0
        self.error: MigrateError | None = None
        self.crash: Exception | None = None  #: a bug, to be raised where it is seen

    def count_moved(self, jobs: Iterable[tuple[str, str]]) -> None:
        """Count jobs, each given by func and queue, as moved by this run."""
        counts = Counter(jobs)
        self.moved.update(counts)
        self.moved_total += counts.total()

    def funcs(self) -> list[FuncResult]:
        """What moved, by func and queue."""
        return [FuncResult(func, queue, count) for (func, queue), count in sorted(self.moved.items())]

    def forget_left(self) -> None:
        """Begin a new look at what stays in `job`."""
        self.left = Counter()
        self.counted = False
        self.untranslatable = []

    def list_untranslatable(self, job: UntranslatableJob) -> None:
        """Count a job that can't be translated, and list it as long as the list is short."""
        self.left["untranslatable"] += 1
        if len(self.untranslatable) < LISTED_JOBS:
            self.untranslatable.append(job)


class SourceResult(msgspec.Struct, frozen=True):
    """One source's part of a run's result; the integers count jobs."""

    name: str
    moved: int
    handed_off: int
    imported: int
    untranslatable: int
    in_flight: int
    waiting: int
    kept: int
    not_moved: int
    counted: bool  #: false: the work ended before what stays in Qudo was counted
    purged: int  #: outbox rows, with --purge
    seconds: float
    funcs: list[FuncResult]
    error: str | None = None

    @classmethod
    def of(cls, name: str, tally: Tally) -> SourceResult:
        """The result of a source whose work has ended."""
        return cls(
            name=name,
            moved=tally.moved_total,
            handed_off=tally.handed_off,
            imported=tally.imported,
            untranslatable=tally.left["untranslatable"],
            in_flight=tally.left["in_flight"],
            waiting=tally.left["waiting"],
            kept=tally.left["kept"],
            not_moved=tally.left["not_moved"],
            counted=tally.counted,
            purged=tally.purged,
            seconds=round(tally.seconds, 3),
            funcs=tally.funcs(),
            error=tally.error.message if tally.error else None,
        )


class Totals(msgspec.Struct, frozen=True):
    """Sums over the sources; `seconds` is the whole run's."""

    moved: int
    handed_off: int
    imported: int
    untranslatable: int
    in_flight: int
    waiting: int
    kept: int
    not_moved: int
    seconds: float

    @classmethod
    def of(cls, sources: list[SourceResult], seconds: float) -> Totals:
        """The sums."""
        names = [name for name in cls.__struct_fields__ if name != "seconds"]
        return cls(**{name: sum(getattr(each, name) for each in sources) for name in names}, seconds=round(seconds, 3))


class Difference(msgspec.Struct, frozen=True):
    """A job that Redis held otherwise than Qudo does; `detail` says where, never what."""

    source: str
    id: int
    func: str
    detail: str


class FindingCount(msgspec.Struct, frozen=True):
    """Something a lead should know of a func's jobs, and how many of them it concerns."""

    source: str
    func: str
    finding: str
    jobs: int


class ErrorLine(msgspec.Struct, frozen=True):
    """Why a source's work ended early, and what to do."""

    source: str
    error: str
    advice: str


class RunResult(msgspec.Struct, frozen=True):
    """What `run` prints with `--json`."""

    command: str
    dry_run: bool
    complete: bool
    exit_status: int
    sources: list[SourceResult]
    totals: Totals
    untranslatable_jobs: list[UntranslatableJob]
    findings: list[FindingCount]
    errors: list[ErrorLine]
    next: str


class RehearsedSource(msgspec.Struct, frozen=True):
    """One source's part of a rehearsal; the integers count jobs."""

    name: str
    rehearsed: int
    differences: int
    untranslatable: int
    in_flight: int
    waiting: int
    kept: int
    seconds: float
    funcs: list[FuncResult]
    error: str | None = None

    @classmethod
    def of(cls, name: str, tally: Tally, differences: list[Difference]) -> RehearsedSource:
        """The result of a source whose rehearsal has ended."""
        return cls(
            name=name,
            rehearsed=tally.moved_total,
            differences=sum(each.source == name for each in differences),
            untranslatable=tally.left["untranslatable"],
            in_flight=tally.left["in_flight"],
            waiting=tally.left["waiting"],
            kept=tally.left["kept"],
            seconds=round(tally.seconds, 3),
            funcs=tally.funcs(),
            error=tally.error.message if tally.error else None,
        )


class RehearsalResult(msgspec.Struct, frozen=True):
    """What `rehearse` prints with `--json`."""

    command: str
    verdict: str  #: ok, or differences
    exit_status: int
    sources: list[RehearsedSource]
    rehearsed: int
    seconds: float
    jobs_per_second: float
    differences: list[Difference]
    untranslatable_jobs: list[UntranslatableJob]
    findings: list[FindingCount]
    errors: list[ErrorLine]
    next: str

"""What `plan` finds, as plain records: shown by the command line, printed as `--json`."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from migrate.engine.results import ErrorLine, FindingCount, UntranslatableJob


class Level(StrEnum):
    """How much a finding of `plan` matters."""

    OK = "ok"
    NOTE = "note"  #: worth knowing
    WARNING = "warning"  #: a risk that a lead should accept knowingly
    PROBLEM = "problem"  #: a person is needed before `run`


class Check(msgspec.Struct, frozen=True):
    """One thing looked at."""

    level: Level
    about: str  #: target, source NAME, or func NAME
    message: str
    advice: str = ""


class PlannedFunc(msgspec.Struct, frozen=True, rename={"class_": "class"}):
    """The jobs of one func in one source; integers count jobs."""

    func: str
    moves: bool
    class_: str
    queues: list[str]
    serializer: str  #: by route, or as a sample shows
    sure: float  #: share of the sampled jobs that are of that serializer, 0 to 1
    sampled: int
    jobs: int
    ready: int  #: free and due
    delayed: int  #: free and not due yet
    in_flight: int
    expired: int  #: of the ready and delayed ones: their worker's lease ran out
    retried: int  #: failed before
    with_uniqkey: int
    mean_arg_bytes: int  #: of the sample
    untranslatable_in_sample: int


class PlannedSource(msgspec.Struct, frozen=True):
    """One source as it is now."""

    name: str
    server: str
    engine: str
    jobs: int
    not_handed_off: int  #: moved by an earlier run and not yet in Redis
    exceptions: int  #: rows of exception_log
    exceptions_not_retried: int
    funcs: list[PlannedFunc]


class PlannedTarget(msgspec.Struct, frozen=True):
    """The Redis as it is now. Sizes are bytes."""

    server: str
    used_memory: int
    max_memory: int  #: 0: no limit
    eviction: str
    persistence: str
    replicas: int


class Estimate(msgspec.Struct, frozen=True):
    """What the migration will need, roughly."""

    jobs: int
    redis_bytes: int
    mysql_bytes: int  #: the outbox, until the purge
    seconds: float


class PlanResult(msgspec.Struct, frozen=True):
    """What `plan` prints with `--json`."""

    command: str
    ready: bool
    exit_status: int
    target: PlannedTarget | None
    sources: list[PlannedSource]
    checks: list[Check]
    workers_need: list[str]
    estimate: Estimate
    untranslatable_jobs: list[UntranslatableJob]  #: of the samples
    findings: list[FindingCount]  #: of the samples
    errors: list[ErrorLine]
    next: str

"""The report of a verification, as records: `report.json` and `verify --json` are this document. Pure.

Its JSON Schema is schema/json/report.schema.json; keys are stable.
"""

from __future__ import annotations

import msgspec

from migrate.resque.history import Record
from migrate.verify.findings import Finding
from migrate.verify.mirror import MirrorReport
from migrate.verify.throughput import Span
from migrate.verify.words import Jobs


class FuncReport(msgspec.Struct, frozen=True):
    """The jobs of one func in one source."""

    func: str
    jobs: Jobs


class SourceReport(msgspec.Struct, frozen=True):
    """One source's jobs."""

    name: str
    jobs: Jobs
    funcs: list[FuncReport]
    error: str | None  #: why it could not be compared to the end; `errors` has the advice


class ReportError(msgspec.Struct, frozen=True):
    """Why a source could not be compared, and what to do."""

    source: str
    error: str
    advice: str


class Report(msgspec.Struct, frozen=True):
    """The whole document."""

    command: str
    version: str  #: of the tool
    verdict: str  #: "ok", or "differences": missing, duplicated or mismatched above 0
    complete: bool  #: false: a source could not be compared
    exit_status: int
    expect_idle: bool
    started_at: str  #: ISO 8601, UTC
    seconds: float
    jobs: int  #: in one state each
    jobs_per_second: float
    target: str  #: the url without its password
    namespace: str
    entries: int  #: read from Redis, natives and failures included
    processed: int | None  #: Resque's own count of jobs that workers took; None: it has none
    sources: list[SourceReport]
    totals: Jobs
    findings: list[Finding]
    findings_cap: int  #: so many of each kind are listed
    findings_left_out: int
    throughput: list[Span]  #: when the outbox's rows moved
    history: list[Record]  #: the newest commands that changed something, the newest first
    errors: list[ReportError]
    next: str
    mirror: list[MirrorReport] = []  #: shadow copies, by func

"""What the demo prints with `--json`."""

from __future__ import annotations

import msgspec


class Kill(msgspec.Struct, frozen=True):
    """Where the jobs were when the first run had been killed; the integers count jobs."""

    killed: bool  #: false: the run was over before the signal reached it
    in_qudo: int
    in_outbox: int
    in_resque: int
    in_both: int


class DemoResult(msgspec.Struct, frozen=True):
    """How it ended; the integers count jobs, in the words that all reports use."""

    command: str
    verdict: str  #: ok, or differences
    exit_status: int
    summary: str  #: the verdict as one line
    server: str  #: e.g. Valkey 9.0.1
    jobs: int
    handed_off: int
    queued: int
    delayed: int
    in_flight: int
    untranslatable: int
    not_moved: int
    missing: int
    duplicated: int
    mismatched: int
    foreign: int
    imported: int
    kill: Kill
    seconds: float
    folder: str | None  #: where database, configuration and Redis's file are, with --keep

"""What `follow` did until it ended, and what it shows meanwhile: result, metrics, one line for `systemctl status`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from migrate import __version__
from migrate.engine.follow_state import FollowState
from migrate.engine.results import ErrorLine, FuncResult, UntranslatableJob
from migrate.engine.routing import RowState
from migrate.metrics import Family, Sample

#: States of rows that stay in `job`, in the order of the result. `kept` are those kept until due.
STATES = (RowState.IN_FLIGHT, RowState.WAITING, RowState.UNTRANSLATABLE, RowState.KEPT)


class FollowedSource(msgspec.Struct, frozen=True):
    """One source's part of the result; the integers count jobs, of what stays as last seen."""

    name: str
    moved: int
    handed_off: int
    imported: int
    in_flight: int
    waiting: int
    untranslatable: int
    held: int  #: kept until due, by their route
    faults: int  #: times that work was begun anew
    funcs: list[FuncResult]
    error: str | None

    @classmethod
    def of(cls, state: FollowState, error: str | None) -> FollowedSource:
        """The result of a source that isn't followed any more."""
        counts = state.remaining.counts()
        return cls(
            name=state.name,
            moved=state.tally.moved_total,
            handed_off=state.tally.handed_off,
            imported=state.failures.imported,
            in_flight=counts[RowState.IN_FLIGHT],
            waiting=counts[RowState.WAITING],
            untranslatable=counts[RowState.UNTRANSLATABLE],
            held=counts[RowState.KEPT],
            faults=state.faults,
            funcs=state.tally.funcs(),
            error=error,
        )


class FollowResult(msgspec.Struct, frozen=True):
    """What `follow` prints with `--json` when it ends."""

    command: str
    ended_by: str  #: signal, idle or error
    exit_status: int
    seconds: float
    moved: int
    handed_off: int
    imported: int
    sources: list[FollowedSource]
    untranslatable_jobs: list[UntranslatableJob]
    errors: list[ErrorLine]
    next: str


def status_line(states: Iterable[FollowState]) -> str:
    """All sources in a line."""
    return "; ".join(map(_in_words, states))


def _in_words(state: FollowState) -> str:
    if state.error is not None:
        return f"{state.name}: {state.waits or state.error.message}"
    counts = state.remaining.counts()
    stays = [f"{counts[each]:,} {each.value.replace('_', ' ')}" for each in STATES if counts[each]]
    parts = [f"{state.tally.handed_off:,} jobs handed off", f"lag {state.lag_seconds:.0f} s", *stays]
    return f"{state.name}: {', '.join(parts)}{f'; {state.waits}' if state.waits else ''}"


def families(states: Sequence[FollowState]) -> list[Family]:
    """All metrics, as docs/follow.md lists them."""

    def each(name: str, kind: str, text: str, values: Mapping[str, float]) -> Family:
        return Family(f"qudo_migrate_{name}", kind, text, [Sample({"source": key}, values[key]) for key in values])

    moved = [
        Sample({"source": state.name, "func": func, "queue": queue}, count)
        for state in states
        for (func, queue), count in sorted(state.tally.moved.copy().items())
    ]
    remaining = [
        Sample({"source": state.name, "state": "held" if each is RowState.KEPT else each.value}, counts[each])
        for state in states
        for counts in [state.remaining.counts()]
        for each in STATES
    ]
    batches = [sample for state in states for sample in state.batch_seconds.samples({"source": state.name})]
    delays = [sample for state in states for sample in state.delay_seconds.samples({"source": state.name})]
    now = time.monotonic()
    return [
        Family("qudo_migrate_info", "gauge", "The version that runs.", [Sample({"version": __version__}, 1)]),
        Family("qudo_migrate_jobs_moved_total", "counter", "Jobs that left Qudo's job table.", moved),
        each(
            "jobs_handed_off_total",
            "counter",
            "Jobs that this process knows to be in Resque.",
            {state.name: state.tally.handed_off for state in states},
        ),
        each(
            "failures_imported_total",
            "counter",
            "Rows of exception_log that became Resque failures.",
            {state.name: state.failures.imported for state in states},
        ),
        each(
            "faults_total",
            "counter",
            "Times that a server failed and work was begun anew.",
            {state.name: state.faults for state in states},
        ),
        each(
            "up",
            "gauge",
            "1: the source is followed; 0: it, or the target, fails.",
            {state.name: float(state.met and state.error is None) for state in states},
        ),
        each(
            "lag_seconds",
            "gauge",
            "How long the oldest job waits that should have crossed.",
            {state.name: round(state.lag_seconds, 3) for state in states},
        ),
        each(
            "last_look_seconds",
            "gauge",
            "Since all that is new was last seen.",
            {state.name: round(now - state.looked_at, 3) for state in states},
        ),
        each(
            "outbox_backlog_jobs",
            "gauge",
            "Moved jobs that Resque lacks: their func is paused, or the target fails.",
            {state.name: state.backlog for state in states},
        ),
        each(
            "waiting_jobs",
            "gauge",
            "Jobs in Qudo that wait for their uniqkey.",
            {state.name: state.remaining.counts()[RowState.WAITING] for state in states},
        ),
        Family("qudo_migrate_remaining_jobs", "gauge", "Jobs that stay in Qudo for now, by state.", remaining),
        Family(
            "qudo_migrate_batch_seconds", "histogram", "From the begin of a move to the end of its hand-off.", batches
        ),
        Family("qudo_migrate_delay_seconds", "histogram", "From when a job was free to when Resque had it.", delays),
    ]

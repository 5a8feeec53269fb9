"""What a rollback was asked for, and what it says at its end. Records and their making; no I/O."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from migrate.engine.results import ErrorLine
from migrate.engine.side_by_side import SourceWork, error_lines, error_statuses, exit_status


class RolledBackSource(msgspec.Struct, frozen=True):
    """One source's part of a rollback; the integers count jobs."""

    name: str
    returned: int  #: in Qudo again, or for the first time: `returned_native`
    returned_native: int  #: of these, jobs that were born in Resque
    started: int  #: stay: at work, failed, or tried before
    gone: int  #: stay: found nowhere, so a worker has done them or has just taken them
    held: int  #: stay: their uniqkey is taken, another job in Qudo has it
    native: int  #: stay: born in Resque, and not asked for, or their arg can't be written as it was
    purged: int  #: stay: they wait in Resque, but their outbox rows were purged
    collided: int  #: on their way, in neither side's reach: their uniqkey was taken in `job` meanwhile
    returning: int  #: on their way for another reason: the next rollback goes on
    seconds: float
    error: str | None = None


class RollbackResult(msgspec.Struct, frozen=True):
    """What `rollback` prints with `--json`."""

    command: str
    dry_run: bool
    exit_status: int
    sources: list[RolledBackSource]
    paused: str  #: the func glob that stays paused
    ignored: list[str]  #: what --force ignored
    errors: list[ErrorLine]
    next: str


class RollbackOptions(msgspec.Struct, frozen=True):
    """What the operator asked for."""

    func_glob: str | None = None
    dry_run: bool = False
    include_native: bool = False  #: take jobs that were born in Resque, too
    force: bool = False


def result_of(
    works: Sequence[SourceWork],
    options: RollbackOptions,
    ignored: list[str],
    still_born: Sequence[str],
    *,
    stopped: bool,
) -> RollbackResult:
    """The result of all sources. `still_born`: funcs whose jobs apps go on pushing into Resque."""
    statuses = error_statuses(works, stopped=stopped)
    sources = [
        RolledBackSource(
            name=each.source.name,
            returned=each.tally.left["returned"] + each.tally.left["returned_native"],
            returned_native=each.tally.left["returned_native"],
            started=each.tally.left["started"],
            gone=each.tally.left["gone"],
            held=each.tally.left["held"],
            native=each.tally.left["native"],
            purged=each.tally.left["purged"],
            collided=each.tally.left["collided"] + each.tally.left["collided_native"],
            returning=each.tally.left["returning"],
            seconds=round(each.tally.seconds, 3),
            error=each.tally.error.message if each.tally.error else None,
        )
        for each in works
    ]
    unfinished = any(source.collided or source.returning for source in sources)
    left = any(source.held or (options.include_native and source.native) for source in sources)
    if unfinished or left:
        statuses.add(1)
    glob = options.func_glob or "*"
    status = exit_status(statuses)
    return RollbackResult(
        command="rollback",
        dry_run=options.dry_run,
        exit_status=status,
        sources=sources,
        paused=glob,
        ignored=ignored,
        errors=error_lines(works),
        next=_next_step(options, glob, still_born, unfinished=unfinished or stopped or bool(error_statuses(works))),
    )


def _next_step(options: RollbackOptions, glob: str, still_born: Sequence[str], *, unfinished: bool) -> str:
    again = "qudo-migrate rollback" + (f" --func '{options.func_glob}'" if options.func_glob else "")
    again += " --include-native" if options.include_native else ""
    back = ""
    if still_born:
        funcs = still_born[0] if len(still_born) == 1 else glob
        back = f"qudo-migrate cutover back --func '{funcs}'"
    if unfinished and not options.dry_run:
        return f"{again}    goes on where this one ended" + (f"; {back} stops what apps still push" if back else "")
    if back:
        return f"{back}    on step resque apps go on pushing jobs into Resque; then {again}"
    if options.dry_run:
        return again
    return f"qudo-migrate resume --func '{glob}'    when its jobs may cross again: until then it stays paused"

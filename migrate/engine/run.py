"""The one-shot migration: all sources side by side, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from migrate.config import Config, SourceConfig
from migrate.engine import binding
from migrate.engine.drain import Drain
from migrate.engine.dry_run import dry_run as look
from migrate.engine.limits import limits
from migrate.engine.meeting import meet
from migrate.engine.options import DrainOptions
from migrate.engine.purge import PurgeOptions, SourcePurge
from migrate.engine.recording import record
from migrate.engine.reporters import Reporter
from migrate.engine.results import LISTED_JOBS, FindingCount, RunResult, SourceResult, Tally, Totals
from migrate.engine.side_by_side import SourceWork, error_lines, error_statuses, exit_status, side_by_side
from migrate.engine.stopping import SIGNALLED, Stop
from migrate.engine.throttling import Rate
from migrate.qudo import reading
from migrate.qudo.source import Source
from migrate.resque.history import command_line
from migrate.resque.target import Target


def run(
    config: Config,
    sources: Sequence[SourceConfig],
    options: DrainOptions,
    stop: Stop,
    reporter: Reporter,
    *,
    dry_run: bool = False,
) -> RunResult:
    """Migrate, or with `dry_run` say what would happen and write nothing anywhere.

    A source that fails doesn't stop the others. Raises only what concerns the target as a whole.
    """
    started = time.monotonic()
    target = Target.open(config.target.url, config.target.namespace)

    rate = [Rate(options.rate)] if options.rate else []
    replicas = {each.name: each.replicas for each in sources}

    bound: list[str] = []

    def drain(source: Source, tally: Tally) -> None:
        target_id = binding.bind(source, target)
        bound.append(target_id)
        with source.reading() as connection:
            reporter.source_started(source.name, reading.row_estimate(source, connection))
        with binding.Beat(target, source, target_id):
            held_by = [*rate, *limits(source, replicas[source.name], target, options, gives_way=True)]
            drain_of_one = Drain(source, target, config, options, tally, stop, reporter, held_by)
            drain_of_one.run()
            if options.purge:
                imports = config.failures.import_
                purge = SourcePurge(source, target, drain_of_one.routing, PurgeOptions(0), stop, reporter, imports)
                purge.run()
                tally.purged = purge.counts["purged"]

    def only_look(source: Source, tally: Tally) -> None:
        look(source, target, config, options, tally, stop, reporter)

    try:
        meet(target, options.retry_for, stop, reporter)
        works = side_by_side(sources, only_look if dry_run else drain, reporter)
        result = _result(works, time.monotonic() - started, options, dry_run=dry_run, stopped=stop.requested)
        if bound:
            _record(target, options, result)
    finally:
        reporter.close()
        target.close()
    return result


def _record(target: Target, options: DrainOptions, result: RunResult) -> None:
    """Note what this run did; for a Redis that is this migration's."""
    totals = msgspec.structs.asdict(result.totals)
    seconds = totals.pop("seconds")
    record(target, "run", seconds=seconds, options=options.given(), counts=totals, exit_status=result.exit_status)


def _result(
    works: Sequence[SourceWork], seconds: float, options: DrainOptions, *, dry_run: bool, stopped: bool
) -> RunResult:
    sources = [SourceResult.of(each.source.name, each.tally) for each in works]
    totals = Totals.of(sources, seconds)
    statuses = error_statuses(works, stopped=stopped)
    if totals.untranslatable or totals.in_flight or totals.waiting:
        statuses.add(1)
    status = exit_status(statuses)
    return RunResult(
        command="run",
        dry_run=dry_run,
        complete=status == 0 and not totals.not_moved,
        exit_status=status,
        sources=sources,
        totals=totals,
        untranslatable_jobs=[job for each in works for job in each.tally.untranslatable][:LISTED_JOBS],
        findings=findings(works),
        errors=error_lines(works),
        next=f"qudo-migrate {command_line('run', options.given())}" if dry_run else _next_step(status, totals),
    )


def findings(works: Sequence[SourceWork]) -> list[FindingCount]:
    """What a lead should know of the jobs, counted by source, func and kind."""
    return [
        FindingCount(each.source.name, func, finding, count)
        for each in works
        for (func, finding), count in sorted(each.tally.findings.items())
    ]


def _next_step(status: int, totals: Totals) -> str:
    """The next sensible command."""
    if status == SIGNALLED:
        return "qudo-migrate run    goes on where this one stopped"
    if status in (2, 3):
        return "qudo-migrate run    once that is mended: nothing was lost, it goes on from here"
    if totals.untranslatable:
        return "qudo-migrate plan    shows what can't be translated and why"
    if totals.in_flight or totals.waiting:
        return "qudo-migrate run --in-flight-wait 600    waits for the jobs that workers still hold"
    return "qudo-migrate where SOURCE:ID    tells one job's story"

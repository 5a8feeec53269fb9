"""What a run would do to one source, row by row, without writing anything anywhere."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from migrate.config import Config
from migrate.engine import binding, delivery
from migrate.engine.failures import FailuresImport
from migrate.engine.options import DrainOptions
from migrate.engine.reporters import Reporter
from migrate.engine.results import Tally
from migrate.engine.routing import Routing, RowState
from migrate.engine.step_watch import StepWatch
from migrate.engine.stopping import Stop
from migrate.engine.survey import Survey
from migrate.qudo import ddl, reading
from migrate.qudo.serializers import Finding
from migrate.qudo.source import Source
from migrate.resque.target import Target


class _Kind(NamedTuple):
    """What is counted of a row that would move."""

    func: str
    queue: str
    findings: tuple[Finding, ...]


def dry_run(
    source: Source,
    target: Target,
    config: Config,
    options: DrainOptions,
    tally: Tally,
    stop: Stop,
    reporter: Reporter,
) -> None:
    """Fill the tally with what `Drain.run` would do now. Raises TargetMismatch, Interrupted, server errors."""
    binding.check(source, target)
    has_our_tables = not ddl.lacking(source)
    routing = Routing(source, config, options.func_glob, StepWatch(target))
    routing.refresh()
    with source.reading() as connection:
        reporter.source_started(source.name, reading.row_estimate(source, connection))
    kinds: dict[_Kind, int] = {}
    by_priority: dict[int, array[int]] = {}  # the kinds of each priority's rows, by id
    for seen in Survey(source, routing, tally, stop, has_our_tables=has_our_tables):
        reporter.advanced(source.name, 1)
        if seen.state is RowState.NOT_MOVED and seen.translation is not None:
            kind = _Kind(routing.name(seen.row.func_id), seen.translation.job.queue, seen.translation.findings)
            by_priority.setdefault(seen.row.priority, array("L")).append(kinds.setdefault(kind, len(kinds)))
    movable = tally.left.pop("not_moved", 0)
    _count(tally, list(kinds), by_priority, movable if options.limit is None else min(movable, options.limit))
    tally.left["kept"] += movable - tally.moved_total
    FailuresImport(source, target, routing, tally, stop).look(config.failures.import_, has_our_tables=has_our_tables)
    tally.handed_off = tally.moved_total + (delivery.count_undelivered(source, target) if has_our_tables else 0)


def _count(tally: Tally, kinds: list[_Kind], by_priority: dict[int, array[int]], budget: int) -> None:
    """Count the first `budget` rows in Qudo's order: priority descending, then id."""
    for priority in sorted(by_priority, reverse=True):
        for index in by_priority[priority][:budget]:
            kind = kinds[index]
            tally.count_moved([(kind.func, kind.queue)])
            for finding in kind.findings:
                tally.findings[kind.func, finding] += 1
        budget = max(0, budget - len(by_priority[priority]))

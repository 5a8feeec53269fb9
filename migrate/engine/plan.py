"""What would move, how, and what stands in the way. Read-only on both sides; seconds even on large tables.

Counts come from one scan by the server, everything else from samples of some hundred rows a func.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from migrate.config import Config, SourceConfig
from migrate.engine import binding, delivery
from migrate.engine.plan_checks import func_checks, rough_estimate, source_checks, target_checks, workers_need
from migrate.engine.plan_result import (
    Check,
    Level,
    PlannedFunc,
    PlannedSource,
    PlannedTarget,
    PlanResult,
)
from migrate.engine.reporters import Reporter
from migrate.engine.results import LISTED_JOBS, ErrorLine, FindingCount, Tally, UntranslatableJob
from migrate.engine.routing import SAMPLE_ROWS, Routing
from migrate.engine.side_by_side import SourceWork, error_lines, error_statuses, exit_status, side_by_side
from migrate.engine.step_watch import StepWatch
from migrate.errors import MigrateError, Untranslatable
from migrate.jobs import Identity
from migrate.qudo import counting, ddl, reading
from migrate.qudo.counting import Group
from migrate.qudo.serializers import Serializer
from migrate.qudo.source import Source
from migrate.resque.target import Target, TargetFacts

#: Jobs that a run moves in a second, for the estimate: see docs/performance.md, and measure with `rehearse`.
ROWS_PER_SECOND = 10_000.0


class _Looked(NamedTuple):
    """What one source showed."""

    source: PlannedSource
    checks: list[Check]


def plan(config: Config, sources: Sequence[SourceConfig], func_glob: str | None, reporter: Reporter) -> PlanResult:
    """Look at all sources side by side, and at the target. Errors of either become part of the result."""
    target = Target.open(config.target.url, config.target.namespace)
    looked: dict[str, _Looked] = {}
    facts, target_error = _target_facts(target)

    def look(source: Source, tally: Tally) -> None:
        looked[source.name] = _look(source, None if facts is None else target, config, func_glob, tally)

    try:
        works = side_by_side(sources, look, reporter)
    finally:
        reporter.close()
        target.close()
    return _result(config, works, looked, facts, target_error)


def _target_facts(target: Target) -> tuple[TargetFacts | None, MigrateError | None]:
    try:
        return target.facts(), None
    except MigrateError as error:
        return None, error


def _look(source: Source, target: Target | None, config: Config, func_glob: str | None, tally: Tally) -> _Looked:
    facts = source.facts()
    lacking = ddl.lacking(source)
    ddl.check_collation(source, lacking)
    if target is not None:
        binding.check(source, target)
    routing = Routing(source, config, func_glob, None if target is None else StepWatch(target))
    routing.refresh()
    with source.reading() as connection:
        now = source.now(connection)
        groups = counting.groups(connection, now)
        exceptions, not_retried = counting.exceptions(connection)
        rights = counting.missing_rights(source, connection, create=bool(lacking))
    by_func: dict[int, list[Group]] = defaultdict(list)
    for group in groups:
        by_func[group.func_id].append(group)
    planned = PlannedSource(
        name=source.name,
        server=f"{facts.product} {facts.version}",
        engine=facts.job_engine,
        jobs=sum(group.jobs for group in groups),
        not_handed_off=0 if lacking or target is None else delivery.count_undelivered(source, target),
        exceptions=exceptions,
        exceptions_not_retried=not_retried,
        funcs=[_func(source, routing, func_id, of_func, now, tally) for func_id, of_func in by_func.items()],
    )
    checks = source_checks(source.name, facts, rights, len(lacking)) + func_checks(planned, config)
    return _Looked(planned, checks)


def _func(source: Source, routing: Routing, func_id: int, groups: list[Group], now: int, tally: Tally) -> PlannedFunc:
    with source.reading() as connection:
        rows = reading.samples(source, connection, func_id, SAMPLE_ROWS)
    detection = routing.detection(func_id)
    routed = routing.known(func_id)
    name = routing.name(func_id)
    classes: set[str] = set()
    bad = 0
    for seq, row in enumerate(rows):
        arg = reading.whole_arg(source, row)
        try:
            translator, translation = routing.translate(row, arg, Identity(0, seq), now)
        except Untranslatable as error:
            bad += 1
            tally.list_untranslatable(UntranslatableJob(source.name, row.id, name, error.message))
            continue
        classes.add(translator.decision.class_)
        tally.findings.update((name, finding) for finding in translation.findings)
    forced = routed.route.serializer if routed is not None else Serializer.AUTO
    total = Counter[str]()
    for group in groups:
        total.update(group._asdict())
    free = total["jobs"] - total["in_flight"]
    return PlannedFunc(
        func=name,
        moves=routed is not None and routed.moves,
        class_=routed.route.class_name(name) if routed is not None else name,
        queues=sorted({routed.route.queue_name(name, group.priority) for group in groups}) if routed else [],
        serializer=(detection.serializer if forced is Serializer.AUTO else forced).value,
        sure=round(detection.share if forced is Serializer.AUTO else 1.0, 3),
        sampled=len(rows),
        jobs=total["jobs"],
        ready=free - total["delayed"],
        delayed=total["delayed"],
        in_flight=total["in_flight"],
        expired=total["expired"],
        retried=total["retried"],
        with_uniqkey=total["with_uniqkey"],
        mean_arg_bytes=sum(row.arg_bytes for row in rows) // len(rows) if rows else 0,
        untranslatable_in_sample=bad,
    )


def _result(
    config: Config,
    works: Sequence[SourceWork],
    looked: dict[str, _Looked],
    facts: TargetFacts | None,
    target_error: MigrateError | None,
) -> PlanResult:
    seen = [looked[each.source.name] for each in works if each.source.name in looked]
    estimate = rough_estimate([func for one in seen for func in one.source.funcs], ROWS_PER_SECOND)
    checks = [check for one in seen for check in one.checks]
    errors = error_lines(works)
    statuses = error_statuses(works)
    if facts is not None:
        checks = target_checks(facts, estimate) + checks
        statuses |= {2} if facts.evicts else {3} if facts.read_only else set()
    if target_error is not None:
        errors.insert(0, ErrorLine("target", target_error.message, target_error.advice))
        statuses.add(target_error.exit_status)
    if any(check.level is Level.PROBLEM for check in checks):
        statuses.add(1)
    status = exit_status(statuses)
    return PlanResult(
        command="plan",
        ready=status == 0,
        exit_status=status,
        target=None if facts is None else _planned_target(facts),
        sources=[one.source for one in seen],
        checks=checks,
        workers_need=workers_need([one.source for one in seen], config),
        estimate=estimate,
        untranslatable_jobs=[job for each in works for job in each.tally.untranslatable][:LISTED_JOBS],
        findings=[
            FindingCount(each.source.name, func, finding, count)
            for each in works
            for (func, finding), count in sorted(each.tally.findings.items())
        ],
        errors=errors,
        next="qudo-migrate rehearse" if status == 0 else "mend what is marked as a problem, then qudo-migrate plan",
    )


def _planned_target(facts: TargetFacts) -> PlannedTarget:
    saves = {True: "snapshots", False: "none", None: "unknown"}[facts.rdb]
    return PlannedTarget(
        server=f"{facts.product} {facts.version}",
        used_memory=facts.used_memory,
        max_memory=facts.max_memory,
        eviction=facts.eviction,
        persistence=f"append-only file ({facts.append_fsync or 'unknown'})" if facts.aof else saves,
        replicas=facts.replicas,
    )

"""The whole migration without moving anything: read, translate, push into a scratch namespace, compare, remove.

Reads the sources, writes to the scratch namespace only. What was pushed is decoded and compared with what Qudo's own
bytes decode to, by a path that shares nothing with the one that made the payload.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from migrate.config import Config, SourceConfig
from migrate.decision import Decision
from migrate.engine import binding, run
from migrate.engine.batches import Batches
from migrate.engine.choosing import Chooser, Prepared
from migrate.engine.meeting import meet
from migrate.engine.pacing import DEFAULT_CAP, ChunkSize
from migrate.engine.reporters import Reporter
from migrate.engine.results import (
    LISTED_JOBS,
    Difference,
    RehearsalResult,
    RehearsedSource,
    Tally,
)
from migrate.engine.routing import Routing
from migrate.engine.side_by_side import SourceWork, error_lines, error_statuses, exit_status, side_by_side
from migrate.engine.stopping import Stop
from migrate.engine.survey import Survey
from migrate.errors import Interrupted
from migrate.qudo import ddl, reading
from migrate.qudo.source import Source
from migrate.resque.scratch import Held, Scratch
from migrate.resque.target import Target
from migrate.translate import expected_args, readable
from migrate.verify.values import difference


def rehearse(
    config: Config, sources: Sequence[SourceConfig], func_glob: str | None, stop: Stop, reporter: Reporter
) -> RehearsalResult:
    """Rehearse all sources side by side. Raises only what concerns the target as a whole."""
    started = time.monotonic()
    target = Target.open(config.target.url, config.target.namespace)
    differences: list[Difference] = []

    def work(source: Source, tally: Tally) -> None:
        binding.check(source, target)
        rehearsal = _Rehearsal(source, target, config, func_glob, tally, stop, reporter)
        try:
            rehearsal.run()
        finally:
            differences.extend(rehearsal.differences)

    try:
        meet(target, 0, stop, reporter)
        works = side_by_side(sources, work, reporter)
    finally:
        reporter.close()
        target.close()
    return _result(works, differences, time.monotonic() - started, stopped=stop.requested)


class _Rehearsal:
    """One source's rehearsal."""

    def __init__(
        self,
        source: Source,
        target: Target,
        config: Config,
        func_glob: str | None,
        tally: Tally,
        stop: Stop,
        reporter: Reporter,
    ) -> None:
        self._source = source
        self._target = target
        self._tally = tally
        self._stop = stop
        self._reporter = reporter
        self._routing = Routing(source, config, func_glob)
        self._chooser = Chooser(source, self._routing, Batches(), ChunkSize(DEFAULT_CAP), tally, stop, together=True)
        self.differences: list[Difference] = []

    def run(self) -> None:
        """Rehearse all rows that are free now, then count what would stay."""
        self._routing.refresh()
        with self._source.reading() as connection:
            self._reporter.source_started(self._source.name, reading.row_estimate(self._source, connection))
        scratch = Scratch(self._target, self._source.name)
        try:
            for chunk in self._chooser.chunks(None):
                held = scratch.push([each.job for each in chunk])
                self._compare(chunk, held)
                self._tally.count_moved((each.func, each.job.queue) for each in chunk)
                for each in chunk:
                    self._tally.findings.update((each.func, finding) for finding in each.findings)
                self._reporter.advanced(self._source.name, len(chunk))
        finally:
            scratch.close()
        if self._stop.requested:
            raise Interrupted(f"source {self._source.name}: the rehearsal was stopped")
        survey = Survey(
            self._source, self._routing, self._tally, self._stop, has_our_tables=not ddl.lacking(self._source)
        )
        for _ in survey:
            pass

    def _compare(self, chunk: Sequence[Prepared], held: Held) -> None:
        """Compare what Redis held with what Qudo holds: each job, its place, and the order."""
        found: dict[str, Iterator[bytes]] = {f"queue {name}": iter(texts) for name, texts in held.queues.items()}
        found |= {f"second {second}": iter(texts) for second, texts in held.delayed.items()}
        for each in chunk:
            text = None
            if each.job.delayed is not None:
                text = next(found[f"second {each.job.due}"], None)
            if text is None:  # due at once, or meanwhile: Redis's clock decided
                text = next(found[f"queue {each.job.queue}"], None)
            detail = "it isn't there" if text is None else self._detail(each, text, is_delayed=text == each.job.delayed)
            if detail is not None and len(self.differences) < LISTED_JOBS:
                self.differences.append(Difference(self._source.name, each.candidate.row.id, each.func, detail))

    def _detail(self, each: Prepared, text: bytes, *, is_delayed: bool) -> str | None:
        """How the job in Redis differs from the row in Qudo, or None."""
        row, decision = each.candidate.row, Decision.parse(self._chooser.decisions[each.candidate.decision])
        try:
            payload: Any = json.loads(text)
        except ValueError:
            return "it isn't JSON"
        if not isinstance(payload, dict):
            return "it isn't an object"
        record = row.job(self._source.name, each.func, each.arg)
        expected: dict[str, Any] = {"class": decision.class_, "args": expected_args(record, decision)}
        ours = payload.pop("qudo", None)
        if is_delayed:
            expected["queue"] = decision.queue
        found = {key: payload.get(key) for key in expected}
        problem = difference(expected, found)
        if problem is None and ours is not None:
            identity = {"source": self._source.name, "id": row.id, "outbox": each.job.identity.text}
            kept = {
                "uniqkey": None if row.uniqkey is None else readable(row.uniqkey),
                "priority": row.priority or None,
                "retry_cnt": row.retry_cnt or None,
                "enqueue_time": row.enqueue_time or None,
            }
            problem = difference(identity | {key: value for key, value in kept.items() if value is not None}, ours)
        return problem


def _result(
    works: Sequence[SourceWork], differences: list[Difference], seconds: float, *, stopped: bool
) -> RehearsalResult:
    sources = [RehearsedSource.of(each.source.name, each.tally, differences) for each in works]
    statuses = error_statuses(works, stopped=stopped)
    if differences or any(source.untranslatable for source in sources):
        statuses.add(1)
    status = exit_status(statuses)
    jobs = sum(source.rehearsed for source in sources)
    return RehearsalResult(
        command="rehearse",
        verdict="differences" if differences else "ok",
        exit_status=status,
        sources=sources,
        rehearsed=jobs,
        seconds=round(seconds, 3),
        jobs_per_second=round(jobs / seconds, 1) if seconds > 0 else 0.0,
        differences=differences,
        untranslatable_jobs=[job for each in works for job in each.tally.untranslatable][:LISTED_JOBS],
        findings=run.findings(works),
        errors=error_lines(works),
        next="qudo-migrate run --dry-run" if status == 0 else "qudo-migrate plan    shows what needs a person",
    )

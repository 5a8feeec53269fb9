"""`verify`: both sides as they are now, compared job by job while both live. Writes nothing on either side.

The order of looks makes what it says true of a moment: first the ledger's bits, then Resque, then the sources. What
was handed off before the bits were read must be in Resque, or was consumed; what is handed off later isn't compared.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from migrate import __version__
from migrate.config import Config
from migrate.engine import binding, mirroring
from migrate.engine.comparing import Comparison
from migrate.engine.meeting import meet
from migrate.engine.patience import Patience
from migrate.engine.reporters import Reporter
from migrate.engine.results import Tally
from migrate.engine.second_look import SecondLook
from migrate.engine.side_by_side import SourceWork, error_lines, error_statuses, exit_status, side_by_side
from migrate.engine.stopping import Stop
from migrate.errors import Interrupted, Unavailable
from migrate.qudo import ddl, outbox, reading
from migrate.qudo.source import Source
from migrate.resque import history, owners
from migrate.resque.target import Target
from migrate.verify.findings import CAP, Findings
from migrate.verify.look import Look
from migrate.verify.report import FuncReport, Report, ReportError, SourceReport
from migrate.verify.throughput import Throughput
from migrate.verify.words import DIFFERENCES, HANDED_OFF, Jobs, Kind

#: What the reporter calls the first look at Redis.
_RESQUE = "resque"
#: Records of the history in a report.
SHOWN_RECORDS = 50


class VerifyOptions(NamedTuple):
    """What the operator said."""

    expect_idle: bool = False
    show_args: bool = False
    retry_for: float = 0.0  #: seconds to wait for a server that was there and goes away


def verify(config: Config, options: VerifyOptions, stop: Stop, reporter: Reporter) -> Report:
    """Compare all sources with the target. Raises Interrupted, and what concerns the target as a whole.

    A server that goes away meanwhile is waited for; then all begins anew: half a comparison says nothing.
    """
    target = Target.open(config.target.url, config.target.namespace)
    patience = Patience(options.retry_for, stop, reporter.says)
    met: set[str] = set()  #: sources that have answered: one that never did fails at once
    try:
        meet(target, options.retry_for, stop, reporter)
        while True:
            try:
                return _Verification(config, options, target, stop, reporter, met).run()
            except Unavailable as error:
                patience.failed(error)
            except _SourceLost as lost:
                try:
                    patience.failed(lost.error)
                except Unavailable:
                    return lost.report
    finally:
        reporter.close()
        target.close()


class _SourceLost(Exception):
    """A source has gone away; the report lacks it."""

    def __init__(self, error: Unavailable, report: Report) -> None:
        super().__init__(error.message)
        self.error = error
        self.report = report


class _Verification:
    """One verification of one target."""

    def __init__(
        self,
        config: Config,
        options: VerifyOptions,
        target: Target,
        stop: Stop,
        reporter: Reporter,
        met: set[str],
    ) -> None:
        self._config = config
        self._options = options
        self._target = target
        self._stop = stop
        self._reporter = reporter
        self._met = met
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._names = [source.name for source in config.source]
        self._findings = Findings()
        self._throughput = Throughput()
        self._comparisons: dict[str, Comparison] = {}

    def run(self) -> Report:
        """All looks, then the report."""
        self._check_bindings()
        owner_of = owners.owners(self._target)
        bits = owners.bits(self._target, [batch for batch, name in owner_of.items() if name in self._names])
        look = self._look(owner_of)
        works = self._compare_sources(look, owner_of, bits)
        second = SecondLook(
            self._target,
            look,
            self._comparisons,
            bits,
            self._findings,
            self._stop,
            show_args=self._options.show_args,
        )
        second.run()
        foreign = look.foreign + second.foreign()
        if self._options.expect_idle:
            for comparison in self._comparisons.values():
                second.missing(comparison)
        sources = [self._source_report(each, look, foreign) for each in works]
        report = self._report(works, sources, look, foreign)
        for work in works:
            if isinstance(work.tally.error, Unavailable) and work.source.name in self._met:
                raise _SourceLost(work.tally.error, report)
        return report

    def _check_bindings(self) -> None:
        """Fail before the long look when a source belongs elsewhere; what else is wrong shows where it is met."""

        def check(source: Source, _tally: Tally) -> None:
            binding.check(source, self._target)
            self._met.add(source.name)

        for work in side_by_side(self._config.source, check, Reporter()):
            if work.tally.error is not None and work.tally.error.exit_status == 2:
                raise work.tally.error

    def _look(self, owner_of: dict[int, str]) -> Look:
        look = Look(self._target, owner_of, self._names, self._findings)
        self._reporter.source_started(_RESQUE, 0)

        def pulse(entries: int) -> None:
            if self._stop.requested:
                raise Interrupted("stopped while looking at Resque")
            self._reporter.advanced(_RESQUE, entries)

        look.run(pulse)
        self._reporter.source_ended(_RESQUE)
        return look

    def _compare_sources(self, look: Look, owner_of: Mapping[int, str], bits: Mapping[int, bytes]) -> list[SourceWork]:
        def compare(source: Source, tally: Tally) -> None:
            with source.reading() as connection:
                expected = reading.row_estimate(source, connection)
                if not ddl.lacking(source):
                    expected += outbox.counts(connection)[0]
            self._reporter.source_started(source.name, expected)
            own = {batch: held for batch, held in bits.items() if owner_of[batch] == source.name}
            comparison = Comparison(
                source, self._config, self._target, look, own, self._findings, self._throughput, self._stop
            )
            comparison.run(tally, lambda rows: self._reporter.advanced(source.name, rows))
            self._comparisons[source.name] = comparison

        works = side_by_side(self._config.source, compare, self._reporter)
        for work in works:
            if isinstance(work.tally.error, Interrupted):
                raise work.tally.error
        return works

    def _source_report(self, work: SourceWork, look: Look, foreign: Counter[str]) -> SourceReport:
        name = work.source.name
        comparison = self._comparisons.get(name)
        if comparison is None:
            return SourceReport(name, Jobs(), [], work.tally.error.message if work.tally.error else "not compared")
        counts: defaultdict[str, Counter[str]] = comparison.counts
        known = comparison.routing.funcs.values()
        func_of_class = {routed.route.class_name(routed.name): routed.name for routed in known}
        for (source, class_), failures in look.imported.items():
            if source == name:
                counts[func_of_class.get(class_, class_)]["imported"] += failures
        total = sum(counts.values(), Counter[str]())
        total["foreign"] = foreign[name]
        total["purged"] = comparison.gone.purged
        total["returned"] = comparison.gone.returned
        funcs = [FuncReport(func, Jobs.of(count)) for func, count in sorted(counts.items()) if any(count.values())]
        return SourceReport(name, Jobs.of(total), funcs, None)

    def _report(
        self, works: Sequence[SourceWork], sources: list[SourceReport], look: Look, foreign: Counter[str]
    ) -> Report:
        total: Counter[str] = Counter()
        for source in sources:
            for word in Jobs.__struct_fields__:
                total[word] += getattr(source.jobs, word)
        total["foreign"] += foreign[""]
        total["native"] = look.alike.unaccounted + look.natives
        processed = owners.processed(self._target)
        if total["consumed"] > (processed or 0):
            self._findings.add(
                Kind.UNEXPLAINED,
                f"{total['consumed']:,} jobs are gone from Resque, and its workers have counted only"
                f" {processed or 0:,} (stat:processed): either that number was reset, or jobs were lost",
            )
        totals = Jobs.of(total)
        mirror = mirroring.of_all(self._config, self._target)
        differs = any(getattr(totals, word) for word in DIFFERENCES) or any(each.different for each in mirror)
        verdict = "differences" if differs else "ok"
        statuses = error_statuses(works)
        if verdict != "ok":
            statuses.add(1)
        status = exit_status(statuses)
        seconds = time.monotonic() - self._started
        return Report(
            command="verify",
            version=__version__,
            verdict=verdict,
            complete=not error_lines(works),
            exit_status=status,
            expect_idle=self._options.expect_idle,
            started_at=self._started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            seconds=round(seconds, 3),
            jobs=totals.all,
            jobs_per_second=round(totals.all / seconds, 1) if seconds > 0 else 0.0,
            target=self._target.label,
            namespace=self._target.namespace,
            entries=look.entries,
            processed=processed,
            sources=sources,
            totals=totals,
            findings=self._findings.listed,
            findings_cap=CAP,
            findings_left_out=self._findings.left_out,
            throughput=self._throughput.spans(),
            history=history.newest(self._target, SHOWN_RECORDS),
            errors=[ReportError(each.source, each.error, each.advice) for each in error_lines(works)],
            next=_next_step(totals, verdict, complete=not error_lines(works)),
            mirror=mirror,
        )


def _next_step(totals: Jobs, verdict: str, *, complete: bool) -> str:
    if not complete:
        return "qudo-migrate verify    once the sources that failed can be read"
    if verdict != "ok":
        return "qudo-migrate where SOURCE:ID    tells the story of a job that a finding names"
    if totals.returning:
        return "qudo-migrate rollback    ends what a rollback has begun"
    if totals.untranslatable:
        return "qudo-migrate plan    shows what can't be translated and why"
    if totals.not_moved or totals.not_handed_off or totals.waiting or totals.in_flight:
        return "qudo-migrate run    moves what is left"
    if any(getattr(totals, word) for word in HANDED_OFF):
        return "qudo-migrate purge    deletes delivered outbox rows; after that there is no way back"
    return "qudo-migrate run"

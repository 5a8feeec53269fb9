"""Purging: delivered outbox rows go, behind a durable fence. What is not known to be safe in Redis stays.

Kept whatever their age: rows whose bit is clear, rows that still hold a uniqkey (freed first where their job is over),
rows of jobs that are not due yet. Failures of jobs that have crossed are noted first.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from migrate.config import Config, FailureImport, SourceConfig
from migrate.engine import binding, over
from migrate.engine.failures import FailuresImport
from migrate.engine.final_failures import LOGGED_WITHIN_SECONDS
from migrate.engine.meeting import meet
from migrate.engine.pacing import DEFAULT_CAP, ChunkSize
from migrate.engine.recording import record
from migrate.engine.reporters import Reporter
from migrate.engine.results import ErrorLine, Tally
from migrate.engine.routing import Routing
from migrate.engine.side_by_side import SourceWork, error_lines, error_statuses, exit_status, side_by_side
from migrate.engine.stopping import Stop
from migrate.errors import Interrupted, Refused, UsageError
from migrate.identities import Identities
from migrate.jobs import Identity
from migrate.qudo import ddl, purging
from migrate.qudo.purging import Delivered
from migrate.qudo.source import Source
from migrate.resque import durability, ledger, taking
from migrate.resque.history import command_line
from migrate.resque.target import Target

#: Batches that one fence serves: 2 MB of bits, 16 million jobs.
BATCHES_PER_FENCE = 256
#: Rows that one page reads.
PAGE_ROWS = 5000

_AGE = re.compile(r"(\d+)([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class PurgedSource(msgspec.Struct, frozen=True):
    """One source's part of a purge; the integers count outbox rows."""

    name: str
    purged: int
    young: int  #: delivered, and younger than asked
    not_delivered: int
    holding_uniqkey: int
    not_due: int
    returning: int  #: a rollback is under way, or was cut short: the next one ends it
    seconds: float
    error: str | None = None


class PurgeResult(msgspec.Struct, frozen=True):
    """What `purge` prints with `--json`."""

    command: str
    dry_run: bool
    exit_status: int
    sources: list[PurgedSource]
    ignored: list[str]  #: what --force ignored
    errors: list[ErrorLine]
    next: str


class PurgeOptions(msgspec.Struct, frozen=True):
    """What the operator asked for."""

    older_than_seconds: int = 86400
    dry_run: bool = False
    force: bool = False

    def given(self) -> dict[str, str | bool | None]:
        """What was asked for, each as an operator types it."""
        default = self.older_than_seconds == PurgeOptions().older_than_seconds
        return {"older_than": None if default else age(self.older_than_seconds), "force": self.force}


def parse_age(text: str) -> int:
    """`24h`, `30m`, `7d`, `90s` or `0` in seconds. Raises UsageError."""
    match = _AGE.fullmatch(text)
    if match is None:
        raise UsageError(f"--older-than {text}: write a number and s, m, h or d, e.g. 24h")
    return int(match[1]) * _UNITS[match[2]]


def age(seconds: int) -> str:
    """What `parse_age` reads, in the largest unit that fits: 7d, 12h, 90s, 0."""
    for unit, length in sorted(_UNITS.items(), key=lambda each: -each[1]):
        if seconds and unit and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return str(seconds)


def purge(
    config: Config, sources: Sequence[SourceConfig], options: PurgeOptions, stop: Stop, reporter: Reporter
) -> PurgeResult:
    """Purge all sources side by side. Raises only what concerns the target as a whole."""
    target = Target.open(config.target.url, config.target.namespace)
    ignored: list[str] = []
    started = time.monotonic()
    checked: list[str] = []

    def work(source: Source, tally: Tally) -> None:
        binding.check(source, target)
        if not ddl.lacking(source):
            checked.append(source.name)
            imports = config.failures.import_
            purging_of_one = SourcePurge(source, target, Routing(source, config), options, stop, reporter, imports)
            try:
                purging_of_one.run()
            finally:
                tally.left.update(purging_of_one.counts)
                ignored.extend(purging_of_one.ignored)

    try:
        meet(target, 0, stop, reporter)
        works = side_by_side(sources, work, reporter)
        result = _result(works, options, sorted(set(ignored)), stopped=stop.requested)
        if checked and not options.dry_run:
            _record(target, options, result, time.monotonic() - started)
    finally:
        reporter.close()
        target.close()
    return result


def _record(target: Target, options: PurgeOptions, result: PurgeResult, seconds: float) -> None:
    counts = {"purged": sum(source.purged for source in result.sources)}
    record(target, "purge", seconds=seconds, options=options.given(), counts=counts, exit_status=result.exit_status)


class SourcePurge:
    """One source's purge."""

    def __init__(
        self,
        source: Source,
        target: Target,
        routing: Routing,
        options: PurgeOptions,
        stop: Stop,
        reporter: Reporter,
        imports: FailureImport,
    ) -> None:
        """`imports`: by which rule failures are imported, now or later."""
        self._source = source
        self._target = target
        self._options = options
        self._stop = stop
        self._reporter = reporter
        self._routing = routing
        self._size = ChunkSize(DEFAULT_CAP)
        self._keeps_note = imports is FailureImport.FINAL and not options.dry_run
        self._failures = FailuresImport(source, target, routing, Tally(), stop)
        self._returning = Identities()  #: jobs on their way back to Qudo: their rows are all there is of them
        self.counts: Counter[str] = Counter()  #: outbox rows: `purged`, and those that stay by reason
        self.ignored: list[str] = []  #: what --force ignored

    def run(self) -> None:
        """Raises Refused without proof of durability, Interrupted between chunks, and the servers' errors."""
        self._reporter.source_started(self._source.name, 0)
        self._routing.refresh()
        if self._keeps_note:  # an outbox row is all that tells of a failure that its job goes on in Resque
            self._failures.note_crossed()
        after = -1
        while True:
            with self._source.reading() as connection:
                now = self._source.now(connection)
                batches = purging.batches(connection, after, BATCHES_PER_FENCE)
                holding = purging.held_keys(connection, batches)
            if not batches:
                return
            holding -= self._freed(holding)
            bits = self._durable_bits(batches)
            for batch in batches:
                self._purge_batch(batch, bits[batch], holding, now)
            after = batches[-1]

    def _freed(self, holding: set[Identity]) -> set[Identity]:
        """Free the uniqkeys of jobs that are over, so that their rows can go; a dry run frees none."""
        if self._options.dry_run:
            return set()
        freed: set[Identity] = set()
        holders = sorted(holding)
        for start in range(0, len(holders), over.MOST_HOLDERS):
            part = holders[start : start + over.MOST_HOLDERS]
            freed |= over.release_over(self._source, self._target, self._routing, part)
        return freed

    def _durable_bits(self, batches: Sequence[int]) -> Mapping[int, bytes]:
        """The bits of these batches, as a crash of Redis would leave them at least.

        Which jobs are returning is read after the bits: a rollback that claims an undelivered job sets its bit.
        """

        def look(target: Target) -> Mapping[int, bytes]:
            bits = ledger.bitmaps(target, batches)
            self._returning = taking.returning(target, self._source.name)
            return bits

        if self._options.dry_run:
            return look(self._target)
        try:
            return durability.fence(self._target, look)
        except Refused as error:
            if not self._options.force:
                raise Refused(error.message, advice=f"{error.advice or 'mend that'}; nothing is purged") from error
            self.ignored.append(error.message)
            return look(self._target)

    def _purge_batch(self, batch: int, bits: bytes, holding: set[Identity], now: int) -> None:
        for page in self._pages(batch):
            seqs = [row.seq for row in page if self._may_go(row, batch, bits, holding, now)]
            for part in self._size.parts(seqs):
                if self._stop.requested:
                    raise Interrupted(f"source {self._source.name}: stopped; the chunk in hand was finished")
                self._delete(batch, part)

    def _pages(self, batch: int) -> Iterator[list[Delivered]]:
        after = -1
        while True:
            with self._source.reading() as connection:
                page = purging.rows(connection, batch, after, PAGE_ROWS)
            yield page
            if len(page) < PAGE_ROWS:
                return
            after = page[-1].seq

    def _may_go(self, row: Delivered, batch: int, bits: bytes, holding: set[Identity], now: int) -> bool:
        reason = None
        if not ledger.is_set(bits, row.seq):
            reason = "not_delivered"
        elif Identity(batch, row.seq) in self._returning:
            reason = "returning"
        elif Identity(batch, row.seq) in holding:
            reason = "holding_uniqkey"
        elif row.run_after > now:
            reason = "not_due"
        elif row.moved_at > now - self._youngest(row):
            reason = "young"
        if reason is not None:
            self.counts[reason] += 1
        return reason is None

    def _youngest(self, row: Delivered) -> int:
        """Seconds that a row stays: a job that has failed may be logged as failed after it has crossed."""
        return max(self._options.older_than_seconds, LOGGED_WITHIN_SECONDS if row.retry_cnt else 0)

    def _delete(self, batch: int, seqs: Sequence[int]) -> None:
        if self._options.dry_run:
            self.counts["purged"] += len(seqs)
            return
        self.counts["purged"] += purging.delete_rows(self._source, batch, seqs)
        self._reporter.advanced(self._source.name, len(seqs))


def _result(works: Sequence[SourceWork], options: PurgeOptions, ignored: list[str], *, stopped: bool) -> PurgeResult:
    status = exit_status(error_statuses(works, stopped=stopped))
    sources = [
        PurgedSource(
            name=each.source.name,
            purged=each.tally.left["purged"],
            young=each.tally.left["young"],
            not_delivered=each.tally.left["not_delivered"],
            holding_uniqkey=each.tally.left["holding_uniqkey"],
            not_due=each.tally.left["not_due"],
            returning=each.tally.left["returning"],
            seconds=round(each.tally.seconds, 3),
            error=each.tally.error.message if each.tally.error else None,
        )
        for each in works
    ]
    undelivered = any(source.not_delivered for source in sources)
    after = "qudo-migrate run    hands off what isn't delivered yet" if undelivered else "qudo-migrate plan"
    return PurgeResult(
        command="purge",
        dry_run=options.dry_run,
        exit_status=status,
        sources=sources,
        ignored=ignored,
        errors=error_lines(works),
        next=f"qudo-migrate {command_line('purge', options.given())}" if options.dry_run else after,
    )

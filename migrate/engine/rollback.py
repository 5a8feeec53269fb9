"""Rollback: jobs that Resque has not started go back to Qudo, while workers and other migrators live.

The only module that knows the order of the steps: pause, claim what was never handed off, take what waits in Resque,
prove that durable, put it into `job`, forget it in Redis. A crash leaves jobs in `returning`; the next rollback brings
them home, whatever funcs it is asked for.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from migrate.config import Config, SourceConfig
from migrate.engine import binding
from migrate.engine.meeting import meet
from migrate.engine.pacing import DEFAULT_CAP, ChunkSize
from migrate.engine.recording import operator, record
from migrate.engine.reporters import Reporter
from migrate.engine.results import ErrorLine, Tally
from migrate.engine.returnable import Returnable
from migrate.engine.routing import Routing
from migrate.engine.side_by_side import SourceWork, error_lines, error_statuses, exit_status, side_by_side
from migrate.engine.stopping import SIGNALLED, Stop
from migrate.errors import Contention, Interrupted, OpenTransactions, Refused
from migrate.failpoints import reach
from migrate.jobs import Identity
from migrate.qudo import binding as source_side
from migrate.qudo import ddl, leasing, outbox, returning, returning_leased, tables
from migrate.qudo.outbox import Chunk, ChunkState
from migrate.qudo.returning import GivenBack
from migrate.qudo.source import Source
from migrate.resque import durability, pauses, taking
from migrate.resque.looking import SECOND_LOOK_SECONDS
from migrate.resque.pauses import PauseNote
from migrate.resque.taking import Entry, Place, Taking
from migrate.resque.target import Target

#: Passes through Resque; the last one that finds something new is followed by one more.
MOST_PASSES = 20
#: Tries of a transaction that loses a deadlock or waits too long for a lock, and the seconds between them.
CONTENTION_TRIES, CONTENTION_PAUSE_SECONDS = 10, 0.2
#: Seconds until InnoDB has flushed a commit by itself where it doesn't flush each (`innodb_flush_log_at_trx_commit`).
FLUSH_SECONDS = 2.0


class RolledBackSource(msgspec.Struct, frozen=True):
    """One source's part of a rollback; the integers count jobs."""

    name: str
    returned: int  #: in Qudo again
    started: int  #: stay: at work, failed, or tried before
    gone: int  #: stay: found nowhere, so a worker has done them or has just taken them
    held: int  #: stay: another job in Qudo has their uniqkey
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
    force: bool = False


def rollback(
    config: Config, sources: Sequence[SourceConfig], options: RollbackOptions, stop: Stop, reporter: Reporter
) -> RollbackResult:
    """Roll back all sources side by side. Raises only what concerns the target as a whole."""
    target = Target.open(config.target.url, config.target.namespace)
    started = time.monotonic()
    ignored: list[str] = []
    checked: list[str] = []

    def work(source: Source, tally: Tally) -> None:
        binding.check(source, target)
        if not _has_crossed(source):
            return
        if not options.dry_run:
            ddl.create_tables(source)
        elif ddl.lacking(source):
            return
        binding.check(source, target)
        checked.append(source.name)
        one = SourceRollback(source, target, Routing(source, config), options, stop, reporter)
        try:
            one.run()
        finally:
            tally.left.update(one.counts)
            ignored.extend(one.ignored)

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


def _has_crossed(source: Source) -> bool:
    """Whether anything can ever have left this source."""
    return tables.outbox.name not in ddl.lacking(source)


def _record(target: Target, options: RollbackOptions, result: RollbackResult, seconds: float) -> None:
    counts = {"returned": sum(source.returned for source in result.sources)}
    chosen = {"func": options.func_glob, "force": options.force}
    record(target, "rollback", seconds=seconds, options=chosen, counts=counts, exit_status=result.exit_status)


class SourceRollback:
    """One source's rollback."""

    def __init__(
        self,
        source: Source,
        target: Target,
        routing: Routing,
        options: RollbackOptions,
        stop: Stop,
        reporter: Reporter,
    ) -> None:
        self._source = source
        self._target = target
        self._routing = routing
        self._options = options
        self._stop = stop
        self._reporter = reporter
        self._size = ChunkSize(DEFAULT_CAP)
        self.counts: Counter[str] = Counter()  #: jobs, by the words of the result
        self.ignored: list[str] = []  #: what --force ignored

    def run(self) -> None:
        """Raises Refused without proof of durability, OpenTransactions, Interrupted between chunks, servers' errors.

        Whatever is raised, nothing is lost: the next rollback goes on.
        """
        self._reporter.source_started(self._source.name, 0)
        self._routing.refresh()
        returnable = Returnable(self._source, self._target, self._routing, self._options.func_glob)
        with self._source.reading() as connection:
            held = source_side.read(connection)
        if held.target_id is None:
            return  # never bound: nothing was handed off, and this Redis may be anybody's
        taking_of_one = Taking(self._target, self._source.name, target_id=held.target_id, beat=held.beat)
        if self._options.dry_run:
            self._look(returnable, taking_of_one)
            return
        with binding.Beat(self._target, self._source, held.target_id):
            # Asked first: a Redis that can't prove anything must not be found out when jobs are on their way already.
            self._drop_notes()
            glob = self._options.func_glob or "*"
            pauses.pause(self._target, glob, PauseNote.now(operator(), socket.gethostname()))
            reach("rollback.paused")
            self._settle()
            open_transactions = self._take_all(returnable, taking_of_one)
            self._give_back(taking_of_one)
            self._count_stays(returnable)
        if open_transactions is not None:
            raise open_transactions

    def _look(self, returnable: Returnable, taking_of_one: Taking) -> None:
        """What would happen."""
        returnable.begin_pass()
        self.counts["returned"] = sum(len(returnable.of_chunk(chunk)) for chunk in self._undelivered())
        for place in taking_of_one.places():
            met: set[Identity] = set()

            def choose(
                texts: Sequence[bytes], place: taking.Place = place, met: set[Identity] = met
            ) -> list[taking.Entry]:
                met.update(entry.identity for entry in returnable.of_page(place, texts))
                return []

            for _ in taking_of_one.work_through(place, choose):
                self._check_stop()
            self.counts["returned"] += len(met)
        self._count_stays(returnable, leaving=self.counts["returned"])

    # -- taking --

    def _settle(self) -> None:
        """Finish what moves and rollbacks without transactions left half done."""
        if not self._source.facts().transactional:
            leasing.settle(self._source)
            returning_leased.settle(self._source)

    def _take_all(self, returnable: Returnable, taking_of_one: Taking) -> OpenTransactions | None:
        """Claim and take until two looks in a row found nothing new.

        Schedulers pop first and push after: what is nowhere at one look may be there at the next. Returns why another
        migrator may still bring more.
        """
        quiet = False
        for _ in range(MOST_PASSES):
            returnable.begin_pass()
            found = self._claim(returnable, taking_of_one) + self._take(returnable, taking_of_one)
            if not found and quiet:
                break
            quiet = not found
            if self._stop.wait(SECOND_LOOK_SECONDS):
                self._check_stop()
        return self._open_transactions()

    def _claim(self, returnable: Returnable, taking_of_one: Taking) -> int:
        claimed = 0
        for chunk in self._undelivered():
            self._check_stop()
            if seqs := returnable.of_chunk(chunk):
                claimed += taking_of_one.claim(chunk.batch, seqs)
                reach("rollback.claimed")
        return claimed

    def _undelivered(self) -> list[Chunk]:
        """Chunks that may lack jobs in Resque. A chunk that is moving is left to its mover: its rows are in `job`."""
        with self._source.reading() as connection:
            return [chunk for chunk in outbox.chunks_in_order(connection) if chunk.state is ChunkState.READY]

    def _take(self, returnable: Returnable, taking_of_one: Taking) -> int:
        taken = 0
        for place in taking_of_one.places():

            def choose(texts: Sequence[bytes], place: Place = place) -> list[Entry]:
                return returnable.of_page(place, texts)

            for count in taking_of_one.work_through(place, choose):
                taken += count
                if count:
                    reach("rollback.taken")
                self._check_stop()
        return taken

    def _open_transactions(self) -> OpenTransactions | None:
        """A mover that holds its rows locked commits them after this rollback: they wait in the outbox, paused."""
        page: list[Chunk] = []
        try:
            while True:
                with self._source.last_look() as connection:
                    page = outbox.chunks(connection, behind=page[-1] if page else None, locking=True)
                if not page:
                    return None
        except Contention:
            return OpenTransactions(
                f"source {self._source.name}: a migrator's open transaction holds jobs that this rollback didn't see",
                advice="let it end or stop it, then rollback again; until then they are paused",
            )

    # -- giving back --

    def _give_back(self, taking_of_one: Taking) -> None:
        """Put all that is on its way into `job`, behind a fence; then forget it in Redis."""
        done: list[Identity] = []
        try:
            for batch, seqs in returning.by_batch(self._durably_returning()).items():
                start = 0
                while start < len(seqs):
                    self._check_stop()
                    part = seqs[start : start + self._size.rows]
                    start += len(part)
                    began = time.monotonic()
                    done += self._chunk(taking_of_one, batch, part)
                    self._size.took(len(part), time.monotonic() - began)
        finally:
            self._forget(taking_of_one, done)
        self._drop_notes()
        reach("rollback.ended")

    def _durably_returning(self) -> set[Identity]:
        """The jobs on their way, as a crash of Redis would leave them at least."""

        def look(target: Target) -> set[Identity]:
            return taking.returning(target, self._source.name)

        on_their_way = self._proved(look)
        reach("rollback.fenced")
        return on_their_way

    def _chunk(self, taking_of_one: Taking, batch: int, seqs: Sequence[int]) -> list[Identity]:
        """Return jobs of one batch; where a uniqkey collides, part by part. Returns those that are in `job`."""
        given = self._patiently(batch, seqs)
        done = [Identity(batch, seq) for seq in sorted(given.returned)]
        self.counts["returned"] += len(done)
        self._reporter.advanced(self._source.name, len(done))
        if given.orphans:
            self._orphans(taking_of_one, [Identity(batch, seq) for seq in sorted(given.orphans)])
        if not given.collided:
            return done
        left = [seq for seq in seqs if seq not in given.returned and seq not in given.orphans]
        if len(left) == 1:
            self.counts["collided"] += 1
            return done
        middle = len(left) // 2
        for half in (left[:middle], left[middle:]):
            done += self._chunk(taking_of_one, batch, half)
        return done

    def _patiently(self, batch: int, seqs: Sequence[int]) -> GivenBack:
        give_back = returning.give_back if self._source.facts().transactional else returning_leased.give_back
        for _ in range(CONTENTION_TRIES - 1):
            try:
                return give_back(self._source, batch, seqs)
            except Contention:
                if self._stop.wait(CONTENTION_PAUSE_SECONDS):
                    self._check_stop()
        return give_back(self._source, batch, seqs)

    def _orphans(self, taking_of_one: Taking, orphans: Sequence[Identity]) -> None:
        """Jobs whose rows a purge deleted while they were taken: Resque gets them back."""
        put = taking_of_one.put_back(orphans)
        self.counts["purged"] += put
        lost = len(set(orphans) & taking.returning(self._target, self._source.name))
        self.counts["returning"] += lost

    def _forget(self, taking_of_one: Taking, done: Sequence[Identity]) -> None:
        """The jobs are in Qudo: nothing of them is left to do in Redis."""
        if not done:
            return
        facts = self._source.facts()
        if not self._source.is_sqlite and facts.flush_at_commit != 1:
            time.sleep(FLUSH_SECONDS)  # a commit that MySQL forgets must find its job still on its way
        for start in range(0, len(done), taking.CALL_JOBS):
            taking_of_one.forget(done[start : start + taking.CALL_JOBS])
            reach("rollback.forgotten")

    def _drop_notes(self) -> None:
        """Drop notes of jobs that Redis has durably forgotten to be on their way. Raises Refused without proof."""
        with self._source.reading() as connection:
            noted = returning.notes(connection)

        def look(target: Target) -> set[Identity]:
            return taking.returning(target, self._source.name)

        ignored = len(self.ignored)
        on_their_way = self._proved(look)
        if noted and len(self.ignored) == ignored:
            returning.drop_notes(self._source, noted - on_their_way)

    def _proved(self, look: Callable[[Target], set[Identity]]) -> set[Identity]:
        try:
            return durability.fence(self._target, look)
        except Refused as error:
            if not self._options.force:
                raise Refused(error.message, advice=f"{error.advice or 'mend that'}; then rollback again") from error
            self.ignored.append(error.message)
            return look(self._target)

    # -- the end --

    def _count_stays(self, returnable: Returnable, *, leaving: int = 0) -> None:
        stays = returnable.counts()
        self.counts.update(stays)
        self.counts["purged"] += len(returnable.purged)
        on_their_way = len(taking.returning(self._target, self._source.name))
        self.counts["returning"] = max(0, on_their_way - self.counts["collided"])
        self.counts["gone"] = max(0, returnable.remaining() - stays.total() - on_their_way - leaving)

    def _check_stop(self) -> None:
        if self._stop.requested:
            raise Interrupted(
                f"source {self._source.name}: stopped; rollback again: jobs may be on their way",
                advice="qudo-migrate rollback",
            )


def _result(
    works: Sequence[SourceWork], options: RollbackOptions, ignored: list[str], *, stopped: bool
) -> RollbackResult:
    statuses = error_statuses(works)
    if stopped:
        statuses.add(SIGNALLED)
    sources = [
        RolledBackSource(
            name=each.source.name,
            returned=each.tally.left["returned"],
            started=each.tally.left["started"],
            gone=each.tally.left["gone"],
            held=each.tally.left["held"],
            purged=each.tally.left["purged"],
            collided=each.tally.left["collided"],
            returning=each.tally.left["returning"],
            seconds=round(each.tally.seconds, 3),
            error=each.tally.error.message if each.tally.error else None,
        )
        for each in works
    ]
    unfinished = any(source.collided or source.returning for source in sources)
    if unfinished or any(source.held for source in sources):
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
        next=_next_step(options, glob, unfinished=unfinished or stopped or bool(error_statuses(works))),
    )


def _next_step(options: RollbackOptions, glob: str, *, unfinished: bool) -> str:
    again = "qudo-migrate rollback" + (f" --func '{glob}'" if options.func_glob else "")
    if options.dry_run:
        return again
    if unfinished:
        return f"{again}    goes on where this one ended"
    return f"qudo-migrate resume --func '{glob}'    when its jobs may cross again: until then it stays paused"

"""Rollback: jobs that Resque has not started go back to Qudo, while workers and other migrators live.

The only module that knows the order of the steps: pause, claim what was never handed off, take what waits in Resque,
prove that durable, put it into `job`, forget it in Redis. A crash leaves jobs in `returning`; the next rollback brings
them home, whatever funcs it is asked for.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Sequence

from migrate.config import Config, SourceConfig
from migrate.engine import binding, native_keys
from migrate.engine.giving_back import GivingBack, check_stop
from migrate.engine.meeting import meet
from migrate.engine.natives import Natives
from migrate.engine.recording import operator, record
from migrate.engine.reporters import Reporter
from migrate.engine.results import Tally
from migrate.engine.returnable import Returnable
from migrate.engine.rollback_result import RollbackOptions, RollbackResult, result_of
from migrate.engine.routing import Routing
from migrate.engine.side_by_side import side_by_side
from migrate.engine.stopping import Stop
from migrate.errors import Contention, OpenTransactions, Refused
from migrate.failpoints import reach
from migrate.identities import Identities
from migrate.qudo import binding as source_side
from migrate.qudo import ddl, leasing, outbox, returning_leased, tables
from migrate.qudo.outbox import Chunk, ChunkState
from migrate.qudo.source import Source
from migrate.resque import pauses, taking
from migrate.resque.looking import SECOND_LOOK_SECONDS
from migrate.resque.pauses import PauseNote
from migrate.resque.taking import Entry, Place, Taking
from migrate.resque.target import Target

#: Passes through Resque; the last one that finds something new is followed by one more.
MOST_PASSES = 20


def rollback(
    config: Config, sources: Sequence[SourceConfig], options: RollbackOptions, stop: Stop, reporter: Reporter
) -> RollbackResult:
    """Roll back all sources side by side. Raises only what concerns the target as a whole."""
    target = Target.open(config.target.url, config.target.namespace)
    started = time.monotonic()
    ignored: list[str] = []
    checked: list[str] = []
    still_born: list[str] = []

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
        one = SourceRollback(source, target, config, options, stop, reporter)
        try:
            one.run()
        finally:
            tally.left.update(one.counts)
            ignored.extend(one.ignored)

    try:
        meet(target, 0, stop, reporter)
        if options.include_native:
            if not options.dry_run:
                ignored += native_keys.guard_both(target, sources, options.func_glob, stop, force=options.force)
            still_born = native_keys.born_in_resque(target, options.func_glob)
        works = side_by_side(sources, work, reporter)
        result = result_of(works, options, sorted(set(ignored)), still_born, stopped=stop.requested)
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
    chosen = {"func": options.func_glob, "include_native": options.include_native, "force": options.force}
    record(target, "rollback", seconds=seconds, options=chosen, counts=counts, exit_status=result.exit_status)


class SourceRollback:
    """One source's rollback."""

    def __init__(
        self,
        source: Source,
        target: Target,
        config: Config,
        options: RollbackOptions,
        stop: Stop,
        reporter: Reporter,
    ) -> None:
        self._source = source
        self._target = target
        self._routing = Routing(source, config)
        glob, wanted = options.func_glob, options.include_native
        self._natives = Natives(source, target, config, self._routing, glob, wanted=wanted)
        self._options = options
        self._stop = stop
        self._reporter = reporter
        self.counts: Counter[str] = Counter()  #: jobs, by the words of the result
        self.ignored: list[str] = []  #: what --force ignored

    def run(self) -> None:
        """Raises Refused without proof of durability, OpenTransactions, Interrupted between chunks, servers' errors.

        Whatever is raised, nothing is lost: the next rollback goes on.
        """
        self._reporter.source_started(self._source.name, 0)
        self._routing.refresh()
        returnable = Returnable(self._source, self._target, self._routing, self._options.func_glob, self._natives)
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
            giving_back = GivingBack(
                self._source,
                self._target,
                taking_of_one,
                self._stop,
                self._reporter,
                self.counts,
                self._natives,
                force=self._options.force,
            )
            self.ignored = giving_back.ignored
            giving_back.drop_notes()
            glob = self._options.func_glob or "*"
            pauses.pause(self._target, glob, PauseNote.now(operator(), socket.gethostname()))
            reach("rollback.paused")
            self._settle()
            unfinished = self._take_all(returnable, taking_of_one)
            giving_back.run()
            self._count_stays(returnable)
        if unfinished is not None:
            raise unfinished

    def _look(self, returnable: Returnable, taking_of_one: Taking) -> None:
        """What would happen."""
        returnable.begin_pass()
        self.counts["returned"] = sum(len(returnable.of_chunk(chunk)) for chunk in self._undelivered())
        for place in taking_of_one.places():
            met, natives = Identities(), Identities()

            def choose(
                texts: Sequence[bytes], place: Place = place, met: Identities = met, natives: Identities = natives
            ) -> list[Entry]:
                for entry in returnable.of_page(place, texts):
                    (natives if entry.native else met).add(entry.identity)
                return []

            for _ in taking_of_one.work_through(place, choose):
                self._check_stop()
            self.counts["returned_native"] += len(natives)
            self.counts["returned"] += len(met)
        self._count_stays(returnable, leaving=self.counts["returned"])

    # -- taking --

    def _settle(self) -> None:
        """Finish what moves and rollbacks without transactions left half done."""
        if not self._source.facts().transactional:
            leasing.settle(self._source)
            returning_leased.settle(self._source)

    def _take_all(self, returnable: Returnable, taking_of_one: Taking) -> Refused | None:
        """Claim and take until two looks in a row found nothing new.

        Schedulers pop first and push after: what is nowhere at one look may be there at the next. Returns why there may
        be more.
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
        else:
            return Refused(
                f"source {self._source.name}: the last of {MOST_PASSES} looks through Resque still found new jobs",
                advice="find out who pushes them, then rollback again",
            )
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

    # -- the end --

    def _count_stays(self, returnable: Returnable, *, leaving: int = 0) -> None:
        stays = returnable.counts()
        self.counts["purged"] += len(returnable.purged)
        on_their_way, natives = taking.count_returning(self._target, self._source.name)
        self.counts["returning"] = max(0, on_their_way - self.counts["collided"])
        self.counts["returning"] += max(0, natives - self.counts["collided_native"])
        self.counts["gone"] = max(0, returnable.remaining() - stays.total() - on_their_way - leaving)
        self.counts.update(stays)
        self.counts.update(self._natives.counts())

    def _check_stop(self) -> None:
        check_stop(self._stop, self._source)

"""A migrator by hand: each step of the protocol by the real functions, one at a time; it may die at any point."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest

from migrate.config import Config, Route, TargetConfig
from migrate.dualwrite import handing
from migrate.engine import binding, delivery, giving_back, over, rollback
from migrate.engine.batches import Batches
from migrate.engine.choosing import Chooser, Prepared
from migrate.engine.delivery import Delivery, Recovered
from migrate.engine.pacing import ChunkSize
from migrate.engine.pausing import PauseWatch
from migrate.engine.results import Tally
from migrate.engine.routing import Routing
from migrate.engine.stopping import Stop
from migrate.engine.survey import Survey
from migrate.failpoints import POINTS
from migrate.jobs import Identity, ResqueJob
from migrate.qudo import leasing, moving, outbox, purging, returning, returning_leased, tables
from migrate.qudo.binding import Binding
from migrate.qudo.moving import Moved
from migrate.qudo.source import Source
from migrate.qudo.turns import Turn
from migrate.resque import durability, handoff
from migrate.resque.target import Target
from tests.servers import Database, MariaDBDatabase

#: The modules that have points at which a process can die.
_MODULES_WITH_POINTS = (
    *(moving, leasing, outbox, handoff, durability, delivery, over),
    *(purging, rollback, giving_back, returning, returning_leased, handing),
)


class Died(BaseException):
    """The process is gone: nothing of ours may catch this."""


def die() -> None:
    """End the process here."""
    raise Died


@contextlib.contextmanager
def at(
    point: str | None,
    action: Callable[[], object] = die,
    *,
    on_pass: int = 1,
    heard: Callable[[str], object] = lambda _: None,
) -> Iterator[None]:
    """Do something at a point of `migrate.failpoints`; by default die, and what was open is rolled back.

    `heard` is told of each point that is passed.
    """
    passes = 0

    def reach(name: str) -> None:
        nonlocal passes
        assert name in POINTS
        heard(name)
        passes += name == point
        if name == point and passes == on_pass:
            action()

    with pytest.MonkeyPatch.context() as patch:
        for module in _MODULES_WITH_POINTS:
            patch.setattr(module, "reach", reach)
        yield


class Gone(NamedTuple):
    """Jobs that have left `job` and are still to be pushed, with what the source remembered then."""

    jobs: Sequence[ResqueJob]
    held: Binding


class Migrator:
    """One process of a source. What it holds in memory is what a crash loses."""

    def __init__(
        self, url: str, target: Target, *routes: Route, name: str = "main", chunk_rows: int = 1000, bind: bool = True
    ) -> None:
        # Without TLS: loading the system's certificates for each connection takes longer than most tests.
        self.source = Source(name, f"{url}?ssl_disabled=1" if url.startswith("mysql") else url)
        self.target = target
        self.config = Config(TargetConfig("redis://unused"), (), routes)
        self._chunk_rows = chunk_rows
        if bind:
            binding.bind(self.source, target)
        self.move_chunk = moving.move if self.source.facts().transactional else leasing.move
        self.forget()

    def forget(self, *, connections: bool = True) -> None:
        """A new process in the place of the old one: nothing in memory, no connection, another batch."""
        if connections:
            self.source.forget_connections()
        self.batches = Batches()
        self.tally = Tally()
        self.routing = Routing(self.source, self.config)
        watch = PauseWatch(self.target)
        self.delivery = Delivery(self.source, self.target, self.routing, watch)
        size = ChunkSize(self._chunk_rows)
        # Rows with a uniqkey share chunks, as where apps have stopped enqueueing.
        self.chooser = Chooser(
            self.source, self.routing, self.batches, size, self.tally, Stop(), together=True, watch=watch
        )

    def read(self) -> list[list[Prepared]]:
        """Translated rows that are free now, in chunks."""
        self.routing.refresh()
        return list(self.chooser.chunks(None))

    def move(self, chunk: Sequence[Prepared], turn: Turn | None = None) -> Moved:
        """Move one chunk."""
        candidates = [each.candidate for each in chunk]
        return self.move_chunk(self.source, chunk[0].job.identity.batch, candidates, self.chooser.decisions, turn)

    def gone(self, chunk: Sequence[Prepared], moved: Moved) -> Gone:
        """What is to be pushed after a move."""
        return Gone([each.job for each in chunk if each.candidate.seq in moved.seqs], moved.binding)

    def push(self, gone: Gone) -> int:
        """Hand off; how many jobs were new to Redis."""
        new = self.delivery.push(gone.jobs, gone.held).new
        if gone.jobs:
            batch = gone.jobs[0].identity.batch
            self.delivery.delivered(moving.chunk_of(batch, [job.identity.seq for job in gone.jobs]))
        return new

    def recover(self) -> list[Recovered]:
        """Finish what any process left half done."""
        self.routing.refresh()
        return list(self.delivery.recover())

    def drop_records(self) -> None:
        """Drop the records of chunks that a push or recovery has seen complete, behind the real fence."""
        self.delivery.forget_delivered()

    def release(self) -> set[Identity]:
        """Free the uniqkeys of jobs that are over and for which others wait."""
        self.routing.refresh()
        waiters = [seen.waiter for seen in Survey(self.source, self.routing, self.tally, Stop()) if seen.waiter]
        return over.release_over(self.source, self.target, self.routing, [waiter.holder for waiter in waiters])

    def pass_over(self) -> int:
        """One whole pass: recover, read, move, push; how many jobs left `job`."""
        self.recover()
        moved_jobs = 0
        for chunk in self.read():
            moved = self.move(chunk)
            self.push(self.gone(chunk, moved))
            moved_jobs += len(moved.seqs)
        return moved_jobs

    def close(self) -> None:
        """Close its connections to the source."""
        self.source.close()


def empty(database: Database) -> None:
    """Make a database as good as new, ids too: quicker than another one."""
    names = [table.name for table in (*tables.qudo.sorted_tables, *tables.ours.sorted_tables)]
    if isinstance(database, MariaDBDatabase):
        there = {name for (name,) in database.rows("SHOW TABLES")}
        for name in there.intersection(names):
            database.execute(f"DELETE FROM {name}")
        for table in tables.qudo.sorted_tables:
            database.execute(f"ALTER TABLE {table.name} AUTO_INCREMENT = 1")
        return
    there = {name for (name,) in database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for name in there.intersection({*names, "sqlite_sequence"}):
        database.execute(f"DELETE FROM {name}")

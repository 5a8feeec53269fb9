"""Promises 1 to 3: a migrator that is killed at any step leaves nothing that one clean run doesn't put right."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest

from migrate.failpoints import POINTS, VARIABLE
from tests.faults.accounting import Books, Token
from tests.integration.conftest import Run
from tests.resque_app import Resque, ResqueWorker
from tests.servers import Database
from tests.servers.command import Cli

#: A backlog is several chunks of this run, so that a point is passed several times.
RUN = ("run", "--batch-size", "20")
PURGE = ("purge", "--older-than", "0")


class Stage(NamedTuple):
    """Where a story is played."""

    database: Database
    books: Books
    cli: Cli
    run: Run
    resque: Resque

    def kill_at(self, point: str, at: int = 1) -> None:
        """Run, or purge, until the point kills it. A kill that never fires is a failure."""
        purges = point.startswith("purge.")
        self.cli.env[VARIABLE] = f"{point}=kill@{at}"
        result = self.cli(*(PURGE if purges else RUN), "--json")
        assert result.status == -signal.SIGKILL, f"{point} was not passed {at} times\n{result.stdout}{result.stderr}"
        del self.cli.env[VARIABLE]


Order = Mapping[str, Sequence[Token]]

#: What there is before the kill; returns the order in which the jobs must be queued in the end.
Story = Callable[[Stage], Order]


def backlog(stage: Stage) -> Order:
    """Jobs of three priorities, some delayed, some with a uniqkey."""
    stage.books.fill(90, priorities=3)
    stage.books.fill(5, run_after=1000)
    stage.books.fill(5, "Worker::Keyed", uniqkey="key-{n}", priorities=2)
    return stage.books.order()


def large_jobs(stage: Stage) -> Order:
    """One chunk that takes two calls of the hand-off script: its args have room in 4 MiB, its payloads have not."""
    stage.books.fill(4, arg_bytes=1_048_570)
    return stage.books.order()


def moved_and_left(stage: Stage) -> Order:
    """A backlog of which a killed migrator has moved two chunks and handed off none, or one."""
    order = backlog(stage)
    stage.kill_at("move.committed" if stage.database.transactional else "leasing.ready", 2)
    return order


def failures(stage: Stage) -> Order:
    """More failures than one push and one mark carry."""
    stage.books.fill(10)
    stage.books.log_failures(250)
    return stage.books.order()


def keys_that_are_over(stage: Stage) -> Order:
    """Two jobs wait for the keys of jobs that a Resque worker has done."""
    for number in range(2):
        stage.books.enqueue(uniqkey=f"key-{number}")
    stage.run()
    for number in range(2):
        stage.books.note_taken(ResqueWorker(stage.resque).pop("worker_mail").payload)
        stage.books.enqueue(uniqkey=f"key-{number}")
    return stage.books.order()


def delivered(stage: Stage) -> Order:
    """A backlog that has crossed, before its purge."""
    order = backlog(stage)
    stage.run()
    stage.books.purged = True
    return order


class Kill(NamedTuple):
    """One way to die."""

    engine: str
    point: str
    at: int  #: which pass of the point
    story: Story = backlog


def _kills() -> Iterator[Kill]:
    for step, at in (("locked", 1), ("recorded", 3), ("copied", 1), ("deleted", 3), ("committed", 1)):
        yield Kill("innodb", f"move.{step}", at)
    for step in ("copied", "deleted", "committed"):
        yield Kill("sqlite", f"move.{step}", 2)
    for step, at in (
        ("claimed", 1),
        ("recorded", 3),
        ("copied", 1),
        ("deleting", 1),
        ("deleted", 3),
        ("ready", 1),
    ):
        yield Kill("myisam", f"leasing.{step}", at)
    yield Kill("myisam", "leasing.claimed", 3)
    yield Kill("myisam", "leasing.deleted", 1, moved_and_left)
    yield Kill("innodb", "handoff.begun", 1)
    yield Kill("myisam", "handoff.begun", 3)
    yield Kill("innodb", "handoff.part", 1, large_jobs)
    yield Kill("innodb", "handoff.part", 1, moved_and_left)
    yield Kill("innodb", "handoff.done", 3)
    yield Kill("sqlite", "handoff.done", 2)
    for engine in ("innodb", "myisam", "sqlite"):
        yield Kill(engine, "recover.found", 1, moved_and_left)
    yield Kill("innodb", "fence.proved", 1)
    yield Kill("myisam", "chunks.dropped", 1)
    yield Kill("innodb", "failures.entered", 1, failures)
    yield Kill("myisam", "failures.entered", 2, failures)
    yield Kill("innodb", "failures.marked", 1, failures)
    yield Kill("sqlite", "failures.marked", 2, failures)
    yield Kill("innodb", "binding.created", 1)
    yield Kill("myisam", "binding.registered", 1)
    yield Kill("sqlite", "binding.bound", 1)
    yield Kill("innodb", "pending.released", 1, keys_that_are_over)
    yield Kill("myisam", "pending.released", 2, keys_that_are_over)

    for engine in ("innodb", "myisam"):
        yield Kill(engine, "purge.deleted", 1, delivered)
        yield Kill(engine, "purge.committed", 1, delivered)


KILLS = list(_kills())


@pytest.mark.parametrize(
    ("database", "kill"),
    [(kill.engine, kill) for kill in KILLS],
    ids=[f"{kill.engine}-{kill.point}-{kill.at}-{kill.story.__name__}" for kill in KILLS],
    indirect=["database"],
)
def test_each_job_crosses_once_after_a_kill_at(
    kill: Kill, database: Database, books: Books, cli: Cli, run: Run, resque: Resque
) -> None:
    stage = Stage(database, books, cli, run, resque)
    order = kill.story(stage)

    stage.kill_at(kill.point, kill.at)
    books.check_safe()
    report = run()

    assert report.complete
    books.check_all_crossed()
    books.check_order(order)


def test_a_kill_is_tried_at_every_point() -> None:
    """Each of the tests above fails when its kill doesn't happen: so every point is really passed.

    Those of the way back are in `test_rollback_faults.py`.
    """
    assert {kill.point for kill in KILLS} == {
        point for point in POINTS if not point.startswith(("rollback.", "native.", "enqueue."))
    }


@pytest.mark.parametrize("database", ["innodb", "myisam"], indirect=True)
def test_a_chain_of_kills_needs_no_clean_run_in_between(
    database: Database, books: Books, cli: Cli, run: Run, resque: Resque
) -> None:
    stage = Stage(database, books, cli, run, resque)
    books.fill(300, priorities=2)
    order = books.order()
    points = ["move.committed", "recover.found", "handoff.begun", "move.deleted", "handoff.done", "move.locked"]
    if not database.transactional:
        points = [
            "leasing.copied",
            "leasing.deleting",
            "leasing.deleted",
            "recover.found",
            "leasing.claimed",
            "handoff.begun",
            "leasing.ready",
        ]

    for point in points:
        stage.kill_at(point)
        books.check_safe()
    run()

    books.check_all_crossed()
    books.check_order(order)

"""Enqueues in the app's transaction: the job exists if and only if it commits. Threads and asyncio alike."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from migrate import AsyncEnqueuer, DuplicateJob, Enqueuer
from migrate.dualwrite.background import Committed
from migrate.errors import Unavailable, Untranslatable, UsageError
from migrate.qudo.binding import Binding
from migrate.resque.steps import KeyGuard, Step
from tests.conftest import WriteConfig
from tests.integration.dualwriting import FUNC, QUEUE, configured, put_step, queued
from tests.resque_app import Resque
from tests.servers import Database, MariaDBDatabase, RedisServer, SQLiteDatabase, wait_until
from tests.servers.command import Cli

OUTBOX = "qudo_migrate_outbox"


@pytest.fixture(params=["innodb", "sqlite"])
def source(request: pytest.FixtureRequest) -> Database:
    """A source whose `job` knows transactions."""
    database: Database = request.getfixturevalue(request.param)
    return database


@pytest.fixture
def engine(source: Database) -> Iterator[Engine]:
    """The app's own engine."""
    engine = create_engine(source.url)
    yield engine
    engine.dispose()


@pytest.fixture
def jobs(source: Database, redis_server: RedisServer, resque: Resque) -> Iterator[Enqueuer]:
    """On step switched."""
    put_step(redis_server, Step.SWITCHED)
    with Enqueuer(configured({"main": source}, redis_server)) as jobs:
        yield jobs


def numbers(resque: Resque, queue: str = QUEUE) -> list[int]:
    """What the queued jobs carry."""
    return [payload["args"][0]["n"] for payload in queued(resque, queue)]


def test_a_job_is_handed_off_after_the_outermost_commit_only(
    jobs: Enqueuer, engine: Engine, source: Database, resque: Resque
) -> None:
    with engine.connect() as connection, connection.begin():
        with Session(connection, join_transaction_mode="rollback_only") as session, session.begin():
            receipt = jobs.enqueue(FUNC, {"n": 1}, session=session)
            assert not receipt.handed_off
        jobs.enqueue(FUNC, {"n": 2}, uniqkey="k", connection=connection)
        assert numbers(resque) == []
        assert source.count(OUTBOX) == 0  # seen by another connection
    assert jobs.flush()
    assert sorted(numbers(resque)) == [1, 2]
    assert source.count(OUTBOX) == 2


def test_a_rollback_leaves_nothing_anywhere(jobs: Enqueuer, engine: Engine, source: Database, resque: Resque) -> None:
    with engine.connect() as outer, outer.begin() as transaction:
        with Session(outer, join_transaction_mode="rollback_only") as session:
            jobs.enqueue(FUNC, {"n": 1}, uniqkey="first in its transaction", session=session)
            session.commit()  # its after_commit fires, and yet nothing is committed
        transaction.rollback()
    with Session(engine) as session:
        jobs.enqueue("Worker::Qudo", {"n": 2}, uniqkey="k", session=session)
        session.rollback()
        jobs.enqueue(FUNC, {"n": 3}, session=session)
    assert jobs.flush()
    assert numbers(resque) == []
    assert (source.count(OUTBOX), source.count()) == (0, 0)
    assert jobs.enqueue(FUNC, {"n": 4}, uniqkey="first in its transaction").handed_off  # its key is free


def test_a_savepoint_takes_its_jobs_along(jobs: Enqueuer, engine: Engine, source: Database, resque: Resque) -> None:
    with Session(engine) as session, session.begin():
        jobs.enqueue(FUNC, {"n": 0}, session=session)
        for number in (1, 2, 3):
            nested = session.begin_nested()
            jobs.enqueue(FUNC, {"n": number}, session=session)
            if number != 3:
                nested.rollback()
        assert [len(each.rows) for each in jobs._transactions._waiting.values()] == [2]
    assert jobs.flush()
    assert numbers(resque) == [0, 3]
    assert source.count(OUTBOX) == 2


def test_a_duplicate_leaves_the_transaction_usable(
    jobs: Enqueuer, engine: Engine, source: Database, resque: Resque
) -> None:
    jobs.prepare("Worker::Qudo")
    jobs.enqueue(FUNC, {"n": 1}, uniqkey="k")
    with Session(engine) as session, session.begin():
        with pytest.raises(DuplicateJob):
            jobs.enqueue(FUNC, {"n": 2}, uniqkey="k", session=session)
        jobs.enqueue("Worker::Qudo", {}, uniqkey="k", session=session)
        with pytest.raises(DuplicateJob):
            jobs.enqueue("Worker::Qudo", {}, uniqkey="k", session=session)
        with pytest.raises(UsageError, match="func must be"):
            jobs.enqueue("", {}, session=session)
        with pytest.raises(Untranslatable):
            jobs.enqueue(FUNC, {"n": float("nan")}, session=session)
        jobs.enqueue(FUNC, {"n": 3}, session=session)
    assert jobs.flush()
    assert sorted(numbers(resque)) == [1, 3]
    assert source.count() == 1
    assert source.value("SELECT COUNT(*) FROM func WHERE name = ''") == 0


def test_what_is_no_transaction_of_a_source_raises(
    jobs: Enqueuer, engine: Engine, redis_server: RedisServer, myisam: MariaDBDatabase, tmp_path: Path
) -> None:
    other = create_engine(f"sqlite:///{tmp_path}/other.db")
    jobs.prepare()
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    for wrong, message in ((other, "none of the sources"), (autocommit, "AUTOCOMMIT")):
        with wrong.connect() as connection, pytest.raises(UsageError, match=message):
            jobs.enqueue(FUNC, {"n": 1}, connection=connection)
    with Session(binds={}) as unbound, pytest.raises(UsageError, match="several databases"):
        jobs.enqueue(FUNC, {"n": 1}, session=unbound)
    app = create_engine(myisam.url)
    with (
        Enqueuer(configured({"old": myisam}, redis_server)) as others,
        app.connect() as connection,
        pytest.raises(UsageError, match="knows no transactions"),
    ):
        others.enqueue(FUNC, {"n": 1}, connection=connection)
    app.dispose()
    other.dispose()


def test_two_phases_hand_off_after_the_second(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque
) -> None:
    put_step(redis_server, Step.SWITCHED)
    app = create_engine(innodb.url)
    with Enqueuer(configured({"main": innodb}, redis_server)) as jobs, app.connect() as connection:
        transaction = connection.begin_twophase()
        jobs.enqueue(FUNC, {"n": 1}, connection=connection)
        transaction.prepare()
        assert numbers(resque) == []
        transaction.commit()
        assert jobs.flush()
        assert numbers(resque) == [1]
    app.dispose()


KILLED = """
import os, signal, sys
from sqlalchemy import create_engine
from migrate import Enqueuer
jobs = Enqueuer.from_config(sys.argv[1])
jobs._background.committing = lambda rows: None  # not yet got to it
with create_engine(sys.argv[2]).begin() as connection:
    jobs.enqueue("Worker::Mail", {"n": 1}, connection=connection)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_between_commit_and_hand_off_is_delivered(
    source: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    path = write_config({"main": source}, redis_server)
    put_step(redis_server, Step.SWITCHED)
    command = [sys.executable, "-c", KILLED, str(path), source.url]
    root = str(Path(__file__).parents[2])
    assert subprocess.run(command, env={"PYTHONPATH": root}, check=False).returncode == -9
    assert numbers(resque) == []
    assert source.count(OUTBOX, "due IS NOT NULL") == 1
    assert cli("follow", "--until-idle", "0.2").status == 0
    assert numbers(resque) == [1]


def test_on_step_resque_too_a_job_commits_with_its_transaction(
    jobs: Enqueuer, engine: Engine, source: Database, redis_server: RedisServer, resque: Resque
) -> None:
    put_step(redis_server, Step.RESQUE, func="Worker::Native", guard=KeyGuard.BOTH)
    put_step(redis_server, Step.RESQUE, func="Worker::Redis", guard=KeyGuard.REDIS)
    wait_until(lambda: jobs._watch.anew().steps.notes.get("Worker::Redis") is not None, what="the steps are seen")
    jobs.enqueue(FUNC, {"n": -1})  # now the two belong together, as they do long before step resque
    jobs.enqueue("Worker::Native", {"n": 0}, uniqkey="0")
    for func in ("Worker::Native", "Worker::Redis"):
        jobs.prepare(func)  # as SQLite needs it
    with Session(engine) as session:
        jobs.enqueue("Worker::Native", {"n": 1}, session=session)
        session.rollback()
        with pytest.raises(DuplicateJob):
            jobs.enqueue("Worker::Native", {"n": 0}, uniqkey="0", session=session)
        assert jobs.enqueue("Worker::Native", {"n": 2}, uniqkey="2", session=session).step is Step.SWITCHED
        assert jobs.enqueue("Worker::Redis", {"n": 3}, session=session).outbox
        with pytest.raises(UsageError, match="held in Redis alone"):
            jobs.enqueue("Worker::Redis", {"n": 4}, uniqkey="4", session=session)
        assert source.count(OUTBOX) == 1
        session.commit()
    assert jobs.flush()
    assert (numbers(resque, "worker_native"), numbers(resque, "worker_redis")) == ([0, 2], [3])
    with pytest.raises(DuplicateJob):
        jobs.enqueue("Worker::Native", {"n": 2}, uniqkey="2")


def test_no_job_of_a_transaction_overtakes_another(
    jobs: Enqueuer, engine: Engine, resque: Resque, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look may come before the commit, the second row's after it."""
    is_there, looks = jobs._background._is_there, iter([False])
    monkeypatch.setattr(jobs._background, "_is_there", lambda row: next(looks, None) is not False and is_there(row))
    with Session(engine) as session, session.begin():
        for number in range(3):
            jobs.enqueue(FUNC, {"n": number}, session=session)
    assert jobs.flush()
    assert numbers(resque) == [0, 1, 2]


def test_a_source_that_is_away_for_a_moment_after_the_commit_counts_no_job_twice(
    jobs: Enqueuer, engine: Engine, source: Database, resque: Resque, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = jobs._sides["main"]
    with Session(engine) as session, session.begin():
        for number in range(2):
            jobs.enqueue(FUNC, {"n": number}, session=session)
        binding, calls = side.binding, count(1)

        def away_for_the_second() -> Binding:
            if next(calls) == 2:
                raise Unavailable("source main: away")
            return binding()

        monkeypatch.setattr(side, "binding", away_for_the_second)
    assert jobs.flush()
    assert numbers(resque) == [0, 1]


# --- asyncio ---


def async_url(source: Database) -> str:
    """The app's own driver."""
    return source.url.replace("pymysql", "asyncmy").replace("sqlite:", "sqlite+aiosqlite:")


def test_asyncio_enqueues_alike(source: Database, redis_server: RedisServer, resque: Resque) -> None:
    put_step(redis_server, Step.SWITCHED)
    put_step(redis_server, Step.RESQUE, func="Worker::Native")

    async def app() -> None:
        engine = create_async_engine(async_url(source))
        async with AsyncEnqueuer(configured({"main": source}, redis_server)) as jobs:
            receipts = await asyncio.gather(*(jobs.enqueue(FUNC, {"n": n}) for n in range(20)))
            assert all(receipt.handed_off for receipt in receipts)
            assert (await jobs.enqueue("Worker::Native", {})).native
            assert (await jobs.enqueue("Worker::Qudo", {}, uniqkey="k")).job_id
            with pytest.raises(DuplicateJob):
                await jobs.enqueue("Worker::Qudo", {}, uniqkey="k")
            async with AsyncSession(engine) as session, session.begin():
                receipt = await jobs.enqueue(FUNC, {"n": 20}, uniqkey="k", session=session)
                assert not receipt.handed_off
                await session.execute(text("SELECT 1"))
                with pytest.raises(DuplicateJob):
                    await jobs.enqueue("Worker::Qudo", {}, uniqkey="k", session=session)
            async with engine.connect() as connection:
                await jobs.enqueue(FUNC, {"n": 21}, uniqkey="first", connection=connection)
                await connection.rollback()
                with pytest.raises(UsageError, match="func must be"):
                    await jobs.enqueue("", {}, connection=connection)
                await jobs.enqueue(FUNC, {"n": 22}, connection=connection)
                await connection.commit()
            with pytest.raises(UsageError, match="AsyncSession"):
                await jobs.enqueue(FUNC, {}, session=Session())  # type: ignore[arg-type]
            assert await jobs.flush()
        await engine.dispose()

    asyncio.run(app())
    assert sorted(numbers(resque)) == [*range(21), 22]
    assert source.count() == 1
    assert source.value("SELECT COUNT(*) FROM func WHERE name = ''") == 0


def test_asyncio_goes_on_without_redis(sqlite: SQLiteDatabase) -> None:
    async def app(server: RedisServer) -> None:
        async with AsyncEnqueuer(configured({"main": sqlite}, server)) as jobs:
            await jobs.enqueue(FUNC, {"n": 0})
            await jobs.enqueue("Worker::Native", {})
            server.kill()
            assert not (await jobs.enqueue(FUNC, {"n": 1})).handed_off
            with pytest.raises(Unavailable):
                await jobs.enqueue("Worker::Native", {})

    with RedisServer() as server:
        put_step(server, Step.SWITCHED)
        put_step(server, Step.RESQUE, func="Worker::Native")
        asyncio.run(app(server))
    assert sqlite.count(OUTBOX) == 2


def test_rows_of_a_transaction_that_commits_late_are_delivered(
    jobs: Enqueuer, engine: Engine, resque: Resque, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook fires before the commit: a look that comes too early sees no row, and looks again."""
    looks: list[bool] = []
    is_there = jobs._background._is_there

    def watched(row: Committed) -> bool:
        looks.append(is_there(row))
        return looks[-1]

    monkeypatch.setattr(jobs._background, "_is_there", watched)
    with engine.connect() as connection:
        jobs.enqueue(FUNC, {"n": 1}, connection=connection)
        jobs._transactions._committing(connection)
        wait_until(lambda: len(looks) >= 3, what="the row was looked for")
        assert numbers(resque) == []
        connection.commit()
    assert jobs.flush()
    assert looks[-1]
    assert not looks[0]
    assert numbers(resque) == [1]

"""The story of docs/cutover.md, with traffic and workers on both sides all the while: each job runs once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from migrate import AsyncEnqueuer, Enqueuer
from migrate.errors import UsageError
from tests.conftest import WriteConfig
from tests.integration.dualwriting import FUNC, QUEUE, configured
from tests.integration.following import Following
from tests.qudo_app import Outcome, QudoJob, QudoWorker, enqueue
from tests.resque_app import Resque
from tests.resque_app.worker import ResqueWorker
from tests.servers import MariaDBDatabase, RedisServer, wait_until
from tests.servers.command import Cli

#: Seconds between two jobs of one app.
PAUSE = 0.02


class Traffic:
    """Three apps and two workers. Every job is `[app, number]`; `accepted` and `ran` hold them as such."""

    def __init__(self, database: MariaDBDatabase, server: RedisServer, resque: Resque) -> None:
        self._database = database
        self._config = configured({"main": database}, server)
        self._resque = resque
        self._ending = threading.Event()
        self._over = threading.Event()
        self.accepted: list[tuple[str, int]] = []
        self.undone: list[tuple[str, int]] = []
        self.in_qudo: list[tuple[str, int]] = []
        self.in_resque: list[tuple[str, int]] = []
        self.errors: list[BaseException] = []
        self._apps = [threading.Thread(target=self._guarded(each)) for each in (self._shop, self._web, self._feed)]
        self._worker = threading.Thread(target=self._guarded(self._resque_worker))
        self._qudo_worker = QudoWorker([database], [FUNC], work=self._in_qudo)

    def _guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  the test shows it
                self.errors.append(error)

        return run

    def _shop(self) -> None:
        """Perl: knows only Qudo."""
        with contextlib.closing(self._database.session()) as session:
            for number in itertools.takewhile(lambda _: not self._ending.wait(PAUSE), itertools.count()):
                enqueue(session, FUNC, json.dumps(["shop", number]).encode())
                self.accepted.append(("shop", number))

    def _web(self) -> None:
        """Enqueues in its own transactions, and takes every fifth back; on step resque right after them."""
        engine = create_engine(self._database.url, pool_size=1)
        with Enqueuer(self._config) as jobs:
            for number in itertools.takewhile(lambda _: not self._ending.wait(PAUSE), itertools.count()):
                later = False
                with Session(engine) as session:
                    try:
                        jobs.enqueue(FUNC, ["web", number], session=session)
                    except UsageError:
                        later = True
                    if number % 5 == 0:
                        session.rollback()
                        self.undone.append(("web", number))
                        continue
                    session.commit()
                if later:
                    jobs.enqueue(FUNC, ["web", number])
                self.accepted.append(("web", number))
        engine.dispose()

    def _feed(self) -> None:
        """asyncio."""

        async def feed() -> None:
            async with AsyncEnqueuer(self._config) as jobs:
                for number in itertools.count():
                    if self._ending.is_set():
                        return
                    await jobs.enqueue(FUNC, ["feed", number])
                    self.accepted.append(("feed", number))
                    await asyncio.sleep(PAUSE)

        asyncio.run(feed())

    def _resque_worker(self) -> None:
        worker = ResqueWorker(self._resque)
        key = self._resque.key(f"queue:{QUEUE}")
        while not self._over.is_set():
            if not self._resque.client.llen(key):
                self._over.wait(0.01)
                continue
            job = worker.take(QUEUE)
            app, number = job.payload["args"][0]
            self.in_resque.append((app, number))
            worker.finish()

    def _in_qudo(self, job: QudoJob) -> Outcome:
        app, number = json.loads(job.arg or b"")
        self.in_qudo.append((app, number))
        return Outcome.COMPLETED

    @contextlib.contextmanager
    def flowing(self) -> Iterator[None]:
        """Apps and workers at work; at the end apps stop first, then all that they enqueued is awaited."""
        with self._qudo_worker:
            for thread in (*self._apps, self._worker):
                thread.start()
            try:
                yield
            finally:
                self._ending.set()
                for thread in self._apps:
                    thread.join()
                with contextlib.suppress(AssertionError):  # what lacks is named by the test
                    wait_until(lambda: self._runs >= len(self.accepted), 30, "all have run")
                self._over.set()
                self._worker.join()

    @property
    def _runs(self) -> int:
        return len(self.in_qudo) + len(self.in_resque)

    def enqueued(self, app: str) -> None:
        """Wait until the app has enqueued further jobs."""
        before = len(self.accepted)
        wait_until(lambda: self.errors or sum(name == app for name, _ in self.accepted[before:]) > 10, 20, "enqueued")

    def some(self, where: list[tuple[str, int]], app: str) -> None:
        """Wait until further jobs of this app have run there."""
        before = len(where)
        wait_until(lambda: self.errors or any(name == app for name, _ in where[before:]), 20, f"jobs of {app} run")
        assert not self.errors, self.errors


def test_three_apps_change_over_and_back_while_jobs_flow(
    innodb: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    write_config({"main": innodb}, redis_server)
    traffic = Traffic(innodb, redis_server, Resque(redis))

    def cutover(*arguments: str) -> Any:
        result = cli("cutover", *arguments, "--func", FUNC, "--json")
        assert result.status == 0, result.stdout + result.stderr
        assert not traffic.errors, traffic.errors
        return result.json()

    def mirrored() -> Any:
        (found,) = cli("verify", "--json").json()["mirror"]
        return found

    def drained() -> None:
        wait_until(lambda: innodb.count() < 20, 20, "Qudo is nearly empty")

    cutover("advance")  # qudo: before anything moves
    follow = Following(cli)
    with traffic.flowing():
        traffic.some(traffic.in_qudo, "web")
        cutover("advance")  # mirror
        traffic.some(traffic.in_qudo, "feed")
        wait_until(lambda: mirrored()["compared"] > 20, 20, "copies can be compared")
        assert (mirrored()["different"], mirrored()["missed"]) == (0, 0)
        cutover("advance", "--percent", "30")
        traffic.some(traffic.in_resque, "web")
        traffic.some(traffic.in_qudo, "web")
        traffic.some(traffic.in_qudo, "shop")
        cutover("advance")  # switched
        traffic.some(traffic.in_resque, "shop")
        follow.command.kill()
        traffic.enqueued("shop")  # nobody carries these
        follow = Following(cli)
        traffic.some(traffic.in_resque, "shop")
        cutover("advance", "--force")  # resque: Shop still enqueues in Qudo, and follow still carries it
        traffic.some(traffic.in_resque, "feed")
        traffic.some(traffic.in_resque, "shop")
        cutover("back")
        traffic.some(traffic.in_resque, "web")
        cutover("back")  # mirror
        traffic.some(traffic.in_qudo, "feed")
        cutover("set", "switched", "--force")
        traffic.some(traffic.in_resque, "feed")
        cutover("set", "qudo")
        traffic.some(traffic.in_qudo, "web")
        cutover("set", "switched", "--force")
        drained()
    follow.end()

    ran = Counter(traffic.in_qudo + traffic.in_resque)
    assert not traffic.errors
    assert {job: count for job, count in ran.items() if count > 1} == {}
    assert sorted(set(traffic.accepted) - set(ran)) == []
    assert sorted(set(ran) - set(traffic.accepted)) == []
    assert len(traffic.undone) > 10
    assert {app for app, _ in traffic.in_qudo} == {app for app, _ in traffic.in_resque} == {"shop", "web", "feed"}
    report = cli("verify", "--json")
    assert report.status == 0, report.stdout


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """One of its own: the story moves steps of a func that other tests use."""
    with RedisServer() as server:
        yield server

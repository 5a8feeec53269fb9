"""`Enqueuer` on each step, on real servers: what it writes, when it raises, and that nothing of it is lost."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from migrate import Enqueuer, Receipt
from migrate.jobs import Identity
from migrate.resque.steps import Step
from tests.integration.dualwriting import FUNC, configured, enqueuer, put_step, queued
from tests.qudo_app import enqueue, job_rows
from tests.resque_app import Resque
from tests.servers import Database, RedisServer

OUTBOX = "qudo_migrate_outbox"


@pytest.fixture
def resque(redis: Redis) -> Resque:
    return Resque(redis)


# --- each step ---


def test_without_a_step_a_row_is_what_qudo_would_have_written(
    database: Database, redis_server: RedisServer, resque: Resque
) -> None:
    by_qudo = enqueue(database, FUNC, b'{"n":1}', "key-1", priority=5, run_after=60)
    with enqueuer(configured({"main": database}, redis_server)) as jobs:
        receipt = jobs.enqueue(FUNC, {"n": 1}, uniqkey="key-2", priority=5, run_after=60)
        plain = jobs.enqueue("Worker::New", {"n": 2})
    first, second, third = job_rows(database)
    assert (receipt.step, receipt.job_id, receipt.source) == (Step.QUDO, second.id, "main")
    assert second._replace(id=first.id, uniqkey=first.uniqkey, enqueue_time=0, run_after=0) == first._replace(
        enqueue_time=0, run_after=0
    )
    assert first.id == by_qudo
    assert second.run_after - second.enqueue_time == 60
    assert (third.id, third.arg, third.uniqkey) == (plain.job_id, b'{"n":2}', None)
    assert database.value("SELECT name FROM func WHERE id = (SELECT MAX(func_id) FROM job)") == "Worker::New"
    assert resque.queues() == {}


def test_switched_writes_an_outbox_row_and_hands_it_off(
    database: Database, redis_server: RedisServer, resque: Resque
) -> None:
    put_step(redis_server, Step.SWITCHED)
    with enqueuer(configured({"main": database}, redis_server)) as jobs:
        receipt = jobs.enqueue(FUNC, {"n": 1, "名": "鮎"}, uniqkey="k", priority=3)
        other = jobs.enqueue(FUNC, [1])
    assert (receipt.step, receipt.handed_off, receipt.job_id) == (Step.SWITCHED, True, None)
    assert receipt.outbox is not None
    assert Identity.parse(receipt.outbox).seq == 0
    first, second = queued(resque)
    assert first["args"] == [{"n": 1, "名": "鮎"}]
    assert first["qudo"].keys() == {"source", "outbox", "uniqkey", "priority", "enqueue_time"}
    assert first["qudo"]["outbox"] == receipt.outbox
    assert second["qudo"]["outbox"] == other.outbox
    assert database.count() == 0
    assert database.count(OUTBOX, "due IS NOT NULL AND job_id IS NULL") == 2


def test_on_step_resque_a_job_is_born_in_resque(database: Database, redis_server: RedisServer, resque: Resque) -> None:
    put_step(redis_server, Step.SWITCHED)
    with enqueuer(configured({"main": database}, redis_server)) as jobs:
        jobs.enqueue(FUNC, {"n": 1})
        put_step(redis_server, Step.RESQUE)
        receipt = wait_for_step(jobs, Step.RESQUE)
    assert receipt.handed_off
    assert receipt.native is not None
    payload = queued(resque)[-1]
    assert payload["class"] == FUNC
    assert payload["qudo"].keys() == {"source", "func", "native", "enqueue_time"}
    assert payload["qudo"]["native"] == receipt.native


def wait_for_step(jobs: Enqueuer, step: Step) -> Receipt:
    """Enqueue until the process has followed; the receipt."""
    deadline = time.monotonic() + 1.5
    while True:
        receipt = jobs.enqueue(FUNC, {"n": "followed"})
        if receipt.step is step:
            return receipt
        assert time.monotonic() < deadline, "the process has not followed within a second"
        time.sleep(0.02)

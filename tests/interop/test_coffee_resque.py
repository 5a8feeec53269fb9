"""coffee-resque, an older worker for Node that shares no code with node-resque, takes what we leave for it."""

from __future__ import annotations

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.interop.arguments import ARGUMENTS, differences, written
from tests.interop.conftest import Starts
from tests.qudo_app import enqueue
from tests.resque_app import Resque
from tests.servers import MariaDBDatabase, RedisServer


def test_waiting_jobs_reach_its_workers_in_order_value_for_value(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    coffee_resque: Starts,
) -> None:
    for value in ARGUMENTS.values():
        enqueue(innodb, "Worker::Mail", written(value))
    target = {"url": redis_server.url, "dialect": "node"}
    write_config([innodb], target, [{"func": "*", "serializer": "json"}])
    run()
    with coffee_resque(queues=["worker_mail"], classes=["Worker::Mail"]) as peer:
        jobs = peer.performed(len(ARGUMENTS))
    for job, value in zip(jobs, ARGUMENTS.values(), strict=True):
        assert differences([value], job["args"]) == []
    assert (resque.jobs(), resque.failed()) == ([], [])

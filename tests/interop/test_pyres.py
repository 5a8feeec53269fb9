"""pyres, a Resque for Python, takes what we leave for it: its worker, its scheduler, its requeueing of failures."""

from __future__ import annotations

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.timing import delay_seconds
from tests.interop.arguments import ARGUMENTS, written
from tests.interop.conftest import Starts
from tests.qudo_app import enqueue, func_id
from tests.resque_app import Resque, unlike
from tests.servers import MariaDBDatabase, RedisServer, wait_until

#: Python holds integers of any size.
VALUES = [*ARGUMENTS.values(), [2**53 + 1, -(2**64), 10**40]]

ROUTES = [{"func": "Mail", "class": "peer.Mail", "queue": "mail", "serializer": "json"}]


def assert_performed(jobs: list[dict[str, list[object]]]) -> None:
    for job, value in zip(jobs, VALUES, strict=True):
        assert unlike([value], job["args"]) == []


@pytest.mark.parametrize(("dialect", "delayed"), [("perl", False), ("ruby", True)], ids=["waiting", "delayed"])
def test_jobs_reach_its_worker_in_order_value_for_value(
    dialect: str,
    delayed: bool,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    pyres: Starts,
) -> None:
    write_config([innodb], {"url": redis_server.url, "dialect": dialect}, ROUTES)
    delay = delay_seconds(run) if delayed else 0
    for value in VALUES:
        enqueue(innodb, "Mail", written(value))
    innodb.execute("UPDATE job SET run_after = %s", [innodb.now() + delay])
    run()
    assert resque.length() == (0 if delayed else len(VALUES))
    with pyres(queues=["mail"]) as peer:
        assert_performed(peer.performed(len(VALUES)))
    assert (resque.length(), resque.failed()) == (0, [])
    assert not resque.client.exists("resque:delayed_queue_schedule")


def test_failures_are_requeued_by_it_and_run(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    pyres: Starts,
) -> None:
    for value in VALUES:
        innodb.insert(
            "INSERT INTO exception_log (func_id, message, arg, exception_time)"
            f" VALUES (%s, 'died', {innodb.arg(written(value))}, %s)",
            [func_id(innodb, "Mail"), innodb.now() - 60],
        )
    write_config([innodb], redis_server, ROUTES)
    assert run().counts == {"imported": len(VALUES)}
    with pyres(queues=["mail"], requeue=True, fail=True) as peer:
        assert peer.answer("requeued") == len(VALUES)
        wait_until(lambda: len(resque.failed()) == len(VALUES), what="all have failed")
        assert not peer.jobs
    with pyres(queues=["mail"], requeue=True) as peer:
        assert_performed(peer.performed(len(VALUES)))
    assert (resque.jobs(), resque.failed()) == ([], [])

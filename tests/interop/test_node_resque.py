"""node-resque takes what we leave for it: its workers, its scheduler, its requeueing of failures."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.timing import delay_seconds
from tests.interop.arguments import ARGUMENTS, differences, written
from tests.interop.conftest import Starts
from tests.qudo_app import ExpectedJob, enqueue, expected_jobs, func_id, load_fixture
from tests.resque_app import Resque
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer, wait_until
from tests.servers.command import Cli

MAIL = "Worker::Mail"

#: Integers that a double holds.
EXACT = range(-(2**53), 2**53 + 1)


@pytest.fixture
def target(redis_server: RedisServer) -> dict[str, object]:
    return {"url": redis_server.url, "dialect": "node"}


def failed(db: Database, arg: bytes, func: str = MAIL) -> None:
    """A row of exception_log."""
    db.insert(
        "INSERT INTO exception_log (func_id, message, arg, exception_time)"
        f" VALUES (%s, 'died at Mail.pm line 3.', {db.arg(arg)}, %s)",
        [func_id(db, func), db.now() - 60],
    )


def assert_performed(jobs: list[dict[str, object]], expected: list[object]) -> None:
    """Each job once, in any order, with these arguments."""
    assert len(jobs) == len(expected)
    for job, value in zip(sorted(jobs, key=_name), expected, strict=True):
        assert differences([value], job["args"]) == []


def _name(job: dict[str, object]) -> int:
    return list(ARGUMENTS).index(str(job["class"]))


def test_waiting_jobs_reach_its_workers_value_for_value(
    innodb: MariaDBDatabase,
    target: dict[str, object],
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    node_resque: Starts,
) -> None:
    for name, value in ARGUMENTS.items():
        enqueue(innodb, name, written(value))
    write_config([innodb], target, [{"func": "*", "serializer": "json"}])
    run()
    with node_resque(work=True, classes=list(ARGUMENTS)) as peer:
        assert_performed(peer.performed(len(ARGUMENTS)), list(ARGUMENTS.values()))
    assert (resque.jobs(), resque.failed()) == ([], [])
    assert resque.client.get("resque:stat:processed") == b"%d" % len(ARGUMENTS)


def test_jobs_of_the_real_qudo_reach_its_workers_value_for_value(
    mariadb: MariaDB,
    innodb: MariaDBDatabase,
    target: dict[str, object],
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    node_resque: Starts,
) -> None:
    myisam = mariadb.create_database()
    load_fixture(innodb, "a")
    load_fixture(myisam, "b")
    expected = {(job.db, job.id): job for job in expected_jobs()}
    routes = [{"func": "Batch::Raw", "bytes": "latin1"}]
    write_config({"a": innodb, "b": myisam}, target, [*routes, {"func": "*"}], failures={"import": "none"})
    report = run(status=1)  # two jobs are held by a worker
    waiting = [(job.source, job.id) for jobs in resque.queues().values() for job in jobs]

    with node_resque(work=True, classes=sorted({job.func for job in expected.values()})) as peer:
        jobs = peer.performed(len(waiting))

    assert sorted((job["qudo"]["source"], job["qudo"]["id"]) for job in jobs) == sorted(waiting)
    rounded = 0
    for job in jobs:
        wanted = expected.get((job["qudo"]["source"], job["qudo"]["id"]))
        if wanted is None:
            continue  # an operator's retry has an id of its own
        assert job["class"] == wanted.func
        value = _as_a_worker_sees(wanted)
        found = differences([value], job["args"])
        if wanted.serializer == "storable":
            found = [line for line in found if not _is_text_in_storable(line)]
        elif not _is_exact(value):
            rounded += 1
            continue
        assert found == []
    reported = sum(each["jobs"] for each in report.document["findings"] if each["finding"] == "integer over 2**53")
    assert reported == rounded
    assert resque.failed() == []


def _as_a_worker_sees(job: ExpectedJob) -> object:
    if not isinstance(job.arg, bytes):
        return job.arg
    try:
        return job.arg.decode()
    except UnicodeDecodeError:
        return job.arg.decode("latin-1")


def _is_exact(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_exact, value.values()))
    if isinstance(value, list):
        return all(map(_is_exact, value))
    return not isinstance(value, int) or value in EXACT


def _is_text_in_storable(difference: str) -> bool:
    """Storable holds floats, and integers over 32 bits, as text."""
    before, _, after = difference.partition(": ")[2].partition(" became ")
    return f"'{before}'" == after or (after[:1] == "'" and float(before) == float(after.strip("'")))


def test_only_integers_that_it_rounds_are_reported(
    innodb: MariaDBDatabase,
    target: dict[str, object],
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    node_resque: Starts,
) -> None:
    exact, rounded = [2**53, -(2**53)], [2**53 + 1, -(2**53) - 1]
    for number in exact + rounded:
        enqueue(innodb, MAIL, b"[%d]" % number)
    write_config([innodb], target)
    found = [(each["finding"], each["jobs"]) for each in run().document["findings"]]
    assert found == [("integer over 2**53", len(rounded))]
    assert [job.args for job in resque.queue("worker_mail")] == [[[number]] for number in exact + rounded]
    with node_resque(work=True, classes=[MAIL]) as peer:
        numbers = [job["args"][0][0] for job in peer.performed(4)]
    assert [seen == number for seen, number in zip(numbers, exact + rounded, strict=True)] == [True, True, False, False]


def test_the_deepest_arg_reaches_its_worker_and_comes_back_from_its_failures(
    innodb: MariaDBDatabase,
    target: dict[str, object],
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    node_resque: Starts,
) -> None:
    deepest = b"[" * 512 + b"]" * 512
    enqueue(innodb, MAIL, deepest)
    failed(innodb, deepest, "Other::Worker")
    write_config([innodb], target)
    assert run().counts == {"moved": 1, "handed_off": 1, "imported": 1}
    classes = [MAIL, "Other::Worker"]
    with node_resque(work=True, classes=classes, fail=classes) as peer:
        wait_until(lambda: len(resque.failed()) == 2, what="it has failed beside the imported one")
        for _ in classes:  # an imported failure fails once more
            with node_resque(requeue=True) as other:
                assert other.answer("refused") == []
            wait_until(lambda: len(resque.failed()) + len(peer.jobs) == 2, what="both have ended")
        assert [json.dumps(job["args"]) for job in peer.performed(2)] == [f"[{deepest.decode()}]"] * 2


def test_delayed_jobs_are_moved_by_its_scheduler_and_run_in_time(
    innodb: MariaDBDatabase,
    target: dict[str, object],
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    node_resque: Starts,
) -> None:
    write_config([innodb], target, [{"func": "*", "serializer": "json"}])
    delay = delay_seconds(run)
    for name, value in ARGUMENTS.items():
        enqueue(innodb, name, written(value), run_after=delay)
    enqueue(innodb, MAIL, b'{"n":1}', run_after=3600)
    later = int(innodb.value("SELECT MAX(run_after) FROM job"))
    run()
    assert resque.length() == 0
    due = min(resque.delayed())
    with node_resque(work=True, schedule=True, classes=list(ARGUMENTS)) as peer:
        peer.performed(1)
        # It rounds its clock: half a second early is its own way.
        seconds, microseconds = resque.client.time()
        assert seconds + microseconds / 1e6 >= due - 0.5
        assert_performed(peer.performed(len(ARGUMENTS)), list(ARGUMENTS.values()))
    assert list(resque.delayed()) == [later]
    with node_resque(scheduled_at=["worker_mail", MAIL, [{"n": 1}]]) as peer:
        assert peer.answer("scheduled_at") == [later]


def test_imported_failures_are_requeued_by_it_and_run(
    innodb: MariaDBDatabase,
    target: dict[str, object],
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    node_resque: Starts,
) -> None:
    arguments = ARGUMENTS
    for name, value in arguments.items():
        failed(innodb, written(value), name)
    write_config([innodb], target, [{"func": "*", "serializer": "json"}])
    assert run().counts == {"imported": len(arguments)}
    with node_resque(requeue=True, work=True, classes=list(arguments)) as peer:
        assert peer.answer("refused") == []
        assert_performed(peer.performed(len(arguments)), list(arguments.values()))
    assert resque.failed() == []


def test_failures_whose_args_it_would_write_otherwise_are_requeued_by_it(
    innodb: MariaDBDatabase,
    target: dict[str, object],
    write_config: WriteConfig,
    run: Run,
    node_resque: Starts,
) -> None:
    for arg in (b'{"a": 1}', b"[1.0]", b"[1e5]", b'["\\u9b8e"]', b'["\\/"]', b'{"b":1,"10":2}'):
        failed(innodb, arg)
    write_config([innodb], target)
    run()
    with node_resque(requeue=True) as peer:
        assert peer.answer("refused") == []


def test_jobs_that_fail_there_are_requeued_by_it_and_run(
    innodb: MariaDBDatabase,
    target: dict[str, object],
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    node_resque: Starts,
) -> None:
    for name, value in ARGUMENTS.items():
        enqueue(innodb, name, written(value), "key")
    write_config([innodb], target, [{"func": "*", "serializer": "json"}])
    run()
    with node_resque(work=True, classes=list(ARGUMENTS), fail=list(ARGUMENTS)) as peer:
        wait_until(lambda: len(resque.failed()) == len(ARGUMENTS), what="all have failed once")
        assert all(failure["payload"]["qudo"]["uniqkey"] == "key" for failure in resque.failed())
        with node_resque(requeue=True) as other:
            assert other.answer("requeued") == len(ARGUMENTS)
        assert_performed(peer.performed(len(ARGUMENTS)), list(ARGUMENTS.values()))
    assert resque.failed() == []


def test_its_scheduler_and_ours_side_by_side_move_each_job_once(
    redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, node_resque: Starts
) -> None:
    write_config({"main": "sqlite:////nowhere.db"}, redis_server)
    ours = cli.start("schedule", "--json")
    ours.wait_for("schedule: leads")
    with node_resque(schedule=True) as peer:
        peer.answer("leads")
        client: Any = resque.client
        first = int(client.time()[0]) + 2
        with client.pipeline() as pipe:
            for n in range(15_000):
                # The order of keys tells who has moved it: node-resque writes the text anew, we leave it.
                text = json.dumps({"class": MAIL, "args": [n], "queue": f"q{n % 7}"})
                pipe.rpush(f"resque:delayed:{first + n % 3}", text)
                pipe.sadd(f"resque:timestamps:{text}", f"delayed:{first + n % 3}")
                pipe.zadd("resque:delayed_queue_schedule", {str(first + n % 3): first + n % 3})
            pipe.execute()
        wait_until(lambda: sum(client.llen(f"resque:queue:q{n}") for n in range(7)) >= 15_000, 30, "all have moved")
        wait_until(lambda: not client.exists("resque:delayed_queue_schedule"), what="the schedule is empty")
    ours.send(signal.SIGTERM)
    moved = ours.wait().json()["moved"]
    jobs = resque.jobs()
    assert sorted(job.args[0] for job in jobs) == list(range(15_000))
    assert all(job.queue == f"q{job.args[0] % 7}" for job in jobs)
    by_us = sum(list(job.payload) == ["class", "args", "queue"] for job in jobs)
    assert by_us == moved
    assert 0 < by_us < 15_000, "one of the two did nothing: this test has proved nothing"
    assert not client.keys("resque:timestamps:*")

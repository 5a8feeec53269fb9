"""`Enqueuer` on each step, on real servers: what it writes, when it raises, and that nothing of it is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from migrate import DuplicateJob, Enqueuer, Receipt
from migrate.errors import Unavailable, Untranslatable, UsageError
from migrate.jobs import Identity
from migrate.resque.steps import Step
from tests.conftest import WriteConfig
from tests.integration.dualwriting import FUNC, configured, enqueuer, put_step, queued
from tests.qudo_app import enqueue, job_rows
from tests.resque_app import Resque
from tests.servers import Database, MariaDBDatabase, RedisServer, SQLiteDatabase, wait_until
from tests.servers.command import Cli

OUTBOX = "qudo_migrate_outbox"


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
    deadline = time.monotonic() + 20
    while True:
        receipt = jobs.enqueue(FUNC, {"n": "followed"})
        if receipt.step is step:
            return receipt
        assert time.monotonic() < deadline, "the process has not followed"
        time.sleep(0.02)


# --- what can't be carried ---


@pytest.mark.parametrize("step", [Step.QUDO, Step.SWITCHED, Step.RESQUE])
def test_what_cant_be_carried_raises_before_anything_is_written(
    step: Step, sqlite: SQLiteDatabase, redis_server: RedisServer, resque: Resque
) -> None:
    config = configured({"main": sqlite}, redis_server, {"func": FUNC, "serializer": "storable"})
    put_step(redis_server, step)
    circle: list[object] = []
    circle.append(circle)
    with enqueuer(config) as jobs:
        for arg in ("text", None, {1: 2}, [b"x"], [float("nan")], ["\ud800"], circle, [object()]):
            with pytest.raises(Untranslatable):
                jobs.enqueue(FUNC, arg)
        for wrong in (
            {"priority": -1},
            {"priority": 2**32},
            {"run_after": -1},
            {"uniqkey": "k" * 256},
            {"source": "no"},
        ):
            with pytest.raises(UsageError):
                jobs.enqueue(FUNC, [], **wrong)
    assert sqlite.count() == 0
    assert resque.queues() == {}


def test_what_resque_cant_be_given_raises_on_switched_only(
    sqlite: SQLiteDatabase, redis_server: RedisServer, resque: Resque
) -> None:
    with enqueuer(configured({"main": sqlite}, redis_server, {"func": FUNC, "serializer": "raw"})) as jobs:
        jobs.enqueue(FUNC, b"\xff")
        put_step(redis_server, Step.SWITCHED)
        jobs._watch.anew()
        with pytest.raises(Untranslatable):
            jobs.enqueue(FUNC, b"\xff")
        jobs.enqueue(FUNC, "0123")
    assert sqlite.count() == 1
    assert sqlite.count(OUTBOX) == 1
    assert queued(resque)[0]["args"] == ["0123"]


def test_the_serializer_is_what_the_funcs_rows_have(sqlite: SQLiteDatabase, redis_server: RedisServer) -> None:
    enqueue(sqlite, "Worker::Pack", b"\x81\xa1n\xcd\x01\x00")
    enqueue(sqlite, "Worker::Raw", b"hello")
    with enqueuer(configured({"main": sqlite}, redis_server)) as jobs:
        jobs.enqueue("Worker::Pack", {"n": 1})
        jobs.enqueue("Worker::Raw", "again")
    assert [row.arg for row in job_rows(sqlite)][2:] == [b"\x81\xa1n\x01", b"again"]


# --- nothing is lost ---

KILLED = """
import sys
from migrate import Enqueuer
jobs = Enqueuer.from_config(sys.argv[1])
jobs.enqueue("Worker::Mail", {"n": 1}, uniqkey="k")
"""


@pytest.mark.parametrize("point", ["enqueue.written", "enqueue.handed_off"])
def test_a_process_killed_between_commit_and_hand_off_leaves_the_job_to_run(
    point: str, database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    path = write_config({"main": database}, redis_server)
    put_step(redis_server, Step.SWITCHED)
    environment = {"QUDO_MIGRATE_FAILPOINTS": f"{point}=kill", "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, check=False)
    assert killed.returncode == -9
    assert len(queued(resque)) == (point == "enqueue.handed_off")
    dry = cli("run", "--dry-run", "--json").json()
    assert dry["totals"]["handed_off"] == (point == "enqueue.written")
    status = cli("status", "--json").json()
    assert status["sources"][0]["not_handed_off"] == (point == "enqueue.written")
    assert cli("verify", "--json").json()["totals"]["not_handed_off"] == (point == "enqueue.written")
    for _ in range(2):
        assert cli("run", "--json").status == 0
        assert len(queued(resque)) == 1
    assert database.count(OUTBOX, "due IS NOT NULL") == 0
    report = cli("verify", "--expect-idle", "--json").json()
    assert (report["verdict"], report["totals"]["queued"]) == ("ok", 1)


def test_while_redis_is_dead_an_enqueue_succeeds_quickly_and_run_delivers_later(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    with RedisServer(appendfsync="always") as server:
        write_config({"main": innodb}, server)
        put_step(server, Step.SWITCHED)
        put_step(server, Step.MIRROR, func="Worker::Mirrored")
        put_step(server, Step.RESQUE, func="Worker::Native")
        config = configured({"main": innodb}, server)
        with enqueuer(config) as jobs:
            jobs.enqueue(FUNC, {"n": 0})
            jobs.enqueue("Worker::Native", {"n": 0})
            server.kill()
            took = []
            for number in range(1, 101):
                began = time.monotonic()
                assert not jobs.enqueue(FUNC, {"n": number}).handed_off
                jobs.enqueue("Worker::Mirrored", {"n": number})
                took.append(time.monotonic() - began)
                with pytest.raises(Unavailable, match=r"not enqueued|can.t be reached"):
                    jobs.enqueue("Worker::Native", {})
            assert max(took) < 8
            assert sum(took) < 25, "one time-out, not one for each: those would be 50 s"
            with enqueuer(config) as fresh:  # a process that begins now knows no steps but those that a source keeps
                assert fresh.enqueue("Worker::Other", {}).step is Step.QUDO
            server.start()
            wait_until(lambda: jobs.enqueue(FUNC, {"n": 0}).handed_off, 30, "the breaker closes")
            server.kill()
            server.start()

            def born() -> bool:
                try:
                    return jobs.enqueue("Worker::Native", {"n": 0}).step is Step.RESQUE
                except Unavailable as error:
                    if "not enqueued" not in error.message:  # a connection that the restart has ended
                        raise
                    return False

            wait_until(born, 30, "jobs are born in Redis again")
        assert cli("run", "--func", FUNC, "--json").status == 0
        resque = Resque(server.client())
        numbers = [payload["args"][0]["n"] for payload in queued(resque)]
        assert sorted(number for number in numbers if number) == list(range(1, 101))


def test_a_redis_that_hangs_costs_one_time_out_not_one_for_each(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque
) -> None:
    put_step(redis_server, Step.SWITCHED)
    with enqueuer(configured({"main": innodb}, redis_server)) as jobs:
        jobs.enqueue(FUNC, {"n": 0})
        redis_server.freeze()
        try:
            began = time.monotonic()
            for number in range(200):
                jobs.enqueue(FUNC, {"n": number})
            assert time.monotonic() - began < 40, "one for each would be 100 s"
        finally:
            redis_server.thaw()
    assert innodb.count(OUTBOX) == 201


def test_funcs_that_are_not_switched_are_kept_by_run(
    database: Database, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config({"main": database}, redis_server)
    steps = {"Q": (Step.QUDO, 100), "M": (Step.MIRROR, 100), "R": (Step.SWITCHED, 99), "S": (Step.SWITCHED, 100)}
    for func, (step, percent) in steps.items():
        enqueue(database, func, b"{}")
        put_step(redis_server, step, func=func, percent=percent)
    enqueue(database, "None", b"{}")
    dry = cli("run", "--dry-run", "--json").json()["totals"]
    assert (dry["kept"], dry["moved"]) == (3, 2)
    assert {f["func"]: f["moves"] for f in cli("plan", "--json").json()["sources"][0]["funcs"]} == {
        "Q": False, "M": False, "R": False, "S": True, "None": True,
    }  # fmt: skip
    result = cli("run", "--json").json()
    assert (result["totals"]["kept"], result["totals"]["moved"], result["exit_status"]) == (3, 2, 0)
    assert sorted(resque.queues()) == ["none", "s"]
    assert cli("verify", "--json").json()["totals"]["kept"] == 3
    put_step(redis_server, Step.SWITCHED, func="R")
    assert cli("run", "--json").json()["totals"]["moved"] == 1


# --- ramps and sources ---


def test_a_ramp_is_stable_by_key_or_arg(sqlite: SQLiteDatabase, redis_server: RedisServer, resque: Resque) -> None:
    put_step(redis_server, Step.SWITCHED, percent=30)
    with enqueuer(configured({"main": sqlite}, redis_server)) as jobs:
        first = [jobs.enqueue(FUNC, {"n": n}).step for n in range(200)]
        assert [jobs.enqueue(FUNC, {"n": n}).step for n in range(200)] == first
        assert 30 <= first.count(Step.SWITCHED) <= 90
        put_step(redis_server, Step.SWITCHED, percent=60)
        jobs._watch.anew()
        more = [jobs.enqueue(FUNC, {"n": n}).step for n in range(200)]
    assert all(now is Step.SWITCHED for now, before in zip(more, first, strict=True) if before is Step.SWITCHED)
    assert more.count(Step.SWITCHED) > first.count(Step.SWITCHED)


def test_keys_stay_with_one_source_and_others_spread(tmp_path: Path, redis_server: RedisServer, resque: Resque) -> None:
    databases = {name: SQLiteDatabase(tmp_path / f"{name}.db") for name in ("a", "b", "c")}
    with enqueuer(configured(databases, redis_server)) as jobs:
        keyed = [jobs.enqueue(FUNC, [], uniqkey=f"k{n}").source for n in range(30)]
        for number, source in enumerate(keyed):
            with pytest.raises(DuplicateJob):
                jobs.enqueue(FUNC, [], uniqkey=f"k{number}")
            assert jobs.enqueue(FUNC, [], uniqkey=f"K{number} ").source == source  # SQLite takes it for another key
        assert {jobs.enqueue(FUNC, []).source for _ in range(60)} == set(databases) == set(keyed)
        assert jobs.enqueue(FUNC, [], source="b").source == "b"
    for each in databases.values():
        each.close()


# --- processes ---


def test_threads_share_one_enqueuer(innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque) -> None:
    put_step(redis_server, Step.SWITCHED)
    with enqueuer(configured({"main": innodb}, redis_server)) as jobs:
        receipts: list[object] = []

        def work(thread: int) -> None:
            receipts.extend(jobs.enqueue(FUNC, [thread, n]).outbox for n in range(50))

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(receipts)) == 400
    assert sorted(payload["args"][0] for payload in queued(resque)) == [[t, n] for t in range(8) for n in range(50)]


FORKING = """
import os, sys
from migrate import Enqueuer
jobs = Enqueuer.from_config(sys.argv[1])
jobs.enqueue("Worker::Mail", ["parent"])
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        for n in range(20):
            assert jobs.enqueue("Worker::Mail", [child, n]).handed_off
        os._exit(0)
    children.append(pid)
for n in range(20):
    assert jobs.enqueue("Worker::Mail", ["parent", n]).handed_off
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
jobs.close()
"""


def test_a_fork_has_connections_and_identities_of_its_own(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig
) -> None:
    path = write_config({"main": innodb}, redis_server)
    put_step(redis_server, Step.SWITCHED)
    subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING, str(path)],
        env={"PYTHONPATH": str(Path(__file__).parents[2])}, check=True, timeout=60,
    )  # fmt: skip
    payloads = queued(resque)
    assert len({payload["qudo"]["outbox"].partition("-")[0] for payload in payloads}) == 4
    assert len({json.dumps(payload["args"]) for payload in payloads}) == len(payloads) == 81


def test_importing_migrate_loads_neither_sqlalchemy_nor_redis() -> None:
    program = "import sys, migrate; sys.exit(any(n in sys.modules for n in ('sqlalchemy', 'redis', 'msgspec')))"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    with pytest.raises(AttributeError):
        __import__("migrate").Nothing  # noqa: B018

"""`cutover`: steps are moved when their preconditions hold, processes follow within a second and are named if not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate.resque import mirror
from migrate.resque.steps import Step
from tests.conftest import WriteConfig
from tests.integration.dualwriting import FUNC, configured, enqueuer, put_step
from tests.resque_app import Resque
from tests.schemas import check
from tests.servers import MariaDBDatabase, RedisServer, SQLiteDatabase, wait_until
from tests.servers.command import Cli


def moved(cli: Cli, *arguments: str, status: int = 0) -> Any:
    result = cli("cutover", *arguments, "--json")
    assert result.status == status, result.stdout + result.stderr
    document = result.json()
    check(document, "cutover" if "command" in document else "error")
    return document


def step_of(result: Any, func: str = FUNC) -> tuple[str | None, int]:
    (found,) = [each for each in result["funcs"] if each["func"] == func]
    return found["step"], found["percent"]


IDLE = """
import sys
from migrate import Enqueuer
jobs = Enqueuer.from_config(sys.argv[1])
jobs.enqueue("Worker::Mail", {"n": 1})
print("ready", flush=True)
for _ in sys.stdin:
    print(jobs.enqueue("Worker::Mail", {"n": 2}).step, flush=True)
"""


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[Any]:
    started: list[subprocess.Popen[str]] = []

    def start(path: Path) -> subprocess.Popen[str]:
        found = subprocess.Popen(
            [sys.executable, "-c", IDLE, str(path)],
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(found)
        assert found.stdout is not None
        assert found.stdout.readline() == "ready\n"
        return found

    yield start
    for each in started:
        each.kill()
        each.communicate()


def test_a_func_goes_all_the_way_and_back(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config({"main": innodb}, redis_server)
    with enqueuer(configured({"main": innodb}, redis_server)) as jobs:

        def enqueued(step: Step) -> None:
            assert jobs.enqueue(FUNC, {"n": 1}, uniqkey=f"k-{time.monotonic()}").step is step

        enqueued(Step.QUDO)
        assert step_of(moved(cli, "show")) == (None, 100)
        result = moved(cli, "advance", "--func", FUNC)
        assert (step_of(result), result["changed"], result["not_followed"]) == (("qudo", 100), [FUNC], [])
        assert result["errors"] == []
        blocked = moved(cli, "set", "switched", "--func", FUNC, status=1)
        assert "no job of it was ever mirrored" in blocked["blocked"][0]["reason"]
        assert step_of(moved(cli, "advance", "--func", "Worker::*")) == ("mirror", 100)
        enqueued(Step.MIRROR)
        assert jobs.flush()
        assert step_of(moved(cli, "advance", "--func", FUNC, "--percent", "0")) == ("switched", 0)
        enqueued(Step.QUDO)
        assert step_of(moved(cli, "set", "switched", "--percent", "100", "--func", FUNC)) == ("switched", 100)
        enqueued(Step.SWITCHED)
        refused = moved(cli, "advance", "--func", FUNC, status=1)
        assert [each["reason"] for each in refused["blocked"]] == ["Qudo is not drained: 3 jobs in source main"]
        forced = moved(cli, "advance", "--func", FUNC, "--force")
        assert forced["ignored"] == [f"{FUNC}: Qudo is not drained: 3 jobs in source main"]
        enqueued(Step.RESQUE)
        for step in ("switched", "mirror", "qudo"):
            assert step_of(moved(cli, "back", "--func", FUNC)) == (step, 100)
            enqueued(Step(step))
        assert "no earlier step" in moved(cli, "back", "--func", FUNC, status=1)["error"]
    history = cli("status", "--json").json()["history"]
    assert history[0]["command"] == "cutover"
    assert "Steps" in cli("cutover", "show").stdout


def test_a_source_that_is_away_stands_in_the_way_of_every_step_but_the_first(
    sqlite: SQLiteDatabase, innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    write_config({"main": innodb, "away": sqlite}, redis_server)
    moved(cli, "set", "mirror", "--func", FUNC, "--force")
    sqlite.path.rename(sqlite.path.with_suffix(".gone"))
    for arguments in (["show"], ["back", "--func", FUNC]):
        result = moved(cli, *arguments, status=3)
        (error,) = result["errors"]
        assert error["source"] == "away"
        assert "no such file" in error["error"]
    assert step_of(result) == ("qudo", 100)
    assert "source away" in moved(cli, "set", "mirror", "--func", FUNC, "--force", status=2)["error"]
    assert step_of(moved(cli, "show", status=3)) == ("qudo", 100)


def test_a_process_that_was_stopped_is_named_and_reads_the_step_before_it_writes_and_one_that_died_is_struck_off(
    sqlite: SQLiteDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig, process: Any
) -> None:
    path = write_config({"main": sqlite}, redis_server)
    living, stopped = process(path), process(path)
    moved(cli, "set", "qudo", "--func", FUNC)
    assert len(moved(cli, "show")["processes"]) == 2
    stopped.send_signal(signal.SIGSTOP)
    result = moved(cli, "set", "mirror", "--func", FUNC)
    (late,) = result["not_followed"]
    assert f":{stopped.pid} " in late
    blocked = moved(cli, "back", "--func", FUNC, status=1)
    assert late.partition(" ")[0] in blocked["blocked"][0]["reason"]
    command = cli.start("cutover", "set", "qudo", "--force", "--func", "Worker::Other", "--json")
    wait_until(lambda: "Worker::Other" in {each["func"] for each in moved(cli, "show")["funcs"]}, what="moved")
    command.send(signal.SIGINT)
    interrupted = command.wait()
    assert interrupted.status == 130
    assert interrupted.json()["changed"] == ["Worker::Other"]
    assert late in interrupted.json()["not_followed"]
    print(file=stopped.stdin, flush=True)  # the first that it does when it goes on is to enqueue
    stopped.send_signal(signal.SIGCONT)
    assert stopped.stdout.readline() == "mirror\n"
    wait_until(lambda: not moved(cli, "show")["not_followed"], what="the process has followed")
    stopped.kill()
    stopped.wait()
    assert [each["pid"] for each in moved(cli, "show")["processes"]] == [living.pid]


def test_a_fresh_process_goes_by_what_the_source_remembers_while_redis_is_away(
    innodb: MariaDBDatabase, cli: Cli, write_config: WriteConfig
) -> None:
    with RedisServer(appendfsync="always") as server:
        write_config({"main": innodb}, server)
        moved(cli, "set", "switched", "--func", FUNC, "--force")
        server.kill()
        with enqueuer(configured({"main": innodb}, server)) as jobs:
            receipt = jobs.enqueue(FUNC, {"n": 1})
        assert (receipt.step, receipt.handed_off) == (Step.SWITCHED, False)
        assert (innodb.count(), innodb.count("qudo_migrate_outbox")) == (0, 1)
        server.start()
        assert cli("run", "--json").json()["totals"]["handed_off"] == 1


def test_shadow_copies_are_compared_and_a_difference_stands_in_the_way(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    write_config({"main": innodb}, redis_server)
    moved(cli, "set", "mirror", "--func", FUNC)
    with enqueuer(configured({"main": innodb}, redis_server)) as jobs:
        ids = [jobs.enqueue(FUNC, {"n": n}).job_id for n in range(20)]
        assert jobs.flush()
    assert resque.queues() == {}
    report = cli("verify", "--json").json()
    assert report["mirror"] == [
        {"func": FUNC, "copied": 20, "missed": 0, "compared": 20, "different": 0, "gone": 0, "differences": []}
    ]
    innodb.execute(f'UPDATE job SET arg = \'{{"n": "0"}}\' WHERE id = {ids[0]}')
    innodb.execute(f"DELETE FROM job WHERE id = {ids[1]}")
    report = cli("verify", "--json")
    assert report.status == 1
    (found,) = report.json()["mirror"]
    assert (found["compared"], found["different"], found["gone"]) == (20, 1, 1)
    assert found["differences"] == [f"main:{ids[0]}: args[0].n: string became integer"]
    assert "mirror differs" in moved(cli, "advance", "--func", FUNC, status=1)["blocked"][0]["reason"]
    innodb.execute("DELETE FROM job")  # a Qudo that keeps up: what was kept beside the copies stands for its rows
    (found,) = cli("verify", "--json").json()["mirror"]
    assert (found["compared"], found["different"], found["gone"]) == (20, 0, 20)
    _edit_copy(resque, f"main:{ids[2]}", b'{"n":2}', b'{"n":3}')
    (found,) = cli("verify", "--json").json()["mirror"]
    assert found["differences"] == [f"main:{ids[2]}: args[0].n: another integer"]
    _edit_copy(resque, f"main:{ids[2]}", b'{"n":3}', b'{"n":2}')
    assert not moved(cli, "advance", "--func", FUNC)["blocked"]


def _edit_copy(resque: Resque, field: str, old: bytes, new: bytes) -> None:
    """Make what Resque would have got another one than what was written."""
    key = resque.key("qudo_migrate:mirror")
    value = resque.client.hget(key, field)
    assert isinstance(value, bytes)
    payload, arg = value.split(b'"args":[' + old, 1)
    resque.client.hset(key, field, payload + b'"args":[' + new + arg)


def test_shadows_are_bounded_and_never_slow_an_enqueue(
    sqlite: SQLiteDatabase, redis_server: RedisServer, resque: Resque, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "KEPT_SHADOWS", 10)
    put_step(redis_server, Step.MIRROR)
    with enqueuer(configured({"main": sqlite}, redis_server, {"func": FUNC, "serializer": "raw"})) as jobs:
        for number in range(30):
            jobs.enqueue(FUNC, str(number))
        jobs.enqueue(FUNC, b"\xff")  # has no shadow: Resque couldn't have it
        jobs.enqueue(FUNC, "31")
        assert jobs.flush()
        assert resque.client.hlen(resque.key("qudo_migrate:mirror")) == 10
        assert mirror.counts(jobs._target)[FUNC] == (31, 1)
        redis_server.freeze()
        try:
            began = time.monotonic()
            for number in range(200):
                jobs.enqueue(FUNC, str(number))
            assert time.monotonic() - began < 40, "none waits for Redis: 100 s"
        finally:
            redis_server.thaw()

"""uniqkey on each step: refused while the first job is pending, accepted once it is over, by workers unaware."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from migrate import DuplicateJob, Enqueuer
from migrate.resque.steps import KeyGuard, Step
from tests.conftest import WriteConfig
from tests.integration.dualwriting import FUNC, QUEUE, configured, put_step, queued
from tests.resque_app import Resque
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer
from tests.servers.command import Cli


def bind(database: MariaDBDatabase, server: RedisServer) -> None:
    """Make the two belong together, as an operator has long before step resque."""
    put_step(server, Step.SWITCHED, func="Worker::Binds")
    with Enqueuer(configured({"main": database}, server)) as jobs:
        jobs.enqueue("Worker::Binds", {})


def refused(jobs: Enqueuer, key: str = "k", func: str = FUNC) -> bool:
    try:
        jobs.enqueue(func, {"n": 2}, uniqkey=key)
    except DuplicateJob:
        return True
    return False


@pytest.mark.parametrize("step", [Step.QUDO, Step.MIRROR])
def test_in_qudo_a_key_is_free_once_a_worker_has_deleted_its_row(
    step: Step, database: Database, redis_server: RedisServer, resque: Resque
) -> None:
    put_step(redis_server, step)
    with Enqueuer(configured({"main": database}, redis_server)) as jobs:
        jobs.enqueue(FUNC, {"n": 1}, uniqkey="k")
        assert refused(jobs)
        database.execute("UPDATE job SET grabbed_until = 2000000000")
        assert refused(jobs)
        database.execute("DELETE FROM job")
        assert not refused(jobs)
        assert refused(jobs)


@pytest.mark.parametrize(("step", "guard"), [(Step.SWITCHED, KeyGuard.QUDO), (Step.RESQUE, KeyGuard.REDIS)])
def test_in_resque_a_key_is_free_once_an_unaware_worker_is_done(
    step: Step, guard: KeyGuard, innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque
) -> None:
    bind(innodb, redis_server)
    put_step(redis_server, step, guard=guard)
    queue, worker = resque.key(f"queue:{QUEUE}"), resque.key(f"worker:host:1:{QUEUE}")
    with Enqueuer(configured({"main": innodb}, redis_server)) as jobs:
        jobs.enqueue(FUNC, {"n": 1}, uniqkey="k")
        assert refused(jobs)
        payload = json.loads(resque.client.lpop(queue))  # type: ignore[arg-type]
        resque.client.sadd(resque.key("workers"), f"host:1:{QUEUE}")
        resque.client.set(worker, json.dumps({"queue": QUEUE, "run_at": "now", "payload": payload}))
        assert refused(jobs)  # being worked on
        resque.client.delete(worker)
        assert not refused(jobs)
        assert refused(jobs)
        resque.client.delete(queue)
        jobs.enqueue(FUNC, {"n": 3}, uniqkey="k", run_after=600)
        assert refused(jobs)  # delayed
        assert not refused(jobs, "other")


RACING = """
import sys
from migrate import DuplicateJob, Enqueuer
with Enqueuer.from_config(sys.argv[1]) as jobs:
    jobs.enqueue("Worker::Mail", {"n": 0})
    print("ready", flush=True)
    sys.stdin.readline()
    won = 0
    for number in range(60):
        try:
            jobs.enqueue("Worker::Mail", {"n": number}, uniqkey=f"race-{number}")
            won += 1
        except DuplicateJob:
            pass
    print(won)
"""


@pytest.mark.parametrize(
    ("collation", "alike"),
    [("latin1_swedish_ci", {"K", "k "}), ("utf8mb4_bin", {"k "}), ("utf8mb4_general_ci", {"K", "k ", "\u0137"})],
)
@pytest.mark.parametrize("step", [Step.QUDO, Step.SWITCHED])
def test_keys_are_alike_where_the_databases_collation_says_so(
    step: Step, collation: str, alike: set[str], innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque
) -> None:
    charset = collation.partition("_")[0]
    innodb.execute(f"ALTER TABLE job MODIFY uniqkey VARCHAR(255) CHARACTER SET {charset} COLLATE {collation} NULL")
    put_step(redis_server, step)
    with Enqueuer(configured({"main": innodb}, redis_server)) as jobs:
        jobs.enqueue(FUNC, {"n": 1}, uniqkey="k")
        keys = {"K", "k ", "kk"} | ({"\u0137"} if charset == "utf8mb4" else set())  # with a cedilla
        assert {key for key in keys if refused(jobs, key)} == alike


def test_on_step_resque_keys_of_any_collation_are_alike(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque
) -> None:
    """Redis has no collations, and no source is asked: what any of MySQL's would take for equal is."""
    bind(innodb, redis_server)
    put_step(redis_server, Step.RESQUE, guard=KeyGuard.REDIS)
    with Enqueuer(configured({"main": innodb}, redis_server)) as jobs:
        jobs.enqueue(FUNC, {"n": 1}, uniqkey="cle")
        keys = ("Cle", "CLE ", "cl\u00e9", "cle-2")
        assert [key for key in keys if refused(jobs, key)] == ["Cle", "CLE ", "cl\u00e9"]


def test_on_step_resque_keys_are_alike_as_the_coarsest_of_the_sources_says(
    mariadb: MariaDB, redis_server: RedisServer, resque: Resque, cli: Cli, write_config: WriteConfig
) -> None:
    """Redis compares bytes: how keys are spelled there is decided when the func leaves the sources' guard."""
    sources = {name: mariadb.create_database() for name in ("padded", "bytes", "folded")}
    collations = {
        "padded": "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "bytes": "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        "folded": "CHARACTER SET latin1 COLLATE latin1_swedish_ci",
    }
    for name, database in sources.items():
        database.execute(f"ALTER TABLE job MODIFY uniqkey VARCHAR(255) {collations[name]} NULL")
    cases: list[tuple[str, tuple[str, ...], set[str]]] = [
        ("Worker::A", ("bytes",), set()),
        ("Worker::B", ("bytes", "padded"), {"k "}),
        ("Worker::C", ("padded", "folded", "bytes"), {"K", "k "}),
    ]
    for func, names, alike in cases:
        chosen = {name: sources[name] for name in names}
        write_config(chosen, redis_server)
        assert cli("cutover", "set", "resque", "--func", func, "--force").status == 0
        with Enqueuer(configured(chosen, redis_server)) as jobs:
            jobs.enqueue(func, {"n": 1}, uniqkey="k")
            assert {key for key in ("K", "k ", "kk") if refused(jobs, key, func)} == alike
            if func == "Worker::B":  # on the way back Redis still says who is pending, by the same spelling
                assert cli("cutover", "back", "--func", func).status == 0
                assert {key for key in ("k", "K", "kkk") if refused(jobs, key, func)} == {"k", "K"}
                shown = cli("cutover", "show", "--json", "--func", func).json()["funcs"]
                assert [(each["keys"], each["spelling"]) for each in shown] == [("both", "padded")]


@pytest.mark.parametrize(
    ("step", "guard"), [(Step.QUDO, KeyGuard.QUDO), (Step.SWITCHED, KeyGuard.QUDO), (Step.RESQUE, KeyGuard.REDIS)]
)
def test_of_two_processes_one_gets_the_key(
    step: Step,
    guard: KeyGuard,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
) -> None:
    path = write_config({"main": innodb}, redis_server)
    bind(innodb, redis_server)
    put_step(redis_server, step, guard=guard)
    root = str(Path(__file__).parents[2])
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACING, str(path)],
            env={"PYTHONPATH": root}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    won = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(won) == 60
    assert innodb.count() + len(queued(resque)) == 62

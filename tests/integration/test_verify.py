"""`verify` names every kind of damage, each done by hand; is quiet about what is right; and writes nothing."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping
from typing import Any, Protocol

import pytest
from redis import Redis

from migrate.failpoints import VARIABLE
from tests.conftest import WriteConfig
from tests.integration.conftest import SECRET_ARGUMENT, Run
from tests.integration.snapshots import nothing_written
from tests.qudo_app import enqueue, fill, job_rows, load_fixture, log_exception
from tests.resque_app import Resque, ResqueWorker
from tests.schemas import check
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer
from tests.servers.command import Cli
from tests.servers.proxy import Proxy
from tests.servers.waiting import wait_until

MAIL = "resque:queue:worker_mail"
ARG = f'{{"n": 1, "secret": "{SECRET_ARGUMENT}"}}'.encode()


class Verified:
    """What `verify --json` said; counts of zero are left out."""

    def __init__(self, document: dict[str, Any], status: int) -> None:
        check(document, "report")
        assert document["exit_status"] == status
        self.document = document
        self.verdict = document["verdict"]
        self.totals = _counts(document["totals"])

    def source(self, name: str) -> dict[str, int]:
        """The counts of one source."""
        return _counts(next(each["jobs"] for each in self.document["sources"] if each["name"] == name))

    def funcs(self, name: str = "main") -> dict[str, dict[str, int]]:
        """The counts of each func of a source."""
        (source,) = (each for each in self.document["sources"] if each["name"] == name)
        return {each["func"]: _counts(each["jobs"]) for each in source["funcs"]}

    def found(self, kind: str) -> list[tuple[int | None, str]]:
        """Id and detail of the findings of a kind."""
        return [(each["id"], each["detail"]) for each in self.document["findings"] if each["kind"] == kind]


def _counts(jobs: Mapping[str, int]) -> dict[str, int]:
    return {word: count for word, count in jobs.items() if count}


class Verify(Protocol):
    """Runs `verify --json`; the exit status must be `status`."""

    def __call__(self, *arguments: str, status: int = 0) -> Verified: ...


@pytest.fixture
def verify(cli: Cli) -> Verify:
    def verify(*arguments: str, status: int = 0) -> Verified:
        result = cli("verify", "--json", *arguments)
        assert result.status == status, f"exit status {result.status}, not {status}\n{result.stdout}{result.stderr}"
        verified = Verified(result.json(), status)
        assert verified.verdict == ("differences" if status == 1 else "ok")
        return verified

    return verify


@pytest.fixture
def moved(innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, run: Run) -> MariaDBDatabase:
    """Ten jobs of ids 1 to 10, handed off."""
    for _ in range(10):
        enqueue(innodb, "Worker::Mail", ARG)
    write_config([innodb], redis_server)
    run()
    return innodb


def first_of(redis: Redis, key: str | bytes = MAIL) -> bytes:
    """Take the first entry of a list."""
    text = redis.lpop(key)
    assert isinstance(text, bytes)
    return text


def last_of(redis: Redis, key: str | bytes = MAIL) -> bytes:
    """Take the last entry of a list."""
    text = redis.rpop(key)
    assert isinstance(text, bytes)
    return text


def edited(redis: Redis, at: int, **changes: object) -> None:
    """Change keys of a payload in its queue."""
    job = json.loads(redis.lindex(MAIL, at) or b"")
    redis.lset(MAIL, at, json.dumps(job | changes))


# --- nothing is wrong -----------------------------------------------------------------------------------------------


def test_every_state_is_counted_once(
    database: Database,
    redis_server: RedisServer,
    redis: Redis,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
    verify: Verify,
) -> None:
    for _ in range(4):
        enqueue(database, "Worker::Mail", ARG)
    enqueue(database, "Worker::Mail", ARG, "key")
    enqueue(database, "Worker::Mail", ARG, run_after=1000)
    enqueue(database, "Worker::Bad", b"\x05\x0b\x03 broken")
    held = enqueue(database, "Worker::Mail", ARG)
    database.execute("UPDATE job SET grabbed_until = %s WHERE id = %s", [database.now() + 1000, held])
    enqueue(database, "Worker::Kept", ARG)
    write_config([database], redis_server, [{"func": "Worker::Kept", "move": False}])
    run(status=1)
    enqueue(database, "Worker::Mail", ARG, "key")
    enqueue(database, "Worker::Mail", ARG)
    first, second, third = (ResqueWorker(resque, f"host:{n}:*") for n in range(3))
    first.take("worker_mail")
    second.fail(second.take("worker_mail"))
    third.take("worker_mail")
    third.finish()
    redis.incr("resque:stat:processed", 3)

    with nothing_written(database, redis):
        verified = verify()

    assert verified.totals == {
        "in_flight": 1,
        "untranslatable": 1,
        "kept": 1,
        "waiting": 1,
        "not_moved": 1,
        "working": 1,
        "queued": 2,
        "delayed": 1,
        "failed": 1,
        "consumed": 1,
        "handed_off": 6,
    }
    assert verified.document["jobs"] == 11
    assert verified.source("main") == verified.totals
    assert verified.funcs()["Worker::Kept"] == {"kept": 1}
    ((job_id, reason),) = verified.found("untranslatable")
    assert job_id == 7
    assert reason
    assert [each["kind"] for each in verified.document["findings"]] == ["untranslatable"]


def test_before_any_run_everything_is_still_in_qudo(
    database: Database, redis_server: RedisServer, redis: Redis, write_config: WriteConfig, verify: Verify
) -> None:
    enqueue(database, "Worker::Mail", ARG)
    write_config([database], redis_server)
    with nothing_written(database, redis):
        assert verify().totals == {"not_moved": 1}


@pytest.mark.parametrize("dialect", ["perl", "ruby", "node"])
@pytest.mark.parametrize("which", ["a", "b"])
def test_what_the_real_qudo_wrote_is_equal_on_both_sides(
    dialect: str,
    which: Any,
    mariadb: MariaDB,
    redis_server: RedisServer,
    write_config: WriteConfig,
    cli: Cli,
    verify: Verify,
) -> None:
    database = mariadb.create_database("InnoDB")
    load_fixture(database, which)
    write_config([database], {"url": redis_server.url, "dialect": dialect}, [{"func": "*", "bytes": "latin1"}])
    cli("run", "--quiet")
    verified = verify("--expect-idle")
    assert verified.totals["handed_off"] > 50
    assert not {"missing", "duplicated", "mismatched", "foreign", "native"} & verified.totals.keys()
    database.drop()


# --- each kind of damage --------------------------------------------------------------------------------------------


def test_deleted_jobs_are_missing_where_no_worker_has_run(moved: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    redis.lpop(MAIL, 2)
    idle = verify("--expect-idle", status=1)
    assert idle.totals == {"queued": 8, "missing": 2, "handed_off": 10}
    assert idle.found("missing") == [(1, "handed off, and found nowhere"), (2, "handed off, and found nowhere")]

    live = verify()
    assert live.totals == {"queued": 8, "consumed": 2, "handed_off": 10}
    ((_, unexplained),) = live.found("unexplained")
    assert "2 jobs are gone" in unexplained
    redis.incr("resque:stat:processed", 2)
    assert verify().found("unexplained") == []


def test_a_doubled_job_is_named(moved: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    text = redis.lindex(MAIL, 3) or b""
    redis.rpush(MAIL, text, text)
    redis.sadd("resque:queues", "other")
    redis.rpush("resque:queue:other", redis.lindex(MAIL, 4) or b"")
    verified = verify(status=1)
    assert verified.totals["duplicated"] == 3
    assert verified.totals["queued"] == 10
    assert [job_id for job_id, _ in verified.found("duplicated")] == [4, 5]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"args": [{"n": 2, "secret": SECRET_ARGUMENT}]}, "args[0].n: another integer"),
        ({"args": [{"n": 1.0, "secret": SECRET_ARGUMENT}]}, "args[0].n: integer became number"),
        ({"args": [{"n": "1", "secret": SECRET_ARGUMENT}]}, "args[0].n: integer became string"),
        ({"args": [{"n": True, "secret": SECRET_ARGUMENT}]}, "args[0].n: integer became boolean"),
        ({"args": []}, "args: 1 items became 0"),
        ({"args": None}, "args: array became null"),
        ({"class": "Worker::Other"}, "class: another string"),
        ({"class": None}, "class: string became null"),
    ],
)
def test_an_edited_job_is_mismatched(
    changes: dict[str, object], where: str, moved: MariaDBDatabase, redis: Redis, verify: Verify
) -> None:
    edited(redis, 4, **changes)
    verified = verify(status=1)
    assert verified.totals == {"queued": 10, "handed_off": 10, "mismatched": 1}
    assert verified.found("mismatched") == [(5, f"{where} (queued)")]


def test_what_stands_beside_the_args_is_compared_too(moved: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    origin = json.loads(redis.lindex(MAIL, 0) or b"")["qudo"]
    edited(redis, 0, qudo=origin | {"id": 77})
    edited(redis, 1, qudo=json.loads(redis.lindex(MAIL, 1) or b"")["qudo"] | {"priority": 3})
    verified = verify(status=1)
    assert [job_id for job_id, _ in verified.found("mismatched")] == [1, 2]


def test_a_job_in_another_queue_is_mismatched(moved: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    redis.sadd("resque:queues", "elsewhere")
    redis.rpush("resque:queue:elsewhere", first_of(redis))
    verified = verify("--expect-idle", status=1)
    assert verified.found("mismatched") == [(1, "queue: another string (queued)")]


def test_damage_is_named_wherever_a_job_stands(
    moved: MariaDBDatabase, redis: Redis, resque: Resque, run: Run, verify: Verify
) -> None:
    enqueue(moved, "Worker::Mail", ARG, run_after=3000)  # 11: delayed, with its identity
    run()
    working, failed, done = (ResqueWorker(resque, f"host:{n}:*") for n in range(3))
    working.take("worker_mail")  # 1
    failing = failed.take("worker_mail")  # 2
    failed.fail(failing)
    both = done.take("worker_mail")  # 3: failed, and in its queue without anybody having put it back
    done.fail(both)
    redis.rpush(MAIL, both.text)
    assert verify(status=1).found("duplicated") == [(3, "2 copies: in queue worker_mail, among the failures")]
    redis.rpop(MAIL)

    def edit(text: bytes | None) -> str:
        assert text is not None
        return text.decode().replace('"n":1', '"n":2').replace('"n": 1', '"n": 2')

    redis.set("resque:worker:host:0:*", edit(redis.get("resque:worker:host:0:*")))  # type: ignore[arg-type]
    redis.lset("resque:failed", 0, edit(redis.lindex("resque:failed", 0)))  # type: ignore[arg-type]
    (second,) = redis.scan_iter("resque:delayed:*")
    later = last_of(redis, second)
    redis.rpush(second, edit(later))
    queued = redis.lindex(MAIL, 0) or b""  # 4: delayed as well
    redis.rpush(second, queued)
    moved.execute("UPDATE qudo_migrate_outbox SET arg = '{}' WHERE job_id = 5")
    moved.execute("UPDATE qudo_migrate_outbox SET priority = 9 WHERE job_id = 6")

    verified = verify(status=1)

    assert {job_id for job_id, _ in verified.found("mismatched")} == {1, 2, 5, 6, 11}
    assert [job_id for job_id, _ in verified.found("duplicated")] == [4]
    redis.delete(second)
    assert verify("--expect-idle", status=1).found("missing") == [(11, "handed off, and found nowhere")]


def test_a_handed_off_job_that_is_back_in_qudo_is_duplicated(
    moved: MariaDBDatabase, redis: Redis, verify: Verify
) -> None:
    moved.execute(
        "INSERT INTO job (id, func_id, arg, uniqkey, enqueue_time, grabbed_until, run_after, retry_cnt, priority)"
        " SELECT job_id, func_id, arg, uniqkey, enqueue_time, grabbed_until, run_after, retry_cnt, priority"
        " FROM qudo_migrate_outbox WHERE job_id IN (2, 3)"
    )
    verified = verify(status=1)
    assert verified.totals == {"queued": 10, "handed_off": 10, "duplicated": 2}
    assert [job_id for job_id, _ in verified.found("duplicated")] == [2, 3]


def test_a_handed_off_job_that_is_back_in_qudo_under_a_new_id_is_told(
    moved: MariaDBDatabase, redis: Redis, verify: Verify
) -> None:
    """Nothing tells it from another job of the same second, so it is no difference; seconds after the move, nothing."""
    columns = "func_id, arg, uniqkey, enqueue_time, grabbed_until, run_after, retry_cnt, priority"
    large = "x" * 200_000
    moved.execute("UPDATE qudo_migrate_outbox SET priority = job_id, moved_at = moved_at - 20")
    moved.execute(f"UPDATE qudo_migrate_outbox SET arg = IF(job_id = 7, '[\"{large}\"]', arg)")
    moved.execute(f"INSERT INTO job ({columns}) SELECT {columns} FROM qudo_migrate_outbox WHERE job_id IN (4, 7)")
    moved.execute("INSERT INTO job (func_id, arg, enqueue_time, grabbed_until) SELECT func_id, arg, 5, 0 FROM job")
    verified = verify(status=1)  # the jobs whose rows were edited above are mismatched
    assert verified.totals["not_moved"] == 4
    assert [job_id for job_id, _ in verified.found("alike")] == [4, 7]
    assert "job 11 in Qudo" in verified.found("alike")[0][1]


def test_another_job_under_an_old_id_is_another_job(moved: MariaDBDatabase, verify: Verify) -> None:
    """InnoDB forgets its counter: a drained queue begins at id 1 again."""
    (func, now) = (moved.value("SELECT id FROM func"), moved.now())
    insert = "INSERT INTO job (id, func_id, arg, enqueue_time, grabbed_until) VALUES (%s, %s, %s, %s, 0)"
    moved.execute(insert, [1, func, b'{"n":2}', now - 5])
    moved.execute(insert, [2, func, ARG, now + 100])
    assert verify().totals == {"queued": 10, "handed_off": 10, "not_moved": 2}


def test_foreign_and_native_jobs_are_told_apart(moved: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    job = json.loads(redis.lindex(MAIL, 0) or b"")
    batch, _, _ = job["qudo"]["outbox"].partition("-")
    for name in (f"{7:016x}-1", f"{batch}-60000", f"{batch}-70000", f"{batch}-01", "x", 7, None):
        redis.rpush(MAIL, json.dumps({"class": "A", "args": [], "qudo": {"source": "main", "outbox": name}}))
    redis.rpush(MAIL, b"no json", b"[]", json.dumps({"class": "Native", "args": [1]}))
    verified = verify()
    assert verified.totals == {"queued": 10, "handed_off": 10, "foreign": 9, "native": 1}
    assert len(verified.found("foreign")) == 9


def test_jobs_out_of_order_are_told_and_are_no_difference(moved: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    redis.rpush(MAIL, first_of(redis))
    verified = verify()
    assert verified.totals == {"queued": 10, "handed_off": 10}
    assert [job_id for job_id, _ in verified.found("order")] == [1]


def test_a_job_whose_bit_is_lost_is_about_to_be_doubled(moved: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    (ledger,) = redis.scan_iter("resque:qudo_migrate:ledger:*")
    redis.setbit(ledger, 0, 0)
    verified = verify(status=1)
    assert verified.totals == {"not_handed_off": 1, "queued": 9, "handed_off": 9, "duplicated": 1}


# --- jobs without an identity ---------------------------------------------------------------------------------------


@pytest.fixture
def delayed(innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, run: Run) -> MariaDBDatabase:
    """Four delayed jobs of Ruby's dialect, two of them alike."""
    for n in (1, 1, 2, 3):
        enqueue(innodb, "Worker::Mail", f'{{"n": {n}}}'.encode(), run_after=1000)
    innodb.execute("UPDATE job SET run_after = %s", [innodb.now() + 1000])
    write_config([innodb], {"url": redis_server.url, "dialect": "ruby"})
    run()
    return innodb


def _delayed_key(redis: Redis) -> bytes:
    (key,) = redis.scan_iter("resque:delayed:*")
    assert isinstance(key, bytes)
    return key


def test_delayed_jobs_are_matched_by_content(delayed: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    assert verify("--expect-idle").totals == {"delayed": 4, "handed_off": 4}
    redis.rpush("resque:queue:native", json.dumps({"class": "Worker::Native", "args": [{"n": 1}]}))
    redis.sadd("resque:queues", "native")
    assert verify("--expect-idle").totals == {"delayed": 4, "handed_off": 4, "native": 1}


def test_what_the_scheduler_has_moved_is_queued(delayed: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    redis.sadd("resque:queues", "worker_mail")
    key = _delayed_key(redis)
    for text in [first_of(redis, key) for _ in range(3)]:
        job = json.loads(text)
        redis.rpush(MAIL, json.dumps({"class": job["class"], "args": job["args"]}))
    assert verify("--expect-idle").totals == {"delayed": 1, "queued": 3, "handed_off": 4}


def test_a_delayed_job_that_is_gone_doubled_or_changed_is_noticed(
    delayed: MariaDBDatabase, redis: Redis, verify: Verify
) -> None:
    key = _delayed_key(redis)
    last = last_of(redis, key)
    assert verify("--expect-idle", status=1).found("missing") == [(4, "handed off, and found nowhere")]
    redis.rpush(key, last, last)
    doubled = verify("--expect-idle", status=1)
    assert doubled.totals == {"delayed": 4, "handed_off": 4, "duplicated": 1}
    assert [job_id for job_id, _ in doubled.found("duplicated")] == [4]
    redis.rpop(key, 2)
    redis.rpush(key, last.replace(b'"n": 3', b'"n": 4'))
    changed = verify("--expect-idle", status=1)
    assert changed.totals == {"delayed": 3, "missing": 1, "handed_off": 4, "native": 1}
    redis.rpop(key)
    redis.rpush(key, json.dumps(json.loads(last) | {"queue": "other"}))
    other = verify("--expect-idle", status=1)
    assert other.totals == {"delayed": 4, "handed_off": 4, "mismatched": 1}


def test_a_job_that_perls_plugin_retries_is_known_by_its_content(
    moved: MariaDBDatabase, redis: Redis, verify: Verify
) -> None:
    job = json.loads(first_of(redis))
    redis.rpush(MAIL, json.dumps({"args": job["args"], "retry_count": 1, "class": job["class"]}))
    assert verify("--expect-idle").totals == {"queued": 10, "handed_off": 10}


# --- several sources, failures, purges ------------------------------------------------------------------------------


def test_sources_are_told_apart(
    mariadb: MariaDB,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    redis: Redis,
    write_config: WriteConfig,
    run: Run,
    verify: Verify,
) -> None:
    other = mariadb.create_database("InnoDB")
    fill(innodb, 30)
    fill(other, 20, func="Worker::Other")
    write_config([innodb, other], redis_server)
    run()
    redis.rpop("resque:queue:worker_other", 2)
    verified = verify("--expect-idle", status=1)
    assert verified.source("main") == {"queued": 30, "handed_off": 30}
    assert verified.source("second") == {"queued": 18, "missing": 2, "handed_off": 20}
    assert verified.totals == {"queued": 48, "missing": 2, "handed_off": 50}
    assert {each["source"] for each in verified.document["findings"]} == {"second"}

    write_config([innodb], redis_server)
    alone = verify("--expect-idle")
    assert alone.totals == {"queued": 30, "handed_off": 30, "foreign": 18}
    other.drop()


def test_imported_failures_are_counted(
    innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, run: Run, verify: Verify
) -> None:
    enqueue(innodb, "Worker::Mail", ARG)
    log_exception(innodb, innodb.value("SELECT id FROM func"), "died at line 1", ARG, None)
    innodb.execute("DELETE FROM job")
    write_config([innodb], redis_server)
    run()
    verified = verify("--expect-idle")
    assert verified.totals == {"imported": 1}
    assert verified.funcs() == {"Worker::Mail": {"imported": 1}}


def test_purged_jobs_are_counted_and_not_foreign(moved: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    moved.execute("DELETE FROM qudo_migrate_outbox WHERE job_id <= 4")
    assert verify("--expect-idle").totals == {"queued": 6, "handed_off": 6, "purged": 4}
    redis.rpush(MAIL, redis.lindex(MAIL, 0) or b"")
    assert verify("--expect-idle", status=1).totals["duplicated"] == 1


# --- rollbacks --------------------------------------------------------------------------------------------------------


def test_what_a_rollback_returned_is_a_job_of_qudo_again_and_not_purged(
    moved: MariaDBDatabase, redis: Redis, cli: Cli, verify: Verify
) -> None:
    moved.execute("DELETE FROM qudo_migrate_outbox WHERE job_id <= 2")  # purged
    redis.lpop(MAIL, 3)
    redis.incr("resque:stat:processed", 3)
    assert cli("rollback").status == 0
    after = {"not_moved": 7, "consumed": 1, "handed_off": 1, "purged": 2, "returned": 7}
    assert verify().totals == after

    assert cli("resume").status == 0
    assert cli("run").status == 0
    assert verify().totals == {"queued": 7, "consumed": 1, "handed_off": 8, "purged": 2, "returned": 7}
    assert cli("rollback").status == 0
    assert verify().totals == after | {"returned": 14}


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("rollback.claimed", {"returning": 10, "queued": 10, "handed_off": 10}),
        ("rollback.taken", {"returning": 20}),
        ("rollback.fenced", {"returning": 20}),
        ("rollback.inserted", {"returning": 20}),
        ("rollback.committed", {"returning": 10, "not_moved": 10, "returned": 10}),
        ("rollback.forgotten", {"not_moved": 20, "returned": 20}),
        ("rollback.ended", {"not_moved": 20, "returned": 20}),
    ],
)
def test_a_rollback_that_was_killed_leaves_each_job_in_one_state(
    point: str, expected: dict[str, int], moved: MariaDBDatabase, redis: Redis, cli: Cli, verify: Verify
) -> None:
    """Ten jobs in Resque, ten that were never handed off."""
    fill(moved, 10)
    cli.env[VARIABLE] = "move.committed=kill"
    assert cli("run").status == -signal.SIGKILL
    cli.env[VARIABLE] = f"{point}=kill"
    assert cli("rollback").status == -signal.SIGKILL
    del cli.env[VARIABLE]
    with nothing_written(moved, redis):
        assert verify("--expect-idle").totals == expected
    assert cli("rollback").status == 0
    assert verify("--expect-idle").totals == {"not_moved": 20, "returned": 20}


def test_a_job_whose_row_was_purged_under_a_rollback_is_on_its_way_until_it_is_put_back(
    moved: MariaDBDatabase, cli: Cli, verify: Verify
) -> None:
    cli.env[VARIABLE] = "rollback.fenced=kill"
    assert cli("rollback").status == -signal.SIGKILL
    del cli.env[VARIABLE]
    moved.execute("DELETE FROM qudo_migrate_outbox WHERE job_id <= 4")
    verified = verify("--expect-idle")
    assert verified.totals == {"returning": 10}
    assert verified.funcs() == {"(purged)": {"returning": 4}, "Worker::Mail": {"returning": 6}}
    assert cli("rollback").status == 0
    assert verify("--expect-idle").totals == {"not_moved": 6, "returned": 6, "purged": 4}


def test_a_rollback_that_goes_on_while_verify_reads_makes_no_false_alarm(
    innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, cli: Cli, verify: Verify
) -> None:
    fill(innodb, 20_000, arg=ARG.decode())
    write_config([innodb], redis_server)
    assert cli("run").status == 0
    rollback = cli.start("rollback")
    looks = [verify("--expect-idle").totals]
    while rollback.running:
        looks.append(verify("--expect-idle").totals)
    assert rollback.wait().status == 0
    assert any(look.get("returning") or 0 < look.get("returned", 0) < 20_000 for look in looks), looks
    assert verify("--expect-idle").totals == {"not_moved": 20_000, "returned": 20_000}


def test_a_source_that_is_gone_leaves_the_report_incomplete(
    moved: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    write_config({"main": moved, "gone": "mysql+pymysql://x:y@127.0.0.1:9/gone"}, redis_server)
    result = cli("verify", "--json")
    assert result.status == 3
    verified = Verified(result.json(), 3)
    assert not verified.document["complete"]
    assert verified.source("main") == {"queued": 10, "handed_off": 10}


def test_a_redis_of_another_migration_is_refused(moved: MariaDBDatabase, redis: Redis, cli: Cli) -> None:
    redis.set("resque:qudo_migrate:target", "another")
    assert cli("verify", "--json").status == 2


# --- while others are at work ---------------------------------------------------------------------------------------


def test_workers_that_pop_while_verify_reads_make_no_false_alarm(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    redis: Redis,
    write_config: WriteConfig,
    run: Run,
    verify: Verify,
) -> None:
    fill(innodb, 20_000, arg=ARG.decode())
    write_config([innodb], redis_server)
    run()
    end = threading.Event()
    resque = Resque(redis_server.client())

    def work(number: int) -> None:
        worker = ResqueWorker(resque, f"host:{number}:*")
        while not end.is_set() and redis.llen(MAIL):
            job = worker.take("worker_mail")
            if job.id % 7 == 0:
                worker.fail(job)
            else:
                worker.finish()
            redis.incr("resque:stat:processed")
            redis.rpush(MAIL, json.dumps({"class": "Native", "args": [job.id]}))

    thread = threading.Thread(target=work, args=(1,))
    thread.start()
    try:
        for _ in range(3):
            verified = verify()
            totals = verified.totals
            assert totals["handed_off"] == 20_000
            assert verified.document["jobs"] == 20_000
            assert totals["native"] > 0
            assert totals["consumed"] > 0
            assert verified.document["findings"] == []
    finally:
        end.set()
        thread.join(30)


def test_rows_that_nobody_hands_off_are_told(moved: MariaDBDatabase, redis: Redis, verify: Verify) -> None:
    """A run was killed between move and hand-off."""
    moved.execute("UPDATE qudo_migrate_outbox SET seq = seq + 1000 WHERE job_id > 8")
    redis.ltrim(MAIL, 0, 7)
    verified = verify("--expect-idle")
    assert verified.totals["not_handed_off"] == 2
    assert verified.document["next"].startswith("qudo-migrate run")


def test_args_are_shown_only_if_asked_for(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    redis: Redis,
    write_config: WriteConfig,
    run: Run,
    verify: Verify,
) -> None:
    enqueue(innodb, "Worker::Mail", b'["plain"]')
    write_config([innodb], redis_server)
    run()
    edited(redis, 0, args=[["changed"]])
    ((_, hidden),) = verify(status=1).found("mismatched")
    assert "changed" not in hidden
    ((_, shown),) = verify("--show-args", status=1).found("mismatched")
    assert '[["plain"]]' in shown
    assert '[["changed"]]' in shown


def test_the_terminal_says_it_in_ten_lines(moved: MariaDBDatabase, redis: Redis, cli: Cli) -> None:
    for at in range(8):
        edited(redis, at, args=[])
    result = cli("verify")
    assert result.status == 1
    assert result.stdout.startswith("differences: 10 jobs")
    assert "8 mismatched" in result.stdout
    assert "and 3 more" in result.stdout
    assert len(result.stdout.splitlines()) <= 14
    assert job_rows(moved) == []


def test_what_was_done_and_when_jobs_moved_is_in_the_report(
    moved: MariaDBDatabase, cli: Cli, verify: Verify, redis: Redis
) -> None:
    moved.execute("UPDATE qudo_migrate_outbox SET moved_at = moved_at - 600 WHERE job_id <= 4")
    cli("purge", "--dry-run")
    cli("pause", "--func", "Worker::Other")
    document = verify().document
    assert [(each["command"], each["counts"]) for each in document["history"]] == [
        ("pause", {}),
        ("run", {"moved": 10, "handed_off": 10}),
    ]
    spans = document["throughput"]
    assert sum(each["moved"] for each in spans) == 10
    assert spans[0]["moved"] == 4
    assert len(spans) <= 60
    assert spans[-1]["at"] == spans[0]["at"] + spans[0]["seconds"] * (len(spans) - 1)


def test_a_server_that_goes_away_is_waited_for_and_all_is_compared_anew(
    moved: MariaDBDatabase, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    with Proxy(redis_server) as redis, Proxy(moved.server) as mariadb:
        write_config({"main": mariadb.url(moved.url)}, redis.url(redis_server.url))
        for proxy, request in ((redis, b"LRANGE"), (mariadb, b"ORDER BY qudo_migrate_outbox.batch")):
            proxy.hold_request(request)
            verifying = cli.start("verify", "--expect-idle", "--json", "--retry-for", "60")
            proxy.wait_held()
            proxy.refuse()
            verifying.wait_for("waiting")
            proxy.heal()
            result = verifying.wait()
            assert result.status == 0, result.stderr
            assert Verified(result.json(), 0).totals == {"queued": 10, "handed_off": 10}
        mariadb.hold_request(request)
        verifying = cli.start("verify", "--json", "--retry-for", "0")
        mariadb.wait_held()
        mariadb.refuse()
        result = verifying.wait()
        assert result.status == 3
        assert not result.json()["complete"]
        assert "main" in result.json()["errors"][0]["source"]


@pytest.mark.slow
def test_a_run_that_goes_on_while_verify_reads_makes_no_false_alarm(
    innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, verify: Verify, cli: Cli
) -> None:
    fill(innodb, 60_000, arg=ARG.decode(), priorities=3)
    write_config([innodb], redis_server)
    running = cli.start("run", "--quiet", "--batch-size", "500")
    running.wait_until(lambda: innodb.count() < 58_000, 60, "jobs move")
    looks = 0
    while running.running:
        verified = verify("--expect-idle")
        assert verified.document["findings"] == []
        looks += 1
    assert looks
    assert running.wait().status == 0
    assert verify("--expect-idle").totals == {"queued": 60_000, "handed_off": 60_000}


def test_a_signal_ends_it_with_nothing_said(moved: MariaDBDatabase, redis: Redis, cli: Cli) -> None:
    pipe = redis.pipeline(transaction=False)
    for _ in range(100):
        pipe.rpush("resque:queue:native", *[b'{"class":"A","args":[]}'] * 2000)
    pipe.execute()
    redis.sadd("resque:queues", "native")
    others = {each["id"] for each in redis.client_list()}
    running = cli.start("verify")
    wait_until(
        lambda: any(each["cmd"] == "lrange" and each["id"] not in others for each in redis.client_list()),
        20,
        "verify reads",
    )
    running.send(signal.SIGINT)
    result = running.wait()
    assert result.status == 130
    assert result.stdout == ""

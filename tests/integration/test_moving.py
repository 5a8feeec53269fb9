"""The move by itself: rows leave `job` whole or not at all, those that changed stay, and a crash leaves no doubt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.dialects.mysql import BIGINT

from migrate.config import Route, Unique
from migrate.decision import Decision
from migrate.engine.choosing import Prepared
from migrate.errors import Contention, Unavailable
from migrate.jobs import Identity
from migrate.qudo import leasing, outbox
from migrate.qudo.outbox import Chunk, ChunkState
from migrate.qudo.picking import among, by_id
from migrate.qudo.reading import Row
from migrate.qudo.source import Source
from migrate.qudo.tables import MOVE_LEASE
from migrate.resque.target import Target
from tests.integration.stepping import Died, Migrator, dying_at
from tests.qudo_app import Outcome, QudoWorker, enqueue, fill, func_id, job_ids, job_rows
from tests.qudo_app.rows import JobRow
from tests.servers import Database, MariaDB, MariaDBDatabase, Proxy, RedisServer, SQLiteDatabase
from tests.servers.proxy import MYSQL_COMMIT

OUTBOX = "qudo_migrate_outbox"
CHUNK = "qudo_migrate_chunk"
PENDING = "qudo_migrate_pending"


@pytest.fixture
def target(redis_server: RedisServer) -> Iterator[Target]:
    opened = Target.open(redis_server.url, "resque")
    yield opened
    opened.close()


@pytest.fixture
def migrator(database: Database, target: Target) -> Iterator[Migrator]:
    found = Migrator(database.url, target)
    yield found
    found.close()


def read_chunk(migrator: Migrator) -> list[Prepared]:
    """All free rows as one chunk."""
    (chunk,) = migrator.read()
    return chunk


def records(source: Source) -> list[Chunk]:
    with source.reading() as connection:
        return outbox.chunks(connection)


def moved_rows(database: Database) -> dict[int, JobRow]:
    """The rows of the outbox in order, as they were in `job`, by seq."""
    columns = [
        *("outbox.seq", "outbox.job_id", database.as_bytes("func.name")),
        *(database.as_bytes("outbox.arg"), database.as_bytes("outbox.uniqkey")),
        *("outbox.enqueue_time", "outbox.grabbed_until", "outbox.run_after", "outbox.retry_cnt", "outbox.priority"),
    ]
    rows = database.rows(
        f"SELECT {', '.join(columns)} FROM {OUTBOX} AS outbox LEFT JOIN func ON func.id = outbox.func_id"
        " ORDER BY outbox.batch, outbox.seq"
    )
    return {seq: JobRow(job_id, (func or b"").decode(), *rest) for seq, job_id, func, *rest in rows}


# --- what a move does -----------------------------------------------------------------------------------------------


def test_rows_leave_job_for_the_outbox_as_they_are_in_qudos_order(database: Database, migrator: Migrator) -> None:
    args = [b"{}", None, b"", b'"a"', b'"' + "鮎".encode() * 50_000 + b'"', b"[1]"]
    keys: list[str | bytes | None] = ["key", None, "鮎", b"caf\xe9" if database.engine == "MyISAM" else "é", "", "k" * 255]
    for number, (arg, key) in enumerate(zip(args, keys, strict=True)):
        enqueue(database, f"Worker::{number % 2}", arg, key, priority=number % 3)
    database.execute("UPDATE job SET retry_cnt = 7, grabbed_until = 5, enqueue_time = NULL WHERE id = 4")
    before = job_rows(database)
    chunks = migrator.read()

    for chunk in chunks:
        moved = migrator.move(chunk)
        assert moved.seqs == {each.candidate.seq for each in chunk}
        assert moved.waiting == ()
        assert moved.binding.target_id

    assert job_rows(database) == []
    expected = sorted(before, key=lambda row: (-row.priority, row.id))
    found = list(moved_rows(database).values())
    if not database.transactional:
        # A row that was claimed is copied with its claim; the lease that it had was over anyway.
        assert {row.grabbed_until for row in found} == {MOVE_LEASE}
        found = [row._replace(grabbed_until=5 if row.retry_cnt else 0) for row in found]
    assert found == expected


def test_one_record_stands_for_a_move(database: Database, migrator: Migrator) -> None:
    fill(database, 5)
    chunk = read_chunk(migrator)
    migrator.move(chunk)
    batch = chunk[0].job.identity.batch
    assert records(migrator.source) == [Chunk(batch, 0, 4, 5, ChunkState.READY)]


def test_what_the_route_decided_is_stored_once(database: Database, migrator: Migrator) -> None:
    fill(database, 3)
    fill(database, 2, "Worker::Image")
    for _ in range(2):
        for chunk in migrator.read():
            migrator.move(chunk)
        fill(database, 1)
    stored = database.rows("SELECT id, decision FROM qudo_migrate_decision")
    decisions = {key: Decision.parse(value) for key, value in stored}
    assert {decision.func for decision in decisions.values()} == {"Worker::Mail", "Worker::Image"}
    assert all(decision.id == key for key, decision in decisions.items())
    assert {key for (key,) in database.rows(f"SELECT decision FROM {OUTBOX}")} == set(decisions)


def test_rows_that_could_not_be_translated_leave_gaps_in_the_record(database: Database, migrator: Migrator) -> None:
    fill(database, 4)
    database.execute(f"UPDATE job SET arg = {database.arg(bytes([0xFF]))} WHERE id IN (1, 3)")
    chunk = read_chunk(migrator)
    migrator.move(chunk)
    assert [each.candidate.seq for each in chunk] == [1, 3]
    assert records(migrator.source) == [Chunk(chunk[0].job.identity.batch, 1, 3, 2, ChunkState.READY)]
    assert list(moved_rows(database)) == [1, 3]
    assert job_ids(database) == [1, 3]


def test_more_rows_than_one_statement_names_keep_their_seqs(database: Database, migrator: Migrator) -> None:
    """Lists hold 900 ids, 100 with SQLite; priorities make the seqs no run of numbers within a list."""
    fill(database, 2500, priorities=7)
    before = sorted(job_rows(database), key=lambda row: (-row.priority, row.id))
    big = Migrator(database.url, migrator.target, chunk_rows=5000)
    big.chooser._size.rows = 5000
    chunks = big.read()
    assert len(chunks) == 1
    big.move(chunks[0])
    assert [(row.id, row.arg) for row in moved_rows(database).values()] == [(row.id, row.arg) for row in before]
    assert job_ids(database) == []
    big.close()


# --- rows that changed since they were read -------------------------------------------------------------------------


def grab(database: Database, job_id: int) -> None:
    worker = QudoWorker([database], ["Worker::Mail"])
    (job,) = [each for each in worker.find(0) if each.id == job_id]
    assert worker.grab(job)
    worker.close()


def run_to_its_end(database: Database, job_id: int, outcome: Outcome) -> None:
    worker = QudoWorker([database], ["Worker::Mail"], lambda _job: outcome, max_retries=3)
    (job,) = [each for each in worker.find(0) if each.id == job_id]
    assert worker.grab(job)
    worker.run(job)
    worker.close()


def replace(database: Database, job_id: int) -> None:
    """Another job under the same id: the counter was set back."""
    database.execute(f"DELETE FROM job WHERE id = {job_id}")
    database.execute(
        "INSERT INTO job (id, func_id, arg, uniqkey, enqueue_time, grabbed_until, run_after, retry_cnt, priority)"
        f" VALUES ({job_id}, {func_id(database, 'Worker::Mail')}, {database.arg(b'[0]')}, NULL, 1, 0, 1, 0, 0)"
    )


CHANGES: dict[str, Callable[[Database, int], object]] = {
    "grabbed": grab,
    "completed": lambda database, key: run_to_its_end(database, key, Outcome.COMPLETED),
    "retried": lambda database, key: run_to_its_end(database, key, Outcome.FAILED),
    "replaced": replace,
    "priority": lambda database, key: database.execute(f"UPDATE job SET priority = 9 WHERE id = {key}"),
    "uniqkey": lambda database, key: database.execute(f"UPDATE job SET uniqkey = 'new' WHERE id = {key}"),
    "run_after": lambda database, key: database.execute(f"UPDATE job SET run_after = 4000000000 WHERE id = {key}"),
    "func": lambda database, key: database.execute(f"UPDATE job SET func_id = 77 WHERE id = {key}"),
    "retry_cnt": lambda database, key: database.execute(f"UPDATE job SET retry_cnt = 1 WHERE id = {key}"),
    "enqueue_time": lambda database, key: database.execute(f"UPDATE job SET enqueue_time = 1 WHERE id = {key}"),
    "enqueue_time NULL": lambda database, key: database.execute(f"UPDATE job SET enqueue_time = NULL WHERE id = {key}"),
    "an old lease": lambda database, key: database.execute(f"UPDATE job SET grabbed_until = 1 WHERE id = {key}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_changed_since_it_was_read_stays_and_the_others_move(
    database: Database, migrator: Migrator, change: str
) -> None:
    fill(database, 4)
    chunk = read_chunk(migrator)
    CHANGES[change](database, 2)
    changed = job_rows(database, "job.id = 2")

    moved = migrator.move(chunk)

    assert moved.seqs == {0, 2, 3}
    assert job_rows(database) == changed
    assert [row.id for row in moved_rows(database).values()] == [1, 3, 4]
    assert records(migrator.source) == [Chunk(chunk[0].job.identity.batch, 0, 3, 3, ChunkState.READY)]


@pytest.mark.parametrize("where", ["first", "last"])
def test_the_record_begins_and_ends_with_what_has_moved(database: Database, migrator: Migrator, where: str) -> None:
    fill(database, 4)
    chunk = read_chunk(migrator)
    grab(database, 1 if where == "first" else 4)
    migrator.move(chunk)
    (record,) = records(migrator.source)
    assert (record.first_seq, record.last_seq) == ((1, 3) if where == "first" else (0, 2))


def test_where_all_rows_changed_nothing_is_left_of_the_move(database: Database, migrator: Migrator) -> None:
    fill(database, 3)
    chunk = read_chunk(migrator)
    database.execute("UPDATE job SET priority = 9")
    before = job_rows(database)
    moved = migrator.move(chunk)
    assert moved.seqs == frozenset()
    assert job_rows(database) == before
    assert (database.count(OUTBOX), database.count(CHUNK)) == (0, 0)


def test_of_two_migrators_that_read_the_same_rows_one_moves_each(
    database: Database, migrator: Migrator, target: Target
) -> None:
    fill(database, 6)
    other = Migrator(database.url, target)
    mine, theirs = read_chunk(migrator), read_chunk(other)
    assert migrator.move(mine[:4]).seqs == {0, 1, 2, 3}
    assert other.move(theirs).seqs == {4, 5}
    assert migrator.move(mine).seqs == frozenset()
    assert sorted(row.id for row in moved_rows(database).values()) == [1, 2, 3, 4, 5, 6]
    other.close()


# --- uniqkeys -------------------------------------------------------------------------------------------------------


def test_a_uniqkey_is_held_and_the_next_job_under_it_waits(database: Database, migrator: Migrator) -> None:
    first = enqueue(database, "Worker::Mail", b"[1]", "key")
    chunk = read_chunk(migrator)
    migrator.move(chunk)
    second = enqueue(database, "Worker::Mail", b"[2]", "key")
    third = enqueue(database, "Worker::Mail", b"[3]", "other")

    (chunk,) = migrator.read()
    moved = migrator.move(chunk)

    assert [(waiter.job_id, waiter.holder) for waiter in moved.waiting] == [(second, Identity(chunk[0].job.identity.batch, 0))]
    assert job_ids(database) == [second]
    (row,) = job_rows(database)
    assert row.grabbed_until == 0
    assert [row.id for row in moved_rows(database).values()] == [first, third]
    assert database.count(PENDING) == 2


def test_a_key_of_a_func_that_does_not_keep_it_is_not_held(database: Database, target: Target) -> None:
    migrator = Migrator(database.url, target, Route(unique=Unique.IGNORE))
    for number in range(2):
        enqueue(database, "Worker::Mail", f"[{number}]".encode(), "key")
        migrator.move(read_chunk(migrator))
    assert (database.count(OUTBOX), database.count(PENDING)) == (2, 0)
    migrator.close()


def test_keys_are_released_by_their_holder_alone(database: Database, migrator: Migrator) -> None:
    for key in ("a", "b"):
        enqueue(database, "Worker::Mail", b"[]", key)
    for chunk in migrator.read():
        migrator.push(migrator.gone(chunk, migrator.move(chunk)))
    waiting = [enqueue(database, "Worker::Mail", b"[2]", key) for key in ("a", "b")]
    with migrator.source.reading() as connection:
        held = {waiter.job_id: waiter.holder for waiter in leasing.pending.waiters(connection, waiting)}
    with migrator.source.writing() as connection:
        for _ in range(2):
            leasing.pending.release(connection, held[waiting[0]])
    with migrator.source.reading() as connection:
        assert [waiter.job_id for waiter in leasing.pending.waiters(connection, waiting)] == [waiting[1]]


@pytest.mark.parametrize("database", ["innodb", "sqlite"], indirect=True)
def test_a_key_that_another_took_in_the_middle_of_a_move_undoes_it(database: Database, migrator: Migrator) -> None:
    """The primary key arbitrates; the next try finds the row waiting."""
    fill(database, 3, uniqkey="key-{n}")
    chunk = read_chunk(migrator)
    before = job_rows(database)
    database.execute(f"INSERT INTO {PENDING} VALUES ({func_id(database, 'Worker::Mail')}, 'key-2', 99, 0)")
    with pytest.MonkeyPatch.context() as patch:
        # As if the other's commit came just behind the look.
        patch.setattr("migrate.qudo.moving._waiting", lambda *_arguments: [])
        with pytest.raises(Contention):
            migrator.move(chunk)
    assert job_rows(database) == before
    assert (database.count(OUTBOX), database.count(CHUNK), database.count(PENDING)) == (0, 0, 1)
    assert len(migrator.move(chunk).waiting) == 1


# --- crashes and lost answers ---------------------------------------------------------------------------------------

#: Where a move that is a transaction can die; what stands before the commit never happened.
POINTS = {"move.locked": 0, "move.recorded": 0, "move.copied": 0, "move.deleted": 0, "move.committed": 3}


@pytest.mark.parametrize("database", ["innodb", "sqlite"], indirect=True)
@pytest.mark.parametrize("point", POINTS)
def test_a_move_that_dies_has_happened_whole_or_not_at_all(database: Database, migrator: Migrator, point: str) -> None:
    fill(database, 3, uniqkey="key-{n}")
    before = job_rows(database)
    chunk = read_chunk(migrator)
    with dying_at(point), pytest.raises(Died):
        migrator.move(chunk)
    moved = POINTS[point]
    assert [database.count(table) for table in (OUTBOX, PENDING)] == [moved, moved]
    assert database.count(CHUNK) == bool(moved)
    assert job_rows(database) == ([] if moved else before)


@pytest.mark.parametrize("fault", ["lose_request", "lose_reply"])
def test_a_commit_whose_answer_is_lost_is_unavailable_and_settled_by_looking(
    innodb: MariaDBDatabase, mariadb: MariaDB, target: Target, fault: str
) -> None:
    fill(innodb, 3)
    with Proxy(mariadb) as proxy:
        migrator = Migrator(proxy.url(innodb.url), target)
        chunk = read_chunk(migrator)
        getattr(proxy, fault)(MYSQL_COMMIT)
        with pytest.raises(Unavailable):
            migrator.move(chunk)
        proxy.wait_hit()
        migrator.forget()
        recovered = migrator.recover()
        if fault == "lose_reply":
            assert [(each.record.jobs, each.pushed.new) for each in recovered] == [(3, 3)]
            assert innodb.count() == 0
        else:
            assert recovered == []
            assert innodb.count() == 3
        migrator.close()


# --- without transactions: claimed, copied, deleted, ready ----------------------------------------------------------


class HalfMoved(NamedTuple := tuple[int, int]):  # type: ignore[misc]
    """Placeholder."""

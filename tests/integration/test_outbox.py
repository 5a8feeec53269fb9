"""The outbox and its chunk records: undelivered jobs are found by what they are, and recovery delivers each once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from redis import Redis
from sqlalchemy import update

from migrate.decision import Decision
from migrate.engine import crossed
from migrate.engine.delivery import count_undelivered
from migrate.errors import Contention, OpenTransactions
from migrate.jobs import Identity
from migrate.qudo import outbox, pending, tables
from migrate.qudo.outbox import Chunk, ChunkState
from migrate.qudo.source import LAST_LOOK_WAIT_SECONDS, Source
from migrate.resque import ledger, looking
from migrate.resque.target import Target
from tests.integration.stepping import Died, Gone, Migrator, at
from tests.qudo_app import enqueue, fill, job_ids
from tests.resque_app import Resque, ResqueWorker
from tests.servers import Database, MariaDBDatabase, RedisServer, wait_until

CHUNK = "qudo_migrate_chunk"
OUTBOX = "qudo_migrate_outbox"


@pytest.fixture
def target(redis_server: RedisServer, redis: Redis) -> Iterator[Target]:
    opened = Target.open(redis_server.url, "resque")
    yield opened
    opened.close()


@pytest.fixture
def migrator(database: Database, target: Target) -> Iterator[Migrator]:
    found = Migrator(database.url, target)
    yield found
    found.close()


def record(source: Source, *records: Chunk) -> None:
    with source.writing() as connection:
        for each in records:
            outbox.record_chunk(source, connection, each)


def records(source: Source) -> list[Chunk]:
    with source.reading() as connection:
        return outbox.chunks_in_order(connection)


def ready(batch: int, first: int = 0, last: int = 0) -> Chunk:
    return Chunk(batch, first, last, last - first + 1, ChunkState.READY)


def move_all(migrator: Migrator) -> list[Gone]:
    """Move all that is free, and push nothing."""
    return [migrator.gone(chunk, migrator.move(chunk)) for chunk in migrator.read()]


# --- records --------------------------------------------------------------------------------------------------------


def test_records_are_read_in_pages_by_their_key(migrator: Migrator) -> None:
    written = [ready(batch, first, first + 4) for batch in (1, 2, 2**63 - 1) for first in (0, 5, 10)]
    record(migrator.source, *reversed(written))
    found: list[Chunk] = []
    with migrator.source.reading() as connection:
        while page := outbox.chunks(connection, behind=found[-1] if found else None, limit=2):
            assert len(page) <= 2
            found += page
    assert found == written


def test_records_of_all_processes_are_met_in_the_order_of_their_moves(migrator: Migrator) -> None:
    written = [ready(batch, first) for first in (5, 0, 3) for batch in (7, 2, 9)]
    for each in written:
        record(migrator.source, each)
        now = time.time()
        wait_until(lambda now=now: time.time() > now + 0.001, 5, "SQLite's clock of milliseconds goes on")  # type: ignore[misc]
    assert records(migrator.source) == written


def test_a_record_notes_the_servers_clock(database: Database, migrator: Migrator) -> None:
    before = database.now()
    record(migrator.source, ready(1))
    with migrator.source.reading() as connection:
        moved_at = outbox.chunk_moved_at(connection, ready(1))
        assert outbox.chunk_moved_at(connection, ready(2)) is None
    assert moved_at is not None
    assert before <= moved_at <= database.now()


def test_only_the_records_named_are_dropped_and_only_ready_ones(migrator: Migrator) -> None:
    many = [ready(1, first, first) for first in range(450)]
    moving = Chunk(2, 0, 0, 1, ChunkState.MOVING)
    held = Chunk(3, 0, 0, 1, ChunkState.HELD)
    record(migrator.source, *many, moving, held, ready(4))
    for _ in range(2):
        outbox.discard_chunks(migrator.source, [*many, moving, held, ready(5)])
    assert records(migrator.source) == [moving, held, ready(4)]
    outbox.discard_chunks(migrator.source, [])


def test_decisions_are_stored_once_and_a_race_for_one_is_tried_again(migrator: Migrator) -> None:
    with migrator.source.writing() as connection:
        outbox.record_decisions(connection, {1: "one", 2: "two"})
    with migrator.source.writing() as connection:
        outbox.record_decisions(connection, {2: "two", 2**63 - 1: "three"})
        assert outbox.read_decisions(connection, [1, 2, 2**63 - 1, 4]) == {1: "one", 2: "two", 2**63 - 1: "three"}
    with pytest.raises(Contention), migrator.source.writing() as connection:
        connection.execute(tables.decision.insert().values(id=1, decision="one"))


def test_an_open_transaction_hides_its_record_from_all_but_the_last_look(
    innodb: MariaDBDatabase, target: Target
) -> None:
    migrator, other = Migrator(innodb.url, target), Migrator(innodb.url, target)
    with other.source.writing() as connection:
        outbox.record_chunk(other.source, connection, ready(1))
        assert records(migrator.source) == []
        with pytest.raises(OpenTransactions):
            migrator.delivery.undelivered()
    assert records(migrator.source) == [ready(1)]
    assert migrator.delivery.undelivered().deliverable == 1
    for each in (migrator, other):
        each.close()


def test_the_last_look_finds_what_is_committed_while_it_waits(innodb: MariaDBDatabase, target: Target) -> None:
    migrator, other = Migrator(innodb.url, target), Migrator(innodb.url, target)
    holding, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with other.source.writing() as connection:
            outbox.record_chunk(other.source, connection, ready(1))
            holding.set()
            let_go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(10)
    threading.Timer(LAST_LOOK_WAIT_SECONDS / 4, let_go.set).start()
    assert migrator.delivery.undelivered().deliverable == 1
    thread.join()
    for each in (migrator, other):
        each.close()


# --- rows -----------------------------------------------------------------------------------------------------------


def rows_in_lists(migrator: Migrator, max_bytes: int) -> list[list[int]]:
    (chunk,) = records(migrator.source)
    migrator.routing.refresh()
    with migrator.source.reading() as connection:
        lists = list(outbox.chunk_rows(migrator.source, connection, chunk, migrator.routing.names, max_bytes=max_bytes))
    return [[row.identity.seq for row in rows] for rows in lists]


def test_rows_of_a_chunk_come_in_lists_bounded_in_bytes(database: Database, migrator: Migrator) -> None:
    for size in (10, 10, 500, 10, 90, 10):
        enqueue(database, "Worker::Mail", b'"' + b"x" * (size - 2) + b'"')
    enqueue(database, "Worker::Mail", None)
    move_all(migrator)
    assert rows_in_lists(migrator, 100) == [[0, 1], [2], [3, 4], [5, 6]]
    assert rows_in_lists(migrator, 10_000) == [[0, 1, 2, 3, 4, 5, 6]]
    assert rows_in_lists(migrator, 1) == [[0], [1], [2], [3], [4], [5], [6]]


def test_rows_are_found_by_identity_and_by_the_id_that_they_had(database: Database, migrator: Migrator) -> None:
    fill(database, 3)
    (first,) = move_all(migrator)
    if isinstance(database, MariaDBDatabase):
        database.execute("ALTER TABLE job AUTO_INCREMENT = 1")
    else:
        database.execute("DELETE FROM sqlite_sequence")
    fill(database, 2, "Worker::Other")
    (second,) = move_all(migrator)
    source, names = migrator.source, migrator.routing.names
    with source.reading() as connection:
        found = outbox.rows_of_job(source, connection, 2, names)
        assert {(row.identity, row.job.func) for row in found} == {
            (first.jobs[1].identity, "Worker::Mail"),
            (second.jobs[1].identity, "Worker::Other"),
        }
        wanted = [second.jobs[0].identity, first.jobs[2].identity, Identity(1, 1)]
        assert {row.identity for row in outbox.rows_of(source, connection, wanted, names)} == set(wanted[:2])
        assert outbox.rows_of(source, connection, [], names) == []
        assert outbox.counts(connection) == (5, 5)


# --- recovery -------------------------------------------------------------------------------------------------------


def test_what_was_moved_and_not_pushed_is_handed_off_the_oldest_move_first(
    database: Database, migrator: Migrator, target: Target, resque: Resque
) -> None:
    others = [Migrator(database.url, target) for _ in range(3)]
    for number, other in enumerate(others):
        fill(database, 3, arg=f'{{"move":{number}}}')
        move_all(other)
    recovered = migrator.recover()
    assert [(each.record.jobs, each.pushed.new) for each in recovered] == [(3, 3)] * 3
    assert [job.args[0]["move"] for job in resque.queue("worker_mail")] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [each.pushed.new for each in migrator.recover()] == [0, 0, 0]
    for other in others:
        other.close()


def test_a_migrator_that_slept_meanwhile_pushes_nothing_twice(
    database: Database, migrator: Migrator, target: Target, resque: Resque
) -> None:
    fill(database, 5)
    sleeper = Migrator(database.url, target)
    (gone,) = move_all(sleeper)
    migrator.recover()
    ResqueWorker(resque).pop("worker_mail")
    assert sleeper.push(gone) == 0
    assert resque.ids() == [2, 3, 4, 5]
    sleeper.close()


def test_what_was_pushed_in_part_is_completed_in_order(
    database: Database, migrator: Migrator, target: Target, resque: Resque
) -> None:
    fill(database, 2500)
    (gone,) = move_all_in_one(database, target)
    with pytest.raises(Died), at("handoff.part", on_pass=2):
        migrator.push(gone)
    assert len(resque.ids()) == 2000
    migrator.forget()
    (recovered,) = migrator.recover()
    assert recovered.pushed.new == 500
    assert [job.id for job in resque.queue("worker_mail")] == list(range(1, 2501))


def move_all_in_one(database: Database, target: Target) -> list[Gone]:
    """Move all that is free as one chunk, by a migrator that then dies."""
    big = Migrator(database.url, target, chunk_rows=5000)
    big.chooser._size.rows = 5000
    gone = move_all(big)
    big.close()
    return gone


@pytest.mark.parametrize("point", ["handoff.begun", "handoff.part", "handoff.done", "recover.found"])
def test_a_recovery_that_dies_is_finished_by_the_next(
    database: Database, migrator: Migrator, resque: Resque, point: str
) -> None:
    fill(database, 3, "Worker::A")
    move_all(migrator)
    fill(database, 3, "Worker::B")
    move_all(migrator)
    for on_pass in (1, 2):
        migrator.forget()
        with contextlib.suppress(Died), at(point, on_pass=on_pass):
            migrator.recover()
    migrator.forget()
    migrator.recover()
    assert resque.ids() == [1, 2, 3, 4, 5, 6]


def test_what_redis_forgot_is_handed_off_again_and_nothing_else(
    database: Database, migrator: Migrator, redis: Redis, resque: Resque
) -> None:
    fill(database, 3)
    migrator.pass_over()
    durable = {key: redis.dump(key) for key in redis.scan_iter()}
    fill(database, 3)
    migrator.pass_over()
    assert len(resque.ids()) == 6

    redis.flushdb()
    for key, value in durable.items():
        redis.restore(key, 0, value)  # type: ignore[arg-type]
    assert [each.pushed.new for each in migrator.recover()] == [0, 3]
    assert resque.ids() == [1, 2, 3, 4, 5, 6]


def test_a_row_whose_decision_is_missing_is_said_and_stays(
    database: Database, migrator: Migrator, resque: Resque
) -> None:
    fill(database, 2, "Worker::A")
    fill(database, 2, "Worker::B")
    (gone,) = move_all(migrator)
    for key, text in database.rows("SELECT id, decision FROM qudo_migrate_decision"):
        if Decision.parse(text).func == "Worker::B":
            database.execute(f"DELETE FROM qudo_migrate_decision WHERE id = {key}")
    migrator.recover()
    assert resque.ids() == [1, 2]
    assert set(migrator.delivery.undeliverable) == {job.identity.text for job in gone.jobs[2:]}
    migrator.drop_records()
    assert database.count(CHUNK) == 1
    assert count_undelivered(migrator.source, migrator.target) == 2


def test_copies_that_are_still_moving_are_not_handed_off(database: Database, migrator: Migrator, redis: Redis) -> None:
    fill(database, 3)
    move_all(migrator)
    for state in (ChunkState.MOVING, ChunkState.DELETING, ChunkState.HELD):
        with migrator.source.writing() as connection:
            connection.execute(update(tables.chunk).values(state=int(state)))
        if database.transactional or state is ChunkState.HELD:
            assert migrator.recover() == []
            assert redis.keys("*queue*") == []


# --- dropping records -----------------------------------------------------------------------------------------------


def test_records_go_once_all_their_bits_are_seen_and_durable(database: Database, migrator: Migrator) -> None:
    fill(database, 3)
    migrator.pass_over()
    assert database.count(CHUNK) == 1
    migrator.recover()
    migrator.drop_records()
    assert (database.count(CHUNK), database.count(OUTBOX)) == (0, 3)


def test_a_record_stays_when_redis_has_forgotten_since_it_was_met(
    database: Database, migrator: Migrator, redis: Redis, resque: Resque
) -> None:
    """The fence looks again, over its own connection: what memory says doesn't count."""
    fill(database, 3)
    before = {key: redis.dump(key) for key in redis.scan_iter()}
    migrator.pass_over()
    migrator.recover()
    redis.flushdb()
    for key, value in before.items():
        redis.restore(key, 0, value)  # type: ignore[arg-type]
    migrator.drop_records()
    assert database.count(CHUNK) == 1
    assert [each.pushed.new for each in migrator.recover()] == [3]
    assert resque.ids() == [1, 2, 3]


@pytest.mark.parametrize("point", ["fence.proved", "chunks.dropped"])
def test_dying_around_the_drop_loses_nothing(
    database: Database, migrator: Migrator, resque: Resque, point: str
) -> None:
    fill(database, 3)
    migrator.pass_over()
    migrator.recover()
    with pytest.raises(Died), at(point):
        migrator.drop_records()
    migrator.forget()
    migrator.recover()
    migrator.drop_records()
    assert database.count(CHUNK) == 0
    assert resque.ids() == [1, 2, 3]


# --- records made anew, after a Redis was lost ----------------------------------------------------------------------


@pytest.mark.parametrize("delivered", [[], [0, 1, 2], [2, 3, 5], [0, 2, 4, 6, 8], [9], list(range(10))])
def test_rebuilt_records_stand_for_exactly_the_rows_that_redis_lacks(
    database: Database, migrator: Migrator, resque: Resque, delivered: Sequence[int]
) -> None:
    """Bits of other rows may stand between them: of a func that wasn't paused, or of an old copy of Redis."""
    fill(database, 10)
    (gone,) = move_all(migrator)
    batch = gone.jobs[0].identity.batch
    migrator.push(Gone([gone.jobs[seq] for seq in delivered], gone.held))
    bits = ledger.delivered(migrator.target, batch, 0, 65_535)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "ROWS_PER_REBUILT_CHUNK", 3)
        lacking = outbox.rebuild_chunks(migrator.source, batch, lambda seq: seq not in bits, ChunkState.READY)
    assert lacking == 10 - len(delivered)
    assert count_undelivered(migrator.source, migrator.target) == lacking
    migrator.forget()
    assert sum(each.pushed.new for each in migrator.recover()) == lacking
    assert resque.ids() == list(range(1, 11))
    assert count_undelivered(migrator.source, migrator.target) == 0


# --- uniqkeys of jobs that are over ---------------------------------------------------------------------------------


@pytest.fixture
def waiting(database: Database, migrator: Migrator, monkeypatch: pytest.MonkeyPatch) -> Identity:
    """The identity of a job that crossed; a second one waits for its key."""
    monkeypatch.setattr(looking, "SECOND_LOOK_SECONDS", 0.0)
    enqueue(database, "Worker::Mail", b"[1]", "key")
    (gone,) = move_all(migrator)
    migrator.push(gone)
    enqueue(database, "Worker::Mail", b"[2]", "key")
    return gone.jobs[0].identity


def test_a_key_is_freed_once_its_job_is_found_nowhere(migrator: Migrator, waiting: Identity, resque: Resque) -> None:
    assert migrator.release() == set()
    ResqueWorker(resque).pop("worker_mail")
    assert migrator.release() == {waiting}
    assert migrator.release() == set()
    with migrator.source.reading() as connection:
        assert pending.waiters(connection, [2]) == []


def test_a_key_whose_job_was_not_handed_off_is_kept(database: Database, migrator: Migrator) -> None:
    enqueue(database, "Worker::Mail", b"[1]", "key")
    move_all(migrator)
    enqueue(database, "Worker::Mail", b"[2]", "key")
    assert migrator.release() == set()


def test_a_key_is_kept_when_redis_forgets_its_job_during_the_look(
    migrator: Migrator, waiting: Identity, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found nowhere, and will be handed off again."""
    find = crossed.find

    def forget_and_find(*arguments: object) -> object:
        for key in redis.keys("resque:qudo_migrate:ledger:*") + redis.keys("resque:queue*"):
            redis.delete(key)
        return find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(crossed, "find", forget_and_find)
    assert migrator.release() == set()
    assert sum(each.pushed.new for each in migrator.recover()) == 1


def test_jobs_that_wait_for_their_key_cross_one_after_the_other(
    database: Database, migrator: Migrator, waiting: Identity, resque: Resque
) -> None:
    assert migrator.pass_over() == 0
    assert job_ids(database) == [2]
    ResqueWorker(resque).pop("worker_mail")
    migrator.release()
    assert migrator.pass_over() == 1
    assert resque.ids() == [2]

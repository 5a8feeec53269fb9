"""The move by itself: rows leave `job` whole or not at all, those that changed stay, and a crash leaves no doubt."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from migrate import failpoints
from migrate.config import Route, Unique
from migrate.decision import Decision
from migrate.engine.choosing import Prepared
from migrate.errors import Contention, Unavailable
from migrate.jobs import Identity
from migrate.qudo import leasing, outbox, pending
from migrate.qudo.moving import Moved
from migrate.qudo.outbox import Chunk, ChunkState
from migrate.qudo.picking import among, by_id
from migrate.qudo.serializers import BytesMode, Serializer
from migrate.qudo.source import Source
from migrate.qudo.tables import MOVE_LEASE
from migrate.qudo.turns import Turn
from migrate.resque.target import Target
from tests.integration.stepping import Died, Migrator, at, empty
from tests.qudo_app import Outcome, QudoWorker, enqueue, fill, func_id, job_ids, job_rows
from tests.qudo_app import QudoJob as QudoWorkerJob
from tests.qudo_app.rows import JobRow
from tests.resque_app import Resque
from tests.servers import Database, MariaDB, MariaDBDatabase, Proxy, RedisServer
from tests.servers.proxy import MYSQL_COMMIT

OUTBOX = "qudo_migrate_outbox"
CHUNK = "qudo_migrate_chunk"
PENDING = "qudo_migrate_pending"


@pytest.fixture(scope="module")
def kept_innodb(mariadb: MariaDB) -> Iterator[MariaDBDatabase]:
    database = mariadb.create_database("InnoDB")
    yield database
    database.drop()


@pytest.fixture(scope="module")
def kept_myisam(mariadb: MariaDB) -> Iterator[MariaDBDatabase]:
    database = mariadb.create_database("MyISAM")
    yield database
    database.drop()


@pytest.fixture
def innodb(kept_innodb: MariaDBDatabase) -> MariaDBDatabase:
    """One database for all these tests, emptied for each."""
    empty(kept_innodb)
    return kept_innodb


@pytest.fixture
def myisam(kept_myisam: MariaDBDatabase) -> MariaDBDatabase:
    """One database for all these tests, emptied for each."""
    empty(kept_myisam)
    return kept_myisam


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
    keys: list[str | bytes | None] = [
        "key",
        None,
        "鮎",
        b"caf\xe9" if database.engine == "MyISAM" else "é",
        "",
        "k" * 255,
    ]
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


@pytest.mark.parametrize("limit", [4, 30, 50, 99, 100, 101, 250])
def test_a_server_that_cuts_joined_rows_short_is_asked_for_fewer(
    innodb: MariaDBDatabase, target: Target, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers take about 33 bytes here; a limit of less than one row's lets nothing move, and nothing is lost."""
    monkeypatch.setattr("migrate.qudo.source.AGGREGATE_BYTES", limit)
    with contextlib.closing(Migrator(innodb.url, target)) as migrator:
        fill(innodb, 9)
        chunk = read_chunk(migrator)
        CHANGES["priority"](innodb, 5)
        moved = migrator.move(chunk)
    whole = max(len(each.candidate.row.header) + 2 for each in chunk)
    assert moved.seqs == ({0, 1, 2, 3, 5, 6, 7, 8} if limit >= whole else frozenset())
    assert len(job_ids(innodb)) == 9 - len(moved.seqs)


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

    assert [(waiter.job_id, waiter.holder) for waiter in moved.waiting] == [
        (second, Identity(chunk[0].job.identity.batch, 0))
    ]
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
        held = {waiter.job_id: waiter.holder for waiter in pending.waiters(connection, waiting)}
    with migrator.source.writing() as connection:
        for _ in range(2):
            pending.release(connection, held[waiting[0]])
    with migrator.source.reading() as connection:
        assert [waiter.job_id for waiter in pending.waiters(connection, waiting)] == [waiting[1]]


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
    with pytest.raises(Died), at(point):
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


# --- moves that overlap ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False])
def test_moves_that_overlap_commit_in_their_order_or_not_at_all(
    innodb: MariaDBDatabase, target: Target, *, commits: bool
) -> None:
    """None waits for a lock of another, though they delete neighbours and write into one batch."""

    def move(chunk: list[Prepared], turn: Turn) -> Moved:
        try:
            turn.begin()
            moved: Moved = overlapping.move(chunk, turn)
            turn.committed()
            return moved
        finally:
            turn.ended()

    both_deleted = threading.Event()
    with (
        contextlib.closing(Migrator(innodb.url, target, chunk_rows=3)) as overlapping,
        ThreadPoolExecutor(2) as threads,
    ):
        fill(innodb, 1)
        overlapping.move(read_chunk(overlapping))  # so the decision is stored
        fill(innodb, 6)
        front = Turn()
        front.recorded()
        one = Turn(front)
        with at("move.deleted", both_deleted.set, on_pass=2):
            chunks = overlapping.read()
            moves = [threads.submit(move, *each) for each in zip(chunks, (one, Turn(one)), strict=True)]
            try:
                assert both_deleted.wait(10)
                assert (innodb.count(), innodb.count(OUTBOX)) == (6, 1)
                if commits:
                    front.committed()
            finally:
                front.ended()
            if commits:
                assert [len(each.result().seqs) for each in moves] == [3, 3]
                with overlapping.source.reading() as connection:
                    in_order = [(each.batch, each.first_seq) for each in outbox.chunks_in_order(connection)]
                assert in_order[1:] == [(chunk[0].job.identity.batch, chunk[0].candidate.seq) for chunk in chunks]
            else:
                assert all(isinstance(each.exception(), Contention) for each in moves)
            assert (innodb.count(), innodb.count(OUTBOX)) == ((0, 7) if commits else (6, 1))


# --- without transactions: claimed, copied, deleted, ready ----------------------------------------------------------


@pytest.fixture
def myisam_migrator(myisam: MariaDBDatabase, target: Target) -> Iterator[Migrator]:
    found = Migrator(myisam.url, target)
    yield found
    found.close()


#: Where a move dies that leaves its chunk in this state.
DIED_AT = {ChunkState.MOVING: "leasing.copied", ChunkState.DELETING: "leasing.deleting"}


def copied(migrator: Migrator, database: Database, state: ChunkState = ChunkState.MOVING) -> list[Prepared]:
    """A move that died with its rows claimed and copied, and nothing deleted yet."""
    chunk = read_chunk(migrator)
    with pytest.raises(Died), at(DIED_AT[state]):
        migrator.move(chunk)
    (record,) = records(migrator.source)
    assert (record.state, record.jobs) == (state, len(chunk))
    assert {row.grabbed_until for row in job_rows(database)} == {MOVE_LEASE}
    return chunk


def assert_settled(migrator: Migrator, database: Database) -> None:
    """Nothing is half done, and settling once more finds nothing."""
    assert all(record.state is ChunkState.READY for record in records(migrator.source))
    assert database.count("job", f"grabbed_until = {MOVE_LEASE}") == 0
    before = (job_rows(database), moved_rows(database), records(migrator.source))
    assert leasing.settle(migrator.source) == 0
    assert (job_rows(database), moved_rows(database), records(migrator.source)) == before


def reenqueue(database: Database, job_id: int) -> None:
    """What a worker that outlived its lease does, or one of another database that picked this one: by id alone."""
    worker = QudoWorker([database], ["Worker::Mail"], max_retries=3)
    worker.reenqueue(QudoWorkerJob(0, job_id, None, None, 1, 0, 0, 0))
    worker.close()


def reenqueue_and_grab(database: Database, job_id: int) -> None:
    reenqueue(database, job_id)
    grab(database, job_id)


def test_claimed_rows_without_a_copy_are_freed(myisam: MariaDBDatabase, myisam_migrator: Migrator) -> None:
    fill(myisam, 5)
    myisam.execute("UPDATE job SET grabbed_until = 5 WHERE id = 2")
    chunk = read_chunk(myisam_migrator)
    grab(myisam, 4)
    with pytest.raises(Died), at("leasing.claimed"):
        myisam_migrator.move(chunk)
    assert myisam.count("job", f"grabbed_until = {MOVE_LEASE}") == 4

    assert leasing.settle(myisam_migrator.source) == 4

    assert [row.id for row in job_rows(myisam) if row.grabbed_until == 0] == [1, 2, 3, 5]
    assert myisam.count(OUTBOX) == 0
    assert_settled(myisam_migrator, myisam)


def test_copies_whose_rows_are_still_claimed_are_finished(myisam: MariaDBDatabase, myisam_migrator: Migrator) -> None:
    fill(myisam, 3, uniqkey="key-{n}")
    copied(myisam_migrator, myisam)
    assert leasing.settle(myisam_migrator.source) == 3
    assert job_rows(myisam) == []
    assert [row.id for row in moved_rows(myisam).values()] == [1, 2, 3]
    assert [record.jobs for record in records(myisam_migrator.source)] == [3]
    assert myisam.count(PENDING) == 3
    assert_settled(myisam_migrator, myisam)


#: What can have become of a row by the time somebody settles, and whether Qudo has the job then. (Before our DELETE
#: is on record it always has, or has done it.)
FATES: dict[str, tuple[Callable[[Database, int], object], bool]] = {
    "deleted by us": (lambda database, key: database.execute(f"DELETE FROM job WHERE id = {key}"), False),
    "taken back and free": (reenqueue, True),
    "taken back and grabbed": (reenqueue_and_grab, True),
    "taken back and its lease is over": (
        lambda database, key: database.execute(f"UPDATE job SET grabbed_until = 1 WHERE id = {key}"),
        True,
    ),
    "replaced by another arg": (replace, False),
}


@pytest.mark.parametrize(
    ("arg", "key"),
    [(b'{"n":2}', "key"), (b"", ""), (None, None), (bytes(range(128, 256)), "caf\xe9")],
    ids=["usual", "empty", "null", "bytes"],
)
@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("state", DIED_AT)
def test_a_copy_becomes_ready_unless_qudo_has_the_job(
    myisam: MariaDBDatabase, target: Target, state: ChunkState, fate: str, arg: bytes | None, key: str | None
) -> None:
    migrator = Migrator(myisam.url, target, Route(serializer=Serializer.RAW, bytes=BytesMode.LATIN1))
    for number, (an_arg, a_key) in enumerate([(b"1", "first"), (arg, key), (b"3", None)]):
        enqueue(myisam, "Worker::Mail", an_arg, None if a_key is None else a_key.encode("latin-1"), priority=9 - number)
    chunk = [each for part in migrator.read() for each in part]
    with pytest.raises(Died), at(DIED_AT[state]):
        migrator.move(chunk)
    act, qudo_has_it = FATES[fate]
    qudo_has_it |= state is ChunkState.MOVING
    act(myisam, 2)
    left = job_rows(myisam, "job.id = 2")

    assert leasing.settle(migrator.source) == 3

    assert job_rows(myisam) == left
    assert [row.id for row in moved_rows(myisam).values()] == ([1, 3] if qudo_has_it else [1, 2, 3])
    (record,) = records(migrator.source)
    assert record.jobs == (2 if qudo_has_it else 3)
    keys = {bytes(value) for (value,) in myisam.rows(f"SELECT CAST(pending_key AS BINARY) FROM {PENDING}")}
    assert keys == ({b"first"} if key is None or qudo_has_it else {b"first", key.encode("latin-1")})
    assert_settled(migrator, myisam)
    migrator.close()


@pytest.mark.parametrize("column", ["func_id = 77", "uniqkey = 'another'", "arg = 'another'", "arg = NULL", "arg = ''"])
def test_a_row_of_another_job_under_the_same_id_does_not_count(
    myisam: MariaDBDatabase, myisam_migrator: Migrator, column: str
) -> None:
    """Ids come back: ours was deleted, the counter was set back, and an app has enqueued since."""
    enqueue(myisam, "Worker::Mail", b"[1]", "key")
    copied(myisam_migrator, myisam, ChunkState.DELETING)
    myisam.execute(f"UPDATE job SET grabbed_until = 0, {column}")
    other = job_rows(myisam)
    leasing.settle(myisam_migrator.source)
    assert job_rows(myisam) == other
    assert [row.arg for row in moved_rows(myisam).values()] == [b"[1]"]
    assert_settled(myisam_migrator, myisam)


def test_where_qudo_took_back_all_rows_nothing_is_left_of_the_move(
    myisam: MariaDBDatabase, myisam_migrator: Migrator
) -> None:
    fill(myisam, 3, uniqkey="key-{n}")
    copied(myisam_migrator, myisam)
    for key in (1, 2, 3):
        reenqueue(myisam, key)
    leasing.settle(myisam_migrator.source)
    assert [(row.id, row.retry_cnt) for row in job_rows(myisam)] == [(1, 1), (2, 1), (3, 1)]
    assert [myisam.count(table) for table in (OUTBOX, CHUNK, PENDING)] == [0, 0, 0]
    assert_settled(myisam_migrator, myisam)


def test_a_job_that_qudo_took_back_and_finished_before_somebody_settled_is_not_handed_off(
    myisam: MariaDBDatabase, myisam_migrator: Migrator
) -> None:
    """With several databases each re-enqueue picks one at random, so that half of them hit another database's row."""
    fill(myisam, 1)
    copied(myisam_migrator, myisam)  # its DELETE isn't on record yet, so nobody but Qudo can have deleted the row
    reenqueue(myisam, 1)
    with contextlib.closing(QudoWorker([myisam], ["Worker::Mail"])) as worker:
        assert worker.work_once()
    myisam_migrator.forget()
    assert sum(each.pushed.new for each in myisam_migrator.recover()) == 0


LEASING_POINTS = tuple(point for point in failpoints.POINTS if point.startswith("leasing."))


@pytest.mark.parametrize("point", LEASING_POINTS)
def test_whatever_the_point_of_death_the_next_pass_hands_each_job_off_once(
    myisam: MariaDBDatabase, myisam_migrator: Migrator, resque: Resque, point: str
) -> None:
    fill(myisam, 5, uniqkey="key-{n}")
    with pytest.raises(Died), at(point):
        myisam_migrator.move(read_chunk(myisam_migrator))
    myisam_migrator.forget()
    myisam_migrator.pass_over()
    assert resque.ids() == [1, 2, 3, 4, 5]
    assert [job.id for job in resque.queue("worker_mail")] == [1, 2, 3, 4, 5]
    assert (myisam.count(), myisam.count(PENDING)) == (0, 5)
    assert_settled(myisam_migrator, myisam)


@pytest.mark.parametrize("point", LEASING_POINTS)
def test_another_that_had_read_the_rows_of_a_migrator_that_dies_moves_none_of_them_twice(
    myisam: MariaDBDatabase, myisam_migrator: Migrator, target: Target, resque: Resque, point: str
) -> None:
    """It waits for the lock while the first one moves, gets it by that one's death, and finds the rows claimed."""
    fill(myisam, 5)  # a uniqkey would keep the second one from moving them
    with contextlib.closing(Migrator(myisam.url, target)) as other:
        chunk = read_chunk(other)
        with pytest.raises(Died), at(point):
            myisam_migrator.move(read_chunk(myisam_migrator))
        myisam_migrator.forget()
        other.push(other.gone(chunk, other.move(chunk)))
        other.forget()
        other.pass_over()
    assert resque.ids() == [1, 2, 3, 4, 5]
    assert (myisam.count(), myisam.count(PENDING), myisam.count(OUTBOX)) == (0, 0, 5)
    assert_settled(myisam_migrator, myisam)


@pytest.mark.parametrize("point", LEASING_POINTS)
def test_a_row_that_qudo_takes_back_in_the_middle_of_a_move_is_qudos(
    myisam: MariaDBDatabase, myisam_migrator: Migrator, resque: Resque, point: str
) -> None:
    fill(myisam, 3)
    chunk = read_chunk(myisam_migrator)
    with at(point, lambda: reenqueue(myisam, 2)):
        moved = myisam_migrator.move(chunk)
    myisam_migrator.push(myisam_migrator.gone(chunk, moved))
    deleted_before = point in ("leasing.deleted", "leasing.ready")
    assert resque.ids() == ([1, 2, 3] if deleted_before else [1, 3])
    assert [(row.id, row.grabbed_until, row.retry_cnt) for row in job_rows(myisam)] == (
        [] if deleted_before else [(2, 0, 1)]
    )
    assert_settled(myisam_migrator, myisam)
    myisam_migrator.forget()
    myisam_migrator.pass_over()
    assert resque.ids() == [1, 2, 3]


def test_a_row_that_qudo_deletes_under_a_claim_undoes_the_move(
    myisam: MariaDBDatabase, myisam_migrator: Migrator, resque: Resque
) -> None:
    """A worker that outlived its lease has done the job."""
    fill(myisam, 3)
    chunk = read_chunk(myisam_migrator)
    with (
        at("leasing.claimed", lambda: myisam.execute("DELETE FROM job WHERE id = 2")),
        pytest.raises(Contention),
    ):
        myisam_migrator.move(chunk)
    assert myisam.count(OUTBOX) == 0
    myisam_migrator.forget()
    myisam_migrator.pass_over()
    assert resque.ids() == [1, 3]


def test_another_job_that_got_the_id_of_a_claimed_row_stays(
    myisam: MariaDBDatabase, myisam_migrator: Migrator, resque: Resque
) -> None:
    fill(myisam, 3)
    chunk = read_chunk(myisam_migrator)
    with at("leasing.claimed", lambda: replace(myisam, 2)):
        moved = myisam_migrator.move(chunk)
    myisam_migrator.push(myisam_migrator.gone(chunk, moved))
    assert resque.ids() == [1, 3]
    assert [(row.id, row.arg) for row in job_rows(myisam)] == [(2, b"[0]")]


def test_only_one_migrator_at_a_time_moves_without_transactions(
    myisam: MariaDBDatabase, myisam_migrator: Migrator, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One could take the other's claimed rows for a dead one's."""
    monkeypatch.setattr(leasing, "LOCK_WAIT_SECONDS", 0)
    fill(myisam, 3)
    other = Migrator(myisam.url, target)
    chunk = read_chunk(myisam_migrator)

    def meanwhile() -> None:
        for action in (lambda: leasing.settle(other.source), lambda: other.move(read_chunk(other))):
            with pytest.raises(Contention, match="another migrator"):
                action()

    fill(myisam, 1)
    with at("leasing.copied", meanwhile):
        assert myisam_migrator.move(chunk).seqs == {0, 1, 2}
    assert leasing.settle(other.source) == 0
    other.close()


def test_the_lock_of_a_connection_that_died_is_free(
    myisam: MariaDBDatabase, myisam_migrator: Migrator, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "LOCK_WAIT_SECONDS", 1)
    fill(myisam, 3)
    other = Migrator(myisam.url, target)
    chunk = read_chunk(myisam_migrator)

    def killed() -> None:
        holder = myisam.value(f"SELECT IS_USED_LOCK('qudo_migrate.{myisam.name}')")
        myisam.execute(f"KILL {holder}")

    with at("leasing.copied", killed), pytest.raises(Unavailable):
        myisam_migrator.move(chunk)
    assert leasing.settle(other.source) == 3
    assert_settled(other, myisam)
    other.close()


# --- SQL that gives each row its own value, where MySQL has no window functions -------------------------------------


@pytest.fixture(scope="module")
def numbers(mariadb: MariaDB) -> Iterator[Source]:
    """A database with a table of numbers."""
    database = mariadb.create_database("InnoDB")
    database.execute("CREATE TABLE numbers (id BIGINT UNSIGNED PRIMARY KEY)")
    source = Source("main", database.url)
    yield source
    source.close()
    database.drop()


def picked(source: Source, ids: Sequence[int], values: Sequence[int]) -> dict[int, int]:
    """What the SQL gives each row of a table that holds these ids and others beside them."""
    others = {key + step for key in ids for step in (-1, 1) if key + step < 2**64}
    with source.writing() as connection:
        connection.execute(text("DELETE FROM numbers"))
        rows = ", ".join(f"({key})" for key in {*ids, *others})
        connection.execute(text(f"INSERT INTO numbers VALUES {rows}"))
        query = select(text("id"), by_id(source, ids, values, "numbers.id")).select_from(text("numbers"))
        found = connection.execute(query.where(among(ids, "numbers.id"))).all()
    return {int(key): int(value) for key, value in found}


NUMBERS = st.integers(1, 2**64 - 1) | st.integers(2**53 - 3, 2**53 + 9) | st.integers(2**63 - 5, 2**63 + 5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), ids=st.lists(NUMBERS | st.integers(1, 40), min_size=1, max_size=30, unique=True).map(sorted))
def test_mysql_gives_each_id_its_value(numbers: Source, data: st.DataObject, ids: list[int]) -> None:
    first = data.draw(st.integers(0, 2**63 - 1 - 100))
    values = data.draw(
        st.lists(st.integers(0, 2**63 - 1), min_size=len(ids), max_size=len(ids))
        | st.just([first] * len(ids))
        | st.just(list(range(first, first + len(ids))))
        | st.just([*range(first, first + len(ids) - 1), first + 50])
    )
    assert picked(numbers, ids, values) == dict(zip(ids, values, strict=True))


def test_mysql_gives_each_of_a_full_list_of_ids_its_value(numbers: Source) -> None:
    ids = list(range(2**40, 2**40 + 2 * 900, 2))
    for values in (list(range(900)), list(range(900, 0, -1)), [7] * 900):
        assert picked(numbers, ids, values) == dict(zip(ids, values, strict=True))

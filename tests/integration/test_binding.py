"""One source, one target: both know each other before anything is written, and a wrong pair is said and left alone."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from migrate.engine import binding
from migrate.engine.binding import Beat, bind, check
from migrate.errors import TargetMismatch, Unavailable
from migrate.qudo import binding as source_side
from migrate.qudo import ddl
from migrate.qudo.source import Source
from migrate.resque import binding as target_side
from migrate.resque.handoff import BEHIND_SECONDS
from migrate.resque.keys import Keys
from migrate.resque.target import Target
from tests.integration.snapshots import nothing_written
from tests.servers import Database, RedisServer, SQLiteDatabase, wait_until

KEYS = Keys("resque")


@pytest.fixture
def target(redis_server: RedisServer, redis: Redis) -> Iterator[Target]:
    opened = Target.open(redis_server.url, "resque")
    yield opened
    opened.close()


@pytest.fixture
def other_sqlite(tmp_path: Path) -> Iterator[SQLiteDatabase]:
    database = SQLiteDatabase(tmp_path / "other.db")
    yield database
    database.close()


@contextlib.contextmanager
def source_of(database: Database, name: str = "main") -> Iterator[Source]:
    source = Source(name, database.url)
    yield source
    source.close()


def held_by(source: Source) -> source_side.Binding:
    with source.reading() as connection:
        return source_side.read(connection)


def side_by_side(*actions: Callable[[], object]) -> list[BaseException]:
    """Run the actions in threads that start together; what they raised."""
    barrier = threading.Barrier(len(actions))
    failures: list[BaseException] = []

    def run(action: Callable[[], object]) -> None:
        barrier.wait()
        try:
            action()
        except BaseException as error:  # noqa: BLE001  shown in the test's thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


# --- the right pair -------------------------------------------------------------------------------------------------


def test_a_new_pair_is_bound_and_both_sides_remember(database: Database, target: Target, redis: Redis) -> None:
    with source_of(database) as source:
        target_id = bind(source, target)
        held = held_by(source)
        assert held.target_id == target_id == target_side.read_target_id(target)
        assert redis.hgetall(KEYS.sources) == {b"main": (held.source_id or "").encode()}
        assert held.beat == 0
        check(source, target)


def test_binding_again_changes_nothing(database: Database, target: Target, redis: Redis) -> None:
    with source_of(database) as source:
        target_id = bind(source, target)
        with nothing_written(database, redis):
            assert bind(source, target) == target_id


def test_a_look_at_a_new_pair_writes_nothing(database: Database, target: Target, redis: Redis) -> None:
    with source_of(database) as source, nothing_written(database, redis):
        check(source, target)


def test_several_sources_share_a_target(
    innodb: Database, myisam: Database, sqlite: Database, target: Target, redis: Redis
) -> None:
    ids = set()
    for name, database in (("a", innodb), ("b", myisam), ("c", sqlite)):
        with source_of(database, name) as source:
            ids.add(bind(source, target))
    assert len(ids) == 1
    sources = redis.hgetall(KEYS.sources)
    assert set(sources) == {b"a", b"b", b"c"}
    assert len(set(sources.values())) == 3


def test_processes_that_bind_at_the_same_moment_agree(database: Database, target: Target, redis: Redis) -> None:
    ids: list[str] = []

    def migrate() -> None:
        with source_of(database) as source:
            ids.append(bind(source, target))

    assert side_by_side(*[migrate] * 6) == []
    assert len(ids) == 6
    assert len(set(ids)) == 1
    with source_of(database) as source:
        held = held_by(source)
    assert (held.target_id, redis.hgetall(KEYS.sources)) == (ids[0], {b"main": (held.source_id or "").encode()})


class Crashed(Exception):
    """The process died here."""


POINTS = ("binding.created", "binding.registered", "binding.bound")


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_between_any_two_steps_is_mended_by_the_next_try(
    database: Database, target: Target, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def crash(name: str) -> None:
        if name == point:
            raise Crashed

    with source_of(database) as source:
        with monkeypatch.context() as patch:
            patch.setattr(binding, "reach", crash)
            with pytest.raises(Crashed):
                bind(source, target)
        before = held_by(source)
        target_id = bind(source, target)
        after = held_by(source)
    assert after.target_id == target_id
    assert before.source_id in (None, after.source_id)
    assert before.target_id in (None, target_id)


def test_a_crash_after_redis_was_claimed_leaves_a_target_that_can_be_bound(sqlite: Database, target: Target) -> None:
    claimed = target_side.claim(target)
    with source_of(sqlite) as source:
        assert bind(source, target) == claimed


# --- a wrong pair ---------------------------------------------------------------------------------------------------


def refused(source: Source, target: Target, words: str, *sides: Database | Redis) -> None:
    """Both a look and a run say so, name the source and what to do, and write nothing."""
    for action in (check, bind):
        with nothing_written(*sides), pytest.raises(TargetMismatch, match=words) as caught:
            action(source, target)
        assert caught.value.message.startswith(f"source {source.name}: ")
        assert caught.value.advice
        assert caught.value.exit_status == 2


def test_a_renamed_source_is_refused(database: Database, target: Target, redis: Redis) -> None:
    with source_of(database) as source:
        bind(source, target)
    with source_of(database, "renamed") as source:
        refused(source, target, "knows this database under the name main", database, redis)


def test_two_sources_under_one_name_are_refused(
    sqlite: Database, other_sqlite: SQLiteDatabase, target: Target, redis: Redis
) -> None:
    with source_of(sqlite) as source:
        bind(source, target)
    with source_of(other_sqlite) as other:
        with pytest.raises(TargetMismatch, match="knows another database under this name"):
            bind(other, target)
        refused(other, target, "knows another database under this name", other_sqlite, redis)


def test_a_copy_of_a_source_under_a_name_of_its_own_is_refused(
    sqlite: SQLiteDatabase, target: Target, tmp_path: Path, redis: Redis
) -> None:
    """A restored backup has the same rows: what it holds has crossed already."""
    with source_of(sqlite) as source:
        bind(source, target)
    shutil.copy(sqlite.path, tmp_path / "copy.db")
    copy = Source("copy", f"sqlite:///{tmp_path / 'copy.db'}")
    refused(copy, target, "knows this database under the name main", redis)
    copy.close()


def test_another_redis_is_refused(database: Database, target: Target) -> None:
    with source_of(database) as source, RedisServer() as other_server:
        bind(source, target)
        other = Target.open(other_server.url, "resque")
        client = other_server.client()
        refused(source, other, "emptied, replaced, or another database or namespace", database, client)
        target_side.claim(other)
        refused(source, other, "belongs to another migration", database, client)
        other.close()


def test_another_namespace_is_refused(database: Database, target: Target, redis: Redis) -> None:
    with source_of(database) as source:
        bind(source, target)
        refused(source, target.in_namespace("other"), "another database or namespace", database, redis)


def test_an_emptied_redis_is_refused_until_a_person_has_decided(
    database: Database, target: Target, redis: Redis
) -> None:
    with source_of(database) as source:
        bind(source, target)
        redis.flushall()
        refused(source, target, "emptied", database, redis)


def test_a_redis_that_was_emptied_and_claimed_by_another_source_is_refused(
    sqlite: Database, other_sqlite: SQLiteDatabase, target: Target, redis: Redis
) -> None:
    with source_of(sqlite) as source, source_of(other_sqlite, "other") as other:
        bind(source, target)
        redis.flushall()
        bind(other, target)
        refused(source, target, "belongs to another migration", sqlite, redis)
        check(other, target)


@pytest.mark.parametrize(
    ("behind", "accepted"), [(-100, True), (0, True), (BEHIND_SECONDS, True), (BEHIND_SECONDS + 1, False)]
)
def test_a_redis_that_is_older_than_the_source_knows_is_refused(
    database: Database, target: Target, redis: Redis, behind: int, accepted: bool
) -> None:
    with source_of(database) as source:
        target_id = bind(source, target)
        newest = target_side.beat(target, target_id)
        source_side.remember_beat(source, newest)
        redis.set(KEYS.beat, newest - behind)
        if accepted:
            check(source, target)
        else:
            refused(source, target, f"it is {behind} s behind", database, redis)


def test_a_redis_without_its_beat_is_refused(sqlite: Database, target: Target, redis: Redis) -> None:
    with source_of(sqlite) as source:
        target_id = bind(source, target)
        source_side.remember_beat(source, target_side.beat(target, target_id))
        redis.delete(KEYS.beat)
        refused(source, target, "it has no beat", sqlite, redis)


# --- the beat -------------------------------------------------------------------------------------------------------


def test_a_beat_is_the_second_of_redis_and_reaches_redis_first(database: Database, target: Target) -> None:
    with source_of(database) as source:
        target_id = bind(source, target)
        before = target.now()
        Beat(target, source, target_id).once()
        held = held_by(source)
        assert before <= held.beat <= target.now()
        assert target_side.read_beat(target) == held.beat


def test_a_beat_never_goes_backwards(database: Database, target: Target, redis: Redis) -> None:
    """Redis's clock may be set back, and a slow migrator may come late."""
    with source_of(database) as source:
        target_id = bind(source, target)
        later = target.now() + 1000
        redis.set(KEYS.beat, later)
        assert target_side.beat(target, target_id) == later
        source_side.remember_beat(source, later)
        source_side.remember_beat(source, later - 500)
        assert held_by(source).beat == later


def test_beats_of_many_migrators_leave_the_newest(database: Database, target: Target) -> None:
    with source_of(database) as source:
        bind(source, target)

    def remember(numbers: range) -> None:
        with source_of(database) as mine:
            for number in numbers:
                source_side.remember_beat(mine, number)

    ranges = [range(1, 60, 4), range(2, 60, 4), range(59, 0, -4), range(60, 0, -4)]
    assert side_by_side(*(partial(remember, each) for each in ranges)) == []
    with source_of(database) as source:
        assert held_by(source).beat == 60


def test_a_beat_for_another_redis_is_refused_and_writes_nothing(sqlite: Database, target: Target, redis: Redis) -> None:
    with source_of(sqlite) as source:
        target_id = bind(source, target)
        redis.set(KEYS.target_id, "0123456789abcdef")
        with nothing_written(sqlite, redis), pytest.raises(TargetMismatch, match="belongs to another migration"):
            Beat(target, source, target_id).once()
        redis.flushall()
        with nothing_written(sqlite, redis), pytest.raises(TargetMismatch, match="emptied"):
            Beat(target, source, target_id).once()


def test_beats_go_on_while_a_source_is_at_work_and_over_an_outage(
    sqlite: Database, target: Target, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "BEAT_SECONDS", 0.01)
    beats: list[int] = []
    real = target_side.beat

    def sometimes_away(*arguments: object) -> int:
        beats.append(len(beats))
        if len(beats) in (3, 4):
            raise Unavailable("away")
        return real(target, held_by(source).target_id or "")

    monkeypatch.setattr(target_side, "beat", sometimes_away)
    with source_of(sqlite) as source:
        target_id = bind(source, target)
        with Beat(target, source, target_id):
            assert len(beats) >= 1
            wait_until(lambda: len(beats) > 6, 20, "beats")
        at_the_end = len(beats)
        assert "beat" not in {thread.name for thread in threading.enumerate()}
        assert len(beats) == at_the_end


def test_a_redis_that_is_away_at_the_first_beat_is_said_at_once(
    sqlite: Database, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: object) -> int:
        raise Unavailable("away")

    with source_of(sqlite) as source:
        target_id = bind(source, target)
        monkeypatch.setattr(target_side, "beat", away)
        with pytest.raises(Unavailable), Beat(target, source, target_id):
            pass


# --- our tables -----------------------------------------------------------------------------------------------------


def test_our_tables_are_made_once_by_processes_that_come_together(database: Database) -> None:
    def create() -> None:
        with source_of(database) as source:
            ddl.create_tables(source)

    assert side_by_side(*[create] * 5) == []
    with source_of(database) as source:
        assert ddl.lacking(source) == []

"""Looking for jobs in a Resque that is at work: whatever is there is found, each entry once, and no text deceives."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from migrate.jobs import Identity
from migrate.resque import looking
from migrate.resque.looking import PAGE_ENTRIES, Place, Sighting, Wanted, content_of
from migrate.resque.target import Target
from tests.resque_app import Resque, ResqueWorker
from tests.servers import RedisServer

FAR = 4_000_000_000


@pytest.fixture
def target(redis_server: RedisServer, redis: Redis) -> Iterator[Target]:
    opened = Target.open(redis_server.url, "resque")
    yield opened
    opened.close()


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look comes at once."""
    monkeypatch.setattr(looking, "SECOND_LOOK_SECONDS", 0.0)


def identity(number: int) -> Identity:
    return Identity(0xABCDEF, number)


def job(number: int, args: object = None, **extra: Any) -> dict[str, Any]:
    """A job with its identity; `args` tell jobs apart unless given."""
    return {
        "class": "Mail",
        "args": [number] if args is None else args,
        "qudo": {"source": "main", "id": number, "outbox": identity(number).text},
        **extra,
    }


def bare(args: object, **extra: Any) -> dict[str, Any]:
    """A job that has lost its identity on the way."""
    return {"class": "Mail", "args": args, **extra}


def text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def wanted(*numbers: int, args: object = None) -> list[Wanted]:
    return [Wanted(identity(number), content_of(text(job(number, args)))) for number in numbers]


def find(target: Target, jobs: Sequence[Wanted]) -> dict[int, Sighting]:
    return {found.seq: sighting for found, sighting in looking.find(target, jobs).items()}


def put(client: Redis, queue: str, *jobs: object) -> None:
    client.sadd("resque:queues", queue)
    client.rpush(f"resque:queue:{queue}", *map(text, jobs))


def put_delayed(client: Redis, second: int, *jobs: object) -> None:
    client.zadd("resque:delayed_queue_schedule", {str(second): second})
    client.rpush(f"resque:delayed:{second}", *map(text, jobs))


def put_failed(client: Redis, payload: object, **extra: Any) -> None:
    failure = {"failed_at": "…", "payload": payload, "error": "died", "backtrace": None, "worker": "w", **extra}
    client.rpush("resque:failed", text(failure))


def register(client: Redis, worker: str, payload: object) -> None:
    client.sadd("resque:workers", worker)
    client.set(f"resque:worker:{worker}", text({"queue": "mail", "run_at": "…", "payload": payload}))


# --- every place ----------------------------------------------------------------------------------------------------


def test_jobs_are_found_wherever_they_can_be(target: Target, redis: Redis) -> None:
    put_delayed(redis, FAR, job(1))
    put(redis, "mail", {"class": "Native", "args": []}, job(2))
    put(redis, "鮎 queue", job(3))
    register(redis, "host:1:*", job(4))
    put_failed(redis, job(5))
    register(redis, "host:2:*", {"class": "Native", "args": []})
    assert find(target, wanted(1, 2, 3, 4, 5, 6)) == {
        1: Sighting(Place.DELAYED, str(FAR), by_identity=True),
        2: Sighting(Place.QUEUED, "mail", by_identity=True),
        3: Sighting(Place.QUEUED, "鮎 queue", by_identity=True),
        4: Sighting(Place.WORKING, "host:1:*", by_identity=True),
        5: Sighting(Place.FAILED, "failed", by_identity=True),
    }


def test_in_an_empty_resque_nothing_is_found(target: Target, no_pause: None) -> None:
    assert find(target, wanted(1, 2)) == {}
    assert find(target, []) == {}


def test_names_that_are_no_utf8_are_looked_into(target: Target, redis: Redis) -> None:
    redis.sadd("resque:queues", b"caf\xe9")
    redis.rpush(b"resque:queue:caf\xe9", text(job(1)))
    redis.sadd("resque:workers", b"h\xf6st:1:*")
    redis.set(b"resque:worker:h\xf6st:1:*", text({"queue": "q", "payload": job(2)}))
    assert {number: each.place for number, each in find(target, wanted(1, 2)).items()} == {
        1: Place.QUEUED,
        2: Place.WORKING,
    }


def test_long_lists_are_read_to_their_end(target: Target, redis: Redis) -> None:
    for count in (PAGE_ENTRIES - 1, PAGE_ENTRIES, PAGE_ENTRIES + 1, 3 * PAGE_ENTRIES):
        redis.flushall()
        put(redis, "mail", *map(job, range(count)))
        found = find(target, wanted(*range(count)))
        assert found == dict.fromkeys(range(count), Sighting(Place.QUEUED, "mail", by_identity=True))


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"not json",
        b"{",
        b"null",
        b"[]",
        b"1",
        b'"text"',
        b'{"payload":null}',
        b'{"payload":[{"class":"A"}]}',
        b'{"class":"Mail","args":["caf\xe9"]}',
        b"\xff\xfe",
        b'{"qudo":null}',
        b'{"qudo":{"outbox":null}}',
        b'{"qudo":{"outbox":7}}',
        b'{"qudo":{"outbox":"not an identity"}}',
        b'{"args":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"args":[1e999]}',
        b'{"args":["\\ud800"]}',
    ],
    ids=lambda odd: repr(odd[:40]),
)
def test_whatever_else_stands_in_the_lists_hides_nothing(
    target: Target, redis: Redis, no_pause: None, odd: bytes
) -> None:
    for key in ("resque:queue:mail", f"resque:delayed:{FAR}", "resque:failed"):
        redis.rpush(key, odd)
    put(redis, "mail", job(1))
    put_delayed(redis, FAR, job(2))
    put_failed(redis, job(3))
    for key in ("resque:queue:mail", f"resque:delayed:{FAR}", "resque:failed"):
        redis.rpush(key, odd)
    redis.sadd("resque:workers", "a", "b")
    redis.set("resque:worker:a", odd)
    register(redis, "b", job(4))
    assert set(find(target, wanted(1, 2, 3, 4, 5))) == {1, 2, 3, 4}


def test_a_failure_whose_words_are_no_utf8_still_tells_its_job(target: Target, redis: Redis) -> None:
    """Perl dies in Latin-1 where it likes."""
    failure = text({"payload": job(1), "error": "PLACE"}).replace(b"PLACE", b"caf\xe9 ferm\xe9")
    redis.rpush("resque:failed", failure)
    assert find(target, wanted(1))[1].place is Place.FAILED


# --- the identity ---------------------------------------------------------------------------------------------------


def test_args_that_hold_another_jobs_identity_do_not_deceive(target: Target, redis: Redis, no_pause: None) -> None:
    hostile = f'"outbox":"{identity(1).text}"'
    put(redis, "mail", job(2, [hostile, {"qudo": {"outbox": identity(1).text}}, {"outbox": identity(1).text}]))
    put(redis, "mail", bare([json.dumps(job(1))]), {"class": hostile, "args": [hostile], "outbox": identity(1).text})
    put(redis, "mail", {"class": "A", "args": [], "payload": job(1)})
    put_failed(redis, bare([hostile]), error=hostile, backtrace=[json.dumps(job(1))], worker=hostile)
    put_failed(redis, None, qudo={"outbox": identity(1).text})
    register(redis, hostile, bare([hostile]))
    register(redis, "b", {"payload": job(1)})
    assert set(find(target, wanted(1, 2))) == {2}


@given(
    args=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        | st.sampled_from([f'"outbox":"{identity(1).text}"', '"', "\\", "\u2028", "qudo"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["qudo", "outbox", "payload", "a", '"']), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    ensure_ascii=st.booleans(),
    spaces=st.booleans(),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_job_is_found_by_its_identity_whatever_its_args_are_and_whoever_encoded_it(
    target: Target, redis: Redis, args: object, ensure_ascii: bool, spaces: bool
) -> None:
    redis.flushall()
    payload = job(2, [args])
    separators = (" , ", " : ") if spaces else (",", ":")
    encoded = json.dumps(dict(reversed(payload.items())), ensure_ascii=ensure_ascii, separators=separators)
    redis.sadd("resque:queues", "mail")
    redis.rpush("resque:queue:mail", encoded)
    (by_content,) = wanted(3, args=[args])
    assert set(looking._look(target, wanted(1, 2)).by_identity) == {identity(2)}
    assert find(target, wanted(2)) == {2: Sighting(Place.QUEUED, "mail", by_identity=True)}

    # The same without its identity: by what it is.
    redis.delete("resque:queue:mail")
    redis.rpush("resque:queue:mail", json.dumps(bare([args]), ensure_ascii=ensure_ascii, separators=separators))
    assert find(target, [by_content]) == {3: Sighting(Place.QUEUED, "mail", by_identity=False)}


def test_the_identity_of_another_job_with_the_same_content_accounts_for_that_one(
    target: Target, redis: Redis, no_pause: None
) -> None:
    put(redis, "mail", job(1, ["same"]))
    assert set(find(target, wanted(1, 2, args=["same"]))) == {1}


def test_a_job_that_moves_on_while_one_looks_is_where_it_was_seen_last(target: Target, redis: Redis) -> None:
    put_delayed(redis, FAR, job(1))
    put(redis, "mail", job(1), job(2))
    register(redis, "w", job(2))
    put_failed(redis, job(3))
    register(redis, "v", job(3))
    places = {number: each.place for number, each in find(target, wanted(1, 2, 3)).items()}
    assert places == {1: Place.QUEUED, 2: Place.WORKING, 3: Place.FAILED}


def test_a_failure_that_was_requeued_is_history(target: Target, redis: Redis, no_pause: None) -> None:
    """Resque's web page leaves the failure where it is, with the time, and pushes the job again."""
    put_failed(redis, job(1), retried_at="2026/01/01 00:00:00 UTC")
    put_failed(redis, job(2), retried_at="2026/01/01 00:00:00 UTC")
    put_failed(redis, bare(["alike"]), retried_at="2026/01/01 00:00:00 UTC")
    put_failed(redis, job(3), retried_at=None)
    put(redis, "mail", job(1))
    places = {number: each.place for number, each in find(target, wanted(1, 2, 3)).items()}
    assert places == {1: Place.QUEUED, 3: Place.FAILED}
    assert find(target, wanted(4, args=["alike"])) == {}


# --- content --------------------------------------------------------------------------------------------------------


def test_a_job_that_lost_its_identity_is_known_by_class_and_args(target: Target, redis: Redis) -> None:
    args = [{"b": [1, 2.5, None, "0123"], "a": 9007199254740993}]
    put_delayed(redis, FAR, {"args": args, "queue": "mail", "class": "Mail"})
    assert find(target, wanted(1, args=args)) == {1: Sighting(Place.DELAYED, str(FAR), by_identity=False)}


@pytest.mark.parametrize(
    "other",
    [
        {"class": "Other", "args": [1]},
        {"class": "Mail", "args": ["1"]},
        {"class": "Mail", "args": [1.0]},
        {"class": "Mail", "args": [True]},
        {"class": "Mail", "args": [1, None]},
        {"class": "Mail", "args": [[1]]},
        {"class": "Mail"},
        {"args": [1]},
    ],
)
def test_another_value_is_another_job(target: Target, redis: Redis, no_pause: None, other: dict[str, Any]) -> None:
    put(redis, "mail", other)
    assert find(target, wanted(1)) == {}


@pytest.mark.parametrize("entries", [0, 1, 2, 3, 5])
def test_three_jobs_alike_need_three_entries(target: Target, redis: Redis, no_pause: None, entries: int) -> None:
    if entries:
        put_delayed(redis, FAR, *[bare(["alike"], queue="mail")] * entries)
    assert len(find(target, wanted(1, 2, 3, args=["alike"]))) == min(entries, 3)


def test_entries_of_alike_jobs_count_over_all_places(target: Target, redis: Redis, no_pause: None) -> None:
    put_delayed(redis, FAR, bare(["alike"], queue="mail"))
    put(redis, "mail", bare(["alike"]), job(9, ["alike"]))
    found = find(target, wanted(1, 2, 3, 9, args=["alike"]))
    assert found.pop(9) == Sighting(Place.QUEUED, "mail", by_identity=True)
    assert sorted(each.place for each in found.values()) == [Place.DELAYED, Place.QUEUED]


def test_what_the_first_look_finds_and_what_only_the_second_finds_make_a_whole(
    target: Target, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has popped a job and not registered it yet: in the first look it is nowhere."""

    def meanwhile(_seconds: float) -> None:
        register(redis, "w", job(2))
        register(redis, "v", bare(["alike"]))

    monkeypatch.setattr("migrate.resque.looking.time.sleep", meanwhile)
    put(redis, "mail", job(1), bare(["alike"]))
    jobs = wanted(1, 2) + wanted(3, 4, 5, args=["alike"])
    found = find(target, jobs)
    assert {1, 2} < set(found)
    assert len(found) == 4


# --- while others are at work ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_work(*loops: Any) -> Iterator[None]:
    """Each function again and again in a thread of its own, for as long as the block lasts."""
    end = threading.Event()
    errors: list[BaseException] = []

    def live(loop: Any) -> None:
        try:
            while not end.is_set():
                loop()
        except BaseException as error:  # noqa: BLE001  raised again in the test's thread
            errors.append(error)

    threads = [threading.Thread(target=live, args=(loop,), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join(30)
    if errors:
        raise errors[0]


def test_no_job_that_is_there_is_missed_while_workers_pop_and_apps_push(
    target: Target, redis_server: RedisServer, redis: Redis
) -> None:
    """Workers pop at the head: read from there, 2,800 of 16,600 queued jobs were never met."""
    for number in range(0, 20_000, 1000):
        put(redis, "mail", *({"class": "Native", "args": [n]} for n in range(number, number + 1000)))
    put(redis, "mail", *(job(n) for n in range(500)))
    popping, pushing = redis_server.client(), redis_server.client()

    def pop() -> None:
        # The jobs that are looked for are the last ones: these are far from the head.
        popping.lpop("resque:queue:mail", 20)

    def push() -> None:
        put(pushing, "mail", {"class": "Late", "args": []}, {"class": "Late", "args": []})

    jobs = wanted(*range(500))
    with at_work(pop, push):
        for _ in range(5):
            assert redis.llen("resque:queue:mail") > 2000
            assert len(looking._look(target, jobs).by_identity) == 500
            put(redis, "mail", *({"class": "Native", "args": []} for _ in range(3000)))


def test_no_job_on_its_way_is_missed_while_schedulers_and_workers_move_it(
    target: Target, redis_server: RedisServer, redis: Redis
) -> None:
    """From the delayed list into its queue, to a worker, and to the failures: registered late, as in Perl and Ruby."""
    count = 60
    for number in range(count):
        put_delayed(redis, FAR + number % 7, job(number))
    scheduling, working = redis_server.client(), Resque(redis_server.client())
    worker = ResqueWorker(working)
    moved = iter(range(count))

    def schedule() -> None:
        number = next(moved, None)
        if number is None:
            time.sleep(0.01)
            return
        entry = text(job(number))
        with scheduling.pipeline(transaction=True) as pipe:
            pipe.rpush("resque:queue:mail", entry)
            pipe.sadd("resque:queues", "mail")
            pipe.lrem(f"resque:delayed:{FAR + number % 7}", 1, entry.decode())
            pipe.execute()
        time.sleep(0.02)

    def work() -> None:
        if not working.length():
            time.sleep(0.005)
            return
        worker.fail(worker.take("mail"))

    with at_work(schedule, work):
        looks = 0
        while len(working.failed()) < count:
            assert len(find(target, wanted(*range(count)))) == count
            looks += 1
    assert looks > 1
    places = {each.place for each in find(target, wanted(*range(count))).values()}
    assert places == {Place.FAILED}

"""The hand-off on real servers: each job once, its bit with it, and nothing at all where something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from migrate.errors import PausesChanged, TargetMismatch, Unavailable, UsageError
from migrate.jobs import Identity, ResqueJob
from migrate.resque import binding, ledger
from migrate.resque.handoff import BEHIND_SECONDS, CALL_BYTES, CALL_JOBS, HandedOff, HandOff
from migrate.resque.keys import Keys
from migrate.resque.target import Target
from tests.integration.snapshots import nothing_written
from tests.resque_app import Resque
from tests.servers import Proxy, RedisServer, ValkeyServer, wait_until

KEYS = Keys("resque")
BATCH = 0x0123456789ABCDEF
MIB = 1024 * 1024
FAR = 4_000_000_000


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    with ValkeyServer(appendfsync="always") as server:
        yield server


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> RedisServer:
    """A Redis 7.0 and a Valkey 9, each empty."""
    found: RedisServer = request.getfixturevalue(f"{request.param}_server")
    found.client().flushall()
    return found


class Pushing:
    """A target that is bound, and a source that hands off to it."""

    def __init__(self, url: str) -> None:
        self.target = Target.open(url, "resque")
        self.client = self.target.client
        self.resque = Resque(self.client)
        self.target_id = binding.claim(self.target)
        self._hand_off = HandOff(self.target, "main")

    def __call__(self, jobs: Sequence[ResqueJob], beat: int = 0, target_id: str | None = None) -> HandedOff:
        return self._hand_off.push(jobs, target_id=target_id or self.target_id, beat=beat)


@pytest.fixture
def push(server: RedisServer) -> Iterator[Pushing]:
    pushing = Pushing(server.url)
    yield pushing
    pushing.target.close()


@pytest.fixture
def push_to_redis(redis_server: RedisServer, redis: Redis) -> Iterator[Pushing]:
    """The same where the server's kind makes no difference."""
    pushing = Pushing(redis_server.url)
    yield pushing
    pushing.target.close()


def job(seq: int, queue: str = "mail", batch: int = BATCH, filler: int = 0) -> ResqueJob:
    identity = Identity(batch, seq)
    text = f'{{"class":"Mail","args":["{"x" * filler}"],"qudo":{{"source":"main","outbox":"{identity.text}"}}}}'
    return ResqueJob(identity, queue, text.encode())


def delayed_job(seq: int, due: int, text: str | None = None, queue: str = "mail") -> ResqueJob:
    now = job(seq, queue)
    late = text or f'{{"class":"Mail","args":[{seq}],"queue":"{queue}","qudo":{{"outbox":"{now.identity.text}"}}}}'
    return ResqueJob(now.identity, queue, now.payload, due, late.encode())


def pushed(client: Redis, namespace: str = "resque") -> list[Identity]:
    """The identities of all jobs in queues and delayed lists, as often as they are there; sorted."""
    return sorted(Identity.parse(found.identity) for found in Resque(client, namespace).jobs())


def bits(client: Redis) -> list[Identity]:
    """The identities whose bit is set, bit by bit; sorted."""
    found = []
    for key in client.scan_iter(b"resque:qudo_migrate:ledger:*"):
        batch = int(key.rpartition(b":")[2], 16)
        held = cast("bytes", client.get(key))
        # Redis counts from the highest bit of the first byte.
        found += [Identity(batch, 8 * n + bit) for n, byte in enumerate(held) for bit in range(8) if byte & 0x80 >> bit]
    return sorted(found)


def assert_consistent(client: Redis) -> None:
    """No push without its bit, no bit without its push, none twice."""
    assert pushed(client) == bits(client)


# --- each once ------------------------------------------------------------------------------------------------------


def test_each_job_is_pushed_once_and_its_bit_is_set(push: Pushing) -> None:
    jobs = [job(seq) for seq in (0, 1, 7, 8, 9, 65_535)]
    assert push(jobs) == HandedOff(pushed=6, before=0)
    assert pushed(push.client) == bits(push.client) == [each.identity for each in jobs]
    assert ledger.delivered(push.target, BATCH, 0, 65_535) == {0, 1, 7, 8, 9, 65_535}

    assert push(jobs) == HandedOff(pushed=0, before=6)
    assert push([job(8), job(10), job(9)]) == HandedOff(pushed=1, before=2)
    assert_consistent(push.client)
    assert len(pushed(push.client)) == 7


def test_nothing_to_hand_off_is_nothing(push_to_redis: Pushing, redis: Redis) -> None:
    with nothing_written(redis):
        assert push_to_redis([]) == HandedOff(0, 0)


def test_the_payload_arrives_as_the_very_bytes(push: Pushing) -> None:
    payload = '{"class": "A",\t"args":["\\u00e9é鮎🐟\\u0000", 9007199254740993, 1e5, "0123"]}\n'.encode()
    push([ResqueJob(Identity(BATCH, 0), "鮎 queue:{1}", payload)])
    assert push.client.lrange("resque:queue:鮎 queue:{1}", 0, -1) == [payload]
    assert push.client.smembers("resque:queues") == {"鮎 queue:{1}".encode()}


def test_jobs_of_a_queue_stay_in_order_whatever_queues_stand_between(push: Pushing) -> None:
    queues = ["a", "b", "c", "b", "a", "a", "c", "b"]
    push([job(seq, queue) for seq, queue in enumerate(queues)])
    push([job(seq + 8, queue) for seq, queue in enumerate(queues)])
    for name in "abc":
        found = [Identity.parse(each.identity).seq for each in push.resque.queue(name)]
        assert found == [seq for seq, queue in enumerate(queues * 2) if queue == name]


def test_new_jobs_stand_behind_those_that_are_there(push_to_redis: Pushing, redis: Redis) -> None:
    redis.rpush("resque:queue:mail", '{"class":"Native","args":[]}')
    push_to_redis([job(0)])
    assert [each.class_name for each in push_to_redis.resque.queue("mail")] == ["Native", "Mail"]


def test_a_job_that_a_worker_has_taken_is_not_pushed_again(push_to_redis: Pushing, redis: Redis) -> None:
    push_to_redis([job(0), job(1)])
    redis.lpop("resque:queue:mail")
    assert push_to_redis([job(0), job(1)]) == HandedOff(0, 2)
    assert pushed(redis) == [Identity(BATCH, 1)]


def test_the_batch_is_noted_under_the_name_of_its_source(push_to_redis: Pushing, redis: Redis) -> None:
    push_to_redis([job(0)])
    HandOff(push_to_redis.target, "other").push([job(1)], target_id=push_to_redis.target_id, beat=0)
    assert redis.hgetall(KEYS.batches) == {b"0123456789abcdef": b"main"}


def test_batches_have_ledgers_of_their_own(push: Pushing) -> None:
    push([job(3)])
    push([job(3, batch=1)])
    assert bits(push.client) == [Identity(1, 3), Identity(BATCH, 3)]
    assert_consistent(push.client)


def test_two_migrators_that_push_the_same_jobs_at_once_push_each_once(redis_server: RedisServer, redis: Redis) -> None:
    jobs = [job(seq, f"queue_{seq % 3}") for seq in range(5000)]
    migrators = [Pushing(redis_server.url) for _ in range(4)]
    barrier = threading.Barrier(len(migrators))
    done: list[HandedOff] = []

    def migrate(pushing: Pushing) -> None:
        barrier.wait()
        done.append(pushing(jobs))

    threads = [threading.Thread(target=migrate, args=(each,)) for each in migrators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.pushed for each in done) == 5000
    assert sum(each.before for each in done) == 15_000
    assert pushed(redis) == [each.identity for each in jobs]
    for name in ("queue_0", "queue_1", "queue_2"):
        seqs = [Identity.parse(each.identity).seq for each in Resque(redis).queue(name)]
        assert seqs == sorted(seqs)
    for each in migrators:
        each.target.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(
        st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["now", "past", "far"])), min_size=1, max_size=12),
        max_size=6,
    )
)
def test_any_calls_push_each_job_once(
    redis: Redis, redis_server: RedisServer, calls: list[list[tuple[int, str]]]
) -> None:
    redis.flushall()
    pushing = Pushing(redis_server.url)
    expected: dict[str, list[Identity]] = {"mail": [], "later": []}
    known: set[int] = set()
    for call in calls:
        jobs: dict[int, ResqueJob] = {}
        for seq, when in call:
            jobs[seq] = job(seq) if when == "now" else delayed_job(seq, 1000 if when == "past" else FAR)
        done = pushing(list(jobs.values()))
        for seq, each in jobs.items():
            if seq not in known:
                expected["later" if each.due == FAR else "mail"].append(each.identity)
        new = jobs.keys() - known
        known |= new
        assert done == HandedOff(len(new), len(jobs) - len(new))
    assert [Identity.parse(each.identity) for each in pushing.resque.queue("mail")] == expected["mail"]
    later = [Identity.parse(each.identity) for each in pushing.resque.delayed().get(FAR, [])]
    assert later == expected["later"]
    assert_consistent(redis)
    pushing.target.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30), st.integers(1, 2)), min_size=1, max_size=5))
def test_runs_of_jobs_are_pushed_once_wherever_their_bytes_begin_and_end(
    redis: Redis, redis_server: RedisServer, calls: list[tuple[int, int, int]]
) -> None:
    """Runs that meet bits of others in their first, their last or any byte; two queues by turns break them up."""
    redis.flushall()
    pushing = Pushing(redis_server.url)
    known: set[int] = set()
    expected: dict[str, list[int]] = {"mail": [], "other": []}
    for first, count, queues in calls:
        seqs = range(first, first + count)
        done = pushing([job(seq, "mail" if seq % queues == 0 else "other") for seq in seqs])
        new = [seq for seq in seqs if seq not in known]
        for seq in new:
            expected["mail" if seq % queues == 0 else "other"].append(seq)
        known.update(new)
        assert done == HandedOff(len(new), count - len(new))
    for queue, seqs_there in expected.items():
        assert [Identity.parse(each.identity).seq for each in pushing.resque.queue(queue)] == seqs_there
    assert ledger.delivered(pushing.target, BATCH, 0, 65_535) == known
    pushing.target.close()


# --- many and large -------------------------------------------------------------------------------------------------


def script_calls(client: Redis) -> int:
    stats = cast("dict[str, dict[str, int]]", client.info("commandstats"))
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


def test_more_jobs_than_one_call_carries_go_in_several(push: Pushing) -> None:
    jobs = [job(seq, f"queue_{seq % 2}") for seq in range(3 * CALL_JOBS + 500)]
    before = script_calls(push.client)
    assert push(jobs) == HandedOff(len(jobs), 0)
    # The first call by its hash may meet a server that doesn't know the script yet.
    assert 4 <= script_calls(push.client) - before <= 5
    for name in ("queue_0", "queue_1"):
        seqs = [Identity.parse(each.identity).seq for each in push.resque.queue(name)]
        assert seqs == list(range(int(name[-1]), len(jobs), 2))
    assert ledger.count_delivered(push.target, BATCH, 0, 65_535) == len(jobs)


def test_a_call_of_nothing_but_jobs_for_later_is_no_larger(push: Pushing) -> None:
    """Each brings two keys of its own."""
    now = push.target.now()
    jobs = [delayed_job(seq, now + 10_000 + seq) for seq in range(CALL_JOBS)]
    assert push(jobs) == HandedOff(CALL_JOBS, 0)
    assert len(push.resque.delayed()) == CALL_JOBS
    assert_consistent(push.client)


def test_large_payloads_are_cut_into_calls_by_their_size(push_to_redis: Pushing, redis: Redis) -> None:
    third = CALL_BYTES // 3
    sizes = [third, third, third, 2 * CALL_BYTES, 10, 10, CALL_BYTES - 10_000]
    before = script_calls(redis)
    assert push_to_redis([job(seq, filler=size) for seq, size in enumerate(sizes)]) == HandedOff(len(sizes), 0)
    # 2 thirds | 1 third | the one that is larger than a call | two small and a large one
    assert 4 <= script_calls(redis) - before <= 5
    assert [len(each.args[0]) for each in push_to_redis.resque.queue("mail")] == sizes
    assert_consistent(redis)


def test_a_batch_that_will_be_full_gets_its_whole_bitmap_at_once(push_to_redis: Pushing, redis: Redis) -> None:
    push_to_redis([job(seq) for seq in range(1000)])
    assert redis.strlen(KEYS.ledger(BATCH)) == 8192
    push_to_redis([job(seq, batch=7) for seq in range(20)])
    assert redis.strlen(KEYS.ledger(7)) == 3


# --- refused, and nothing written -----------------------------------------------------------------------------------


def test_another_target_id_is_refused(push: Pushing) -> None:
    with nothing_written(push.client), pytest.raises(TargetMismatch, match="another migration"):
        push([job(0)], target_id="0123456789abcdef")


def test_an_emptied_redis_is_refused(push: Pushing) -> None:
    push([job(0)])
    push.client.flushall()
    with nothing_written(push.client), pytest.raises(TargetMismatch, match="emptied"):
        push([job(0), job(1)])


def test_another_namespace_of_the_same_redis_is_refused(push_to_redis: Pushing, redis: Redis) -> None:
    other = HandOff(push_to_redis.target.in_namespace("other"), "main")
    with nothing_written(redis), pytest.raises(TargetMismatch, match="another database or namespace"):
        other.push([job(0)], target_id=push_to_redis.target_id, beat=0)


@pytest.mark.parametrize(
    ("known", "in_redis", "accepted"),
    [
        (0, None, True),
        (0, 1000, True),
        (1000, 1000, True),
        (1000, 2000, True),
        (1000, 1000 - BEHIND_SECONDS, True),
        (1000, 999 - BEHIND_SECONDS, False),
        (1000, 0, False),
        (1000, None, False),
    ],
)
def test_a_redis_that_is_older_than_the_source_knows_is_refused(
    push: Pushing, known: int, in_redis: int | None, accepted: bool
) -> None:
    if in_redis is not None:
        push.client.set(KEYS.beat, in_redis)
    if accepted:
        assert push([job(0)], beat=known) == HandedOff(1, 0)
        return
    with nothing_written(push.client), pytest.raises(TargetMismatch, match="older than what the source knows"):
        push([job(0)], beat=known)


def test_a_push_that_does_not_know_what_is_paused_is_refused(push: Pushing) -> None:
    hand_off = HandOff(push.target, "main")
    push.client.set(KEYS.pause_version, 3)
    with nothing_written(push.client), pytest.raises(PausesChanged):
        hand_off.push([job(0)], target_id=push.target_id, beat=0, pause_version=2)
    assert hand_off.push([job(0)], target_id=push.target_id, beat=0, pause_version=3) == HandedOff(1, 0)


#: Each key that the script uses, and something else that could be there.
OTHER_TYPES: dict[str, tuple[bytes, Callable[[Redis, bytes], object]]] = {
    "batches": (KEYS.batches, lambda client, key: client.set(key, "x")),
    "ledger": (KEYS.ledger(BATCH), lambda client, key: client.rpush(key, "x")),
    "queues": (KEYS.queues, lambda client, key: client.rpush(key, "x")),
    "schedule": (KEYS.schedule, lambda client, key: client.set(key, "x")),
    "the first queue": (KEYS.queue("mail"), lambda client, key: client.set(key, "x")),
    "the last queue": (KEYS.queue("other"), lambda client, key: client.hset(key, "x", "y")),
    "a delayed list": (KEYS.delayed(FAR), lambda client, key: client.sadd(key, "x")),
    "timestamps": (KEYS.timestamps(b'{"text":1}'), lambda client, key: client.rpush(key, "x")),
}


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_a_key_of_another_type_is_named_and_nothing_is_pushed(push: Pushing, name: str) -> None:
    key, make = OTHER_TYPES[name]
    make(push.client, key)
    jobs = [job(0), job(1, "other"), delayed_job(2, FAR, '{"text":1}')]
    with nothing_written(push.client), pytest.raises(UsageError) as caught:
        push(jobs)
    assert key.decode() in caught.value.message
    push.client.delete(key)
    assert push(jobs) == HandedOff(3, 0)


def test_a_delayed_list_of_another_type_does_not_matter_once_the_job_is_due(
    push_to_redis: Pushing, redis: Redis
) -> None:
    redis.set(KEYS.delayed(1000), "something else")
    assert push_to_redis([delayed_job(0, 1000)]) == HandedOff(1, 0)
    assert [each.text for each in push_to_redis.resque.queue("mail")] == [job(0).payload]


# --- later ----------------------------------------------------------------------------------------------------------


def test_a_job_that_is_due_later_stands_in_the_delayed_layout(push: Pushing) -> None:
    push([delayed_job(0, FAR), delayed_job(1, FAR), delayed_job(2, FAR + 1), job(3)])
    delayed = push.resque.delayed()
    assert {second: [Identity.parse(each.identity).seq for each in jobs] for second, jobs in delayed.items()} == {
        FAR: [0, 1],
        FAR + 1: [2],
    }
    assert [Identity.parse(each.identity).seq for each in push.resque.queue("mail")] == [3]
    assert_consistent(push.client)
    assert push([delayed_job(0, FAR), delayed_job(2, FAR + 1)]) == HandedOff(0, 2)


def test_the_same_text_at_two_seconds_has_one_set_of_both(push: Pushing) -> None:
    text = '{"class":"Mail","args":[1],"queue":"mail"}'
    push([delayed_job(0, FAR, text), delayed_job(1, FAR + 60, text), delayed_job(2, FAR, text)])
    assert {second: len(jobs) for second, jobs in push.resque.delayed().items()} == {FAR: 2, FAR + 60: 1}
    assert push.client.smembers(KEYS.timestamps(text.encode())) == {
        f"delayed:{FAR}".encode(),
        f"delayed:{FAR + 60}".encode(),
    }


def test_what_fell_due_meanwhile_goes_to_its_queue_with_the_payload_of_a_due_job(push: Pushing) -> None:
    """By Redis's own clock: whoever translated it may have another."""
    now = push.target.now()
    push([delayed_job(0, now - 100, queue="a"), delayed_job(1, now, queue="b"), delayed_job(2, now + 3600)])
    assert [each.text for each in push.resque.queue("a")] == [job(0).payload]
    assert [each.text for each in push.resque.queue("b")] == [job(1).payload]
    assert list(push.resque.delayed()) == [now + 3600]
    assert_consistent(push.client)


def test_a_queue_that_only_has_jobs_for_later_is_known_once_they_come(push_to_redis: Pushing, redis: Redis) -> None:
    push_to_redis([delayed_job(0, FAR, queue="later")])
    assert redis.smembers(KEYS.queues) == set()


# --- servers that refuse, and clients that die ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_a_redis_that_fills_up_in_the_middle_has_a_bit_for_each_push(kind: type[RedisServer]) -> None:
    jobs = [job(seq, f"queue_{seq % 3}", filler=20_000) for seq in range(1000)]
    jobs += [delayed_job(seq, FAR + seq % 7) for seq in range(1000, 1100)]
    with kind(maxmemory="1gb", appendonly="no") as server:
        pushing = Pushing(server.url)
        used = int(cast("dict[str, int]", pushing.client.info("memory"))["used_memory"])
        pushing.client.config_set("maxmemory", used + 10 * MIB)
        with pytest.raises(Unavailable, match="OOM"):
            pushing(jobs)
        assert_consistent(pushing.client)
        done = len(pushed(pushing.client))
        assert 0 < done < len(jobs)
        with nothing_written(pushing.client), pytest.raises(Unavailable, match="OOM"):
            pushing(jobs[done:])

        pushing.client.config_set("maxmemory", 0)
        assert pushing(jobs) == HandedOff(len(jobs) - done, done)
        assert_consistent(pushing.client)
        pushing.target.close()


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_a_redis_that_takes_no_writes_gets_none(kind: type[RedisServer]) -> None:
    with kind(appendonly="no") as server:
        pushing = Pushing(server.url)
        pushing([job(0)])
        pushing.client.config_set("min-replicas-to-write", 1)
        with nothing_written(pushing.client), pytest.raises(Unavailable, match="NOREPLICAS"):
            pushing([job(0), job(1)])
        pushing.client.config_set("min-replicas-to-write", 0)
        pushing.client.replicaof("127.0.0.1", "1")
        with nothing_written(pushing.client), pytest.raises(Unavailable, match="read-only"):
            pushing([job(0), job(1)])
        pushing.client.replicaof("NO", "ONE")
        assert pushing([job(0), job(1)]) == HandedOff(1, 1)
        pushing.target.close()


@pytest.mark.parametrize("fault", ["lose_request", "lose_reply"])
def test_a_call_whose_answer_is_lost_pushes_once(redis_server: RedisServer, redis: Redis, fault: str) -> None:
    with Proxy(redis_server) as proxy:
        pushing = Pushing(proxy.url(redis_server.url))
        pushing([job(0)])
        getattr(proxy, fault)(b"EVALSHA")
        done = pushing([job(seq) for seq in range(10)])
        proxy.wait_hit()
        # The client sends it once more by itself.
        assert done == (HandedOff(9, 1) if fault == "lose_request" else HandedOff(0, 10))
        assert_consistent(redis)
        assert len(pushed(redis)) == 10
        pushing.target.close()


#: Pushes batch after batch, as fast as it can, until it is killed.
PUSHING_PROCESS = """
import sys
from tests.integration.test_handoff import Pushing, delayed_job, job
pushing = Pushing(sys.argv[1])
for batch in range(1, 1000):
    pushing([job(seq, f"queue_{seq % 3}", batch, 100) for seq in range(2000)])
"""


def start_pushing(server: RedisServer) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PUSHING_PROCESS, server.url], cwd=Path(__file__).parents[2])


def assert_each_batch_is_consistent(client: Redis, batches: int) -> None:
    """As `assert_consistent`, quickly."""
    found = dict.fromkeys(range(1, batches + 1), 0)
    for number in range(3):
        texts = cast("list[bytes]", client.lrange(KEYS.queue(f"queue_{number}"), 0, -1))
        for text in texts:
            identity = Identity.parse(json.loads(text)["qudo"]["outbox"])
            found[identity.batch] += 1
    counted = {batch: client.bitcount(KEYS.ledger(batch)) for batch in found}
    assert found == counted


def test_a_client_that_is_killed_in_the_middle_of_a_call_leaves_all_or_nothing(
    redis_server: RedisServer, redis: Redis
) -> None:
    pushing = Pushing(redis_server.url)
    for enough in (1, 1000, 3000):
        with start_pushing(redis_server) as process:
            wait_until(lambda enough=enough: redis.llen(KEYS.queue("queue_0")) >= enough, 60, "it pushes")  # type: ignore[misc]
            process.kill()
        batches = redis.hlen(KEYS.batches)
        assert_each_batch_is_consistent(redis, batches)
        lengths = [redis.bitcount(KEYS.ledger(batch)) for batch in range(1, batches + 1)]
        assert lengths[:-1] == [2000] * (batches - 1)
        assert lengths[-1] in (1000, 2000)
        done = pushing([job(seq, f"queue_{seq % 3}", batches, 100) for seq in range(2000)])
        assert done == HandedOff(2000 - lengths[-1], lengths[-1])
        redis.flushall()
        pushing.target_id = binding.claim(pushing.target)
    pushing.target.close()


def test_a_redis_that_is_killed_in_the_middle_of_a_call_has_a_bit_for_each_push() -> None:
    with RedisServer(appendfsync="everysec") as server:
        pushing = Pushing(server.url)
        with start_pushing(server) as process:
            client = server.client()
            wait_until(lambda: client.llen(KEYS.queue("queue_0")) > 5000, 60, "it pushes")
            server.kill()
            process.kill()
        server.start()
        client = server.client()
        assert_each_batch_is_consistent(client, client.hlen(KEYS.batches))
        pushing.target.close()

"""The crossing protocol as a state machine over the real functions, a real Redis and a real database.

Hypothesis interleaves apps that enqueue, Qudo workers (those that outlived their lease too), several migrators that
sleep or die between and within any two steps, a Redis that forgets what no fence has proved, and Resque workers. After
each step every job is in exactly one place; at the end a clean drain leaves nothing undelivered.

`QUDO_MIGRATE_MODEL_EXAMPLES=500` looks for new interleavings; without it the same ones are tried each time.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import pymysql
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from migrate.config import Route
from migrate.engine import binding as pair
from migrate.engine.choosing import Prepared
from migrate.engine.delivery import count_undelivered
from migrate.errors import Unavailable
from migrate.jobs import Identity
from migrate.qudo import binding
from migrate.qudo.outbox import ChunkState
from migrate.qudo.serializers import Serializer
from migrate.qudo.tables import MOVE_LEASE
from migrate.resque import looking
from migrate.resque.target import Target
from tests.integration.stepping import Died, Gone, Migrator, at, empty
from tests.qudo_app import Outcome, QudoJob, QudoWorker, enqueue, enqueueing, worker
from tests.servers import Database, MariaDBDatabase, RedisServer, SQLiteDatabase

EXAMPLES = int(os.environ.get("QUDO_MIGRATE_MODEL_EXAMPLES", "0"))

FUNCS = ("Worker::A", "Worker::B")
QUEUES = ("worker_a", "worker_b")
#: Unix second of jobs that are not due.
FAR = 4_000_000_000
#: A lease that is over for much longer than any grace.
LONG_AGO = 1_000

MIGRATORS, WORKERS = 3, 2

#: Where each step of a migrator can die.
MOVE_POINTS = ("locked", "recorded", "copied", "deleted", "committed")
LEASING_POINTS = ("claimed", "recorded", "copied", "deleted", "ready")
PUSH_POINTS = ("handoff.begun", "handoff.part", "handoff.done")
RECOVER_POINTS = ("recover.found", *PUSH_POINTS, "leasing.deleted")
DROP_POINTS = ("fence.proved", "chunks.dropped")


#: Which of those that can do a thing does it.
CHOICES = st.integers(0, 11)

T = TypeVar("T")


def chosen(those: Sequence[T], choice: int) -> T:
    return those[choice % len(those)]


def or_lives(*points: str) -> st.SearchStrategy[str | None]:
    """A point to die at; twice as often none."""
    return st.one_of(st.none(), st.none(), st.sampled_from(points))


#: Func, uniqkey, priority, and whether it is due.
JOBS = st.tuples(
    st.sampled_from(FUNCS),
    st.sampled_from([None, None, "one", "two"]),
    st.integers(0, 2),
    st.sampled_from([True, True, True, False]),
)


class Clock:
    """Time for the shop's own clocks: each moment once, so that no two rows look alike by chance. Long past."""

    def __init__(self) -> None:
        self._seconds = itertools.count(1_000_000_000)

    def time(self) -> float:
        return float(next(self._seconds))


class Mind(NamedTuple):
    """What a migrator holds in memory between two steps."""

    to_move: list[list[Prepared]]
    to_push: list[Gone]
    pushed: list[Gone]  # it may wake and push them once more


class Kept(NamedTuple):
    """Redis as it was at one moment, and what workers had taken by then."""

    values: dict[bytes, bytes]
    taken: frozenset[Identity]
    running: frozenset[Identity]


class Found(NamedTuple):
    """Where the jobs are, by the number that each carries."""

    in_job: Counter[int]
    moving: Counter[int]
    undelivered: Counter[int]
    delivered: Counter[int]
    alive: dict[int, Identity]  # crossed and not over


class Crossing(RuleBasedStateMachine):
    """One source, one Redis."""

    def __init__(self, database: Database, target: Target) -> None:
        super().__init__()
        self.database = database
        self.target = target
        self.client: Redis = target.client
        self.client.flushdb()
        empty(database)
        self.migrators = [self._migrator() for _ in range(MIGRATORS)]
        self.minds = [Mind([], [], []) for _ in range(MIGRATORS)]
        self.transactional = self.migrators[0].source.facts().transactional
        self.workers = [QudoWorker([database], FUNCS, max_retries=1, seed=0) for _ in range(WORKERS)]
        self.in_hand: list[QudoJob | None] = [None] * WORKERS
        self.numbers = itertools.count(1)
        self.live: dict[int, tuple[str, str | None]] = {}  # number -> func and uniqkey
        self.over_in_qudo: set[int] = set()
        self.taken: set[Identity] = set()
        self.running: set[Identity] = set()
        self.redis_forgot = False
        self.may_be_lost = [self._keep()]
        self.sound = True

    def _migrator(self) -> Migrator:
        route = Route(serializer=Serializer.JSON)
        return Migrator(self.database.url, self.target, route, chunk_rows=2)

    # --- apps and Qudo's workers ------------------------------------------------------------------------------------

    @initialize(jobs=st.lists(JOBS, min_size=1, max_size=5))
    def jobs_wait(self, jobs: list[tuple[str, str | None, int, bool]]) -> None:
        for job in jobs:
            self._enqueue(*job)

    @rule(job=JOBS)
    def app_enqueues(self, job: tuple[str, str | None, int, bool]) -> None:
        self._enqueue(*job)

    def _enqueue(self, func: str, key: str | None, priority: int, due: bool) -> None:
        number = next(self.numbers)
        arg = json.dumps({"number": number}).encode()
        try:
            job_id = enqueue(self.database, func, arg, key, priority, run_after=0)
        except Exception as error:
            if not isinstance(error, pymysql.IntegrityError) and "UNIQUE" not in str(error):
                raise
            return  # such a job waits in Qudo already
        if not due:
            self.database.execute(f"UPDATE job SET run_after = {FAR} WHERE id = {job_id}")
        self.live[number] = func, key

    @rule()
    def ids_begin_again(self) -> None:
        """An old InnoDB restarts, or somebody sets the counter back: ids that were there come back."""
        if isinstance(self.database, MariaDBDatabase):
            self.database.execute("ALTER TABLE job AUTO_INCREMENT = 1")
        else:
            self.database.execute("DELETE FROM sqlite_sequence WHERE name = 'job'")

    @precondition(lambda self: None in self.in_hand)
    @rule(choice=CHOICES)
    def qudo_worker_grabs(self, choice: int) -> None:
        who = self.in_hand.index(None)
        found = self.workers[who].find(0)
        if found and self.workers[who].grab(job := chosen(found, choice)):
            self.in_hand[who] = job

    @precondition(lambda self: any(self.in_hand))
    @rule(choice=CHOICES)
    def lease_runs_out(self, choice: int) -> None:
        """The worker goes on all the same: whatever it does to the row from now on, it does by id alone."""
        job = chosen([job for job in self.in_hand if job], choice)
        self.database.execute(
            f"UPDATE job SET grabbed_until = {LONG_AGO}"
            f" WHERE id = {job.id} AND grabbed_until NOT IN (0, {LONG_AGO}, {MOVE_LEASE})"
        )

    @precondition(lambda self: any(self.in_hand))
    @rule(choice=CHOICES, outcome=st.sampled_from(Outcome))
    def qudo_worker_ends(self, choice: int, outcome: Outcome) -> None:
        who, job = chosen([(who, job) for who, job in enumerate(self.in_hand) if job], choice)
        self.in_hand[who] = None
        held = self._numbers_in_job(f"id = {job.id}")
        self.workers[who].end(job, outcome)
        for number in held:
            if not self._numbers_in_job(f"id = {job.id}") and not self._has_moving_copy(number):
                del self.live[number]
                self.over_in_qudo.add(number)

    @rule(choice=CHOICES)
    def another_database_reenqueues_here(self, choice: int) -> None:
        """With several databases Qudo's retry updates the row of that id in one of them, picked at random."""
        ids = [key for (key,) in self.database.rows("SELECT id FROM job ORDER BY id")]
        if ids:
            self.workers[0].reenqueue(QudoJob(0, chosen(ids, choice), None, None, 0, 0, 0, 0))

    # --- migrators --------------------------------------------------------------------------------------------------

    def _step(self, who: int, point: str | None, step: Any) -> Any:
        """One step of a migrator; None when it died or met a fault, and begins anew."""
        try:
            with at(point):
                return step()
        except (Died, Unavailable):
            self._begins_anew(who)
            return None

    def _begins_anew(self, who: int) -> None:
        self.migrators[who].forget()
        self.minds[who] = Mind([], [], self.minds[who].pushed[:1])

    @rule(who=st.integers(0, MIGRATORS - 1))
    def migrator_dies(self, who: int) -> None:
        self._begins_anew(who)

    @rule(who=st.integers(0, MIGRATORS - 1))
    def migrator_reads(self, who: int) -> None:
        self.minds[who].to_move[:] = self.migrators[who].read()

    @precondition(lambda self: any(mind.to_move for mind in self.minds))
    @rule(choice=CHOICES, dies=or_lives(*MOVE_POINTS), dies_leasing=or_lives(*LEASING_POINTS))
    def migrator_moves(self, choice: int, dies: str | None, dies_leasing: str | None) -> None:
        who = chosen([who for who, mind in enumerate(self.minds) if mind.to_move], choice)
        mind = self.minds[who]
        chunk = mind.to_move.pop(0)
        kind, name = ("move", dies) if self.transactional else ("leasing", dies_leasing)
        moved = self._step(who, name and f"{kind}.{name}", partial(self.migrators[who].move, chunk))
        if moved is not None and moved.seqs:
            mind.to_push.append(self.migrators[who].gone(chunk, moved))

    @precondition(lambda self: any(mind.to_push for mind in self.minds))
    @rule(choice=CHOICES, dies=or_lives(*PUSH_POINTS))
    def migrator_hands_off(self, choice: int, dies: str | None) -> None:
        who = chosen([who for who, mind in enumerate(self.minds) if mind.to_push], choice)
        gone = self.minds[who].to_push.pop(0)
        self.minds[who].pushed.append(gone)
        self._step(who, dies, partial(self.migrators[who].push, gone))
        self._redis_changed()

    @precondition(lambda self: any(mind.pushed for mind in self.minds))
    @rule(choice=CHOICES)
    def migrator_wakes_and_hands_off_again(self, choice: int) -> None:
        """It slept in the middle of a hand-off, for however long."""
        who, gone = chosen([(who, gone) for who, mind in enumerate(self.minds) for gone in mind.pushed], choice)
        self.migrators[who].push(gone)
        self._redis_changed()

    @rule(who=st.integers(0, MIGRATORS - 1), dies=or_lives(*RECOVER_POINTS))
    def migrator_recovers(self, who: int, dies: str | None) -> None:
        self._step(who, dies, self.migrators[who].recover)
        self._redis_changed()

    @rule(who=st.integers(0, MIGRATORS - 1), dies=or_lives(*DROP_POINTS))
    def migrator_drops_records(self, who: int, dies: str | None) -> None:
        """Behind the real fence: whatever was in Redis by then can't be forgotten any more."""
        fences = self.client.get(self.target.keys.fence)
        self._step(who, dies, self.migrators[who].drop_records)
        if self.client.get(self.target.keys.fence) != fences:
            self.may_be_lost.clear()
        self._redis_changed()

    @rule(who=st.integers(0, MIGRATORS - 1), dies=or_lives("pending.released"))
    def migrator_frees_uniqkeys(self, who: int, dies: str | None) -> None:
        self._step(who, dies, self.migrators[who].release)

    @rule(who=st.integers(0, MIGRATORS - 1))
    def migrator_beats(self, who: int) -> None:
        source = self.migrators[who].source
        with source.reading() as connection:
            target_id = binding.read(connection).target_id
        pair.Beat(self.target, source, target_id or "").once()
        self._redis_changed()

    # --- Redis and its workers --------------------------------------------------------------------------------------

    @rule(choice=CHOICES)
    def resque_worker_takes(self, choice: int) -> None:
        queues = [name for name in QUEUES if self.client.llen(f"resque:queue:{name}")]
        if not queues:
            return
        queue = chosen(queues, choice)
        text = cast("bytes", self.client.lpop(f"resque:queue:{queue}"))
        payload = json.loads(text)
        identity = Identity.parse(payload["qudo"]["outbox"])
        assert identity not in self.taken, "a second worker got the same job"
        self.taken.add(identity)
        self.running.add(identity)
        self.client.sadd("resque:workers", identity.text)
        note = {"queue": queue, "run_at": "…", "payload": payload}
        self.client.set(f"resque:worker:{identity.text}", json.dumps(note))
        self._redis_changed()

    @precondition(lambda self: self.running)
    @rule(choice=CHOICES)
    def resque_worker_finishes(self, choice: int) -> None:
        identity = chosen(sorted(self.running), choice)
        self.running.remove(identity)
        self.client.delete(f"resque:worker:{identity.text}")
        self._redis_changed()

    @precondition(lambda self: len(self.may_be_lost) > 1)
    @rule(choice=CHOICES)
    def redis_forgets(self, choice: int) -> None:
        """A crash: all since some moment behind the last fence is gone, pushes and bits together."""
        place = chosen(range(len(self.may_be_lost)), choice)
        kept = self.may_be_lost[place]
        del self.may_be_lost[place + 1 :]
        self.client.flushdb()
        for key, value in kept.values.items():
            self.client.restore(key, 0, value)
        self.taken, self.running = set(kept.taken), set(kept.running)
        self.redis_forgot = True
        # The copy is seconds old, however long this example takes.
        with self.migrators[0].source.reading() as connection:
            known = binding.read(connection).beat
        if known:
            self.client.set(self.target.keys.beat, max(known - 5, int(self.client.get(self.target.keys.beat) or 0)))

    def _redis_changed(self) -> None:
        self.may_be_lost.append(self._keep())

    def _keep(self) -> Kept:
        keys = cast("list[bytes]", self.client.keys())
        with self.client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.dump(key)
            values = pipe.execute()
        return Kept(dict(zip(keys, values, strict=True)), frozenset(self.taken), frozenset(self.running))

    # --- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def each_job_is_in_exactly_one_place(self) -> None:
        self.sound = False
        found = self._find()
        for number in self.live:
            if found.moving[number]:
                places = found.moving[number] + found.undelivered[number] + found.delivered[number]
                assert found.in_job[number] <= 1
            else:
                places = found.in_job[number] + found.undelivered[number] + found.delivered[number]
            assert places == 1, f"job {number} is in {places} places: {found}"
        for number in self.over_in_qudo:
            places = found.in_job[number] + found.moving[number] + found.undelivered[number] + found.delivered[number]
            assert places == 0, f"job {number} is over, and yet it is there: {found}"
        self._check_uniqkeys(found)
        self.sound = True

    def _check_uniqkeys(self, found: Found) -> None:
        """Of the jobs that crossed and are not over, no two have the same key (but for a job that comes back)."""
        keys = Counter(self.live[number] for number in found.alive if self.live[number][1] is not None)
        assert self.redis_forgot or all(count == 1 for count in keys.values()), f"twice across: {keys}"

    def _find(self) -> Found:
        chunks: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for batch, first, last, state in self.database.rows(
            "SELECT batch, first_seq, last_seq, state FROM qudo_migrate_chunk"
        ):
            chunks[batch].append((first, last, state))
        copies = {
            Identity(batch, seq): self._number(arg)
            for batch, seq, arg in self.database.rows(
                f"SELECT batch, seq, {self.database.as_bytes('arg')} FROM qudo_migrate_outbox"
            )
        }
        bits, present = self._in_redis({identity.batch for identity in copies})
        assert set(present) <= set(copies), "a job in Redis has no row in the outbox"
        found = Found(Counter(self._numbers_in_job()), Counter(), Counter(), Counter(), {})
        for identity, number in copies.items():
            states = {state for first, last, state in chunks[identity.batch] if first <= identity.seq <= last}
            times = len(present.get(identity, ())) + (identity in self.taken)
            if identity in bits:
                assert states != {ChunkState.MOVING}, "a copy that still moves was handed off"
                assert times == 1, f"job {number} has its bit and was pushed {times} times"
                found.delivered[number] += 1
            else:
                assert times == 0, f"job {number} was pushed and has no bit"
                assert states, f"job {number} is undelivered and no record tells of it"
                (found.moving if states == {ChunkState.MOVING} else found.undelivered)[number] += 1
            assert set(present.get(identity, ())) <= {number}, f"a worker would get another value than job {number}"
            if identity not in bits or identity in present or identity in self.running:
                found.alive[number] = identity
        return found

    def _in_redis(self, batches: set[int]) -> tuple[set[Identity], dict[Identity, list[int]]]:
        """The bits that are set, and the jobs that wait, each with the numbers that its args carry."""
        keys = self.target.keys
        with self.client.pipeline(transaction=False) as pipe:
            for name in QUEUES:
                pipe.lrange(keys.queue(name), 0, -1)
            pipe.lrange(keys.delayed(FAR), 0, -1)
            for batch in batches:
                pipe.get(keys.ledger(batch))
            lists: Sequence[Any] = pipe.execute()
        present: dict[Identity, list[int]] = defaultdict(list)
        for text in itertools.chain(*lists[: len(QUEUES) + 1]):
            payload = json.loads(text)
            present[Identity.parse(payload["qudo"]["outbox"])].append(payload["args"][0]["number"])
        bits = {
            Identity(batch, 8 * place + bit)
            for batch, held in zip(batches, lists[len(QUEUES) + 1 :], strict=True)
            for place, byte in enumerate(held or b"")
            for bit in range(8)
            if byte & 0x80 >> bit
        }
        return bits, dict(present)

    def _numbers_in_job(self, where: str = "1 = 1") -> list[int]:
        rows = self.database.rows(f"SELECT {self.database.as_bytes('arg')} FROM job WHERE {where}")
        return [self._number(arg) for (arg,) in rows]

    def _has_moving_copy(self, number: int) -> bool:
        """Without transactions: a row that is gone is taken for one that we deleted (test_moving.py tells of that)."""
        return not self.transactional and bool(self._find().moving[number])

    @staticmethod
    def _number(arg: bytes) -> int:
        return int(json.loads(arg)["number"])

    # --- the end ----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.sound:
                self._drain()
        finally:
            for migrator in self.migrators:
                migrator.close()
            for qudo_worker in self.workers:
                qudo_worker.close()

    def _drain(self) -> None:
        """Whatever has happened: one migrator that nobody disturbs brings all over, and Resque runs it."""
        self.database.execute(f"UPDATE job SET grabbed_until = {LONG_AGO} WHERE grabbed_until NOT IN (0, {MOVE_LEASE})")
        migrator = self.migrators[0]
        migrator.forget()
        for _ in range(len(self.live) + 2):
            migrator.pass_over()
            self.each_job_is_in_exactly_one_place()
            if not self.database.count():
                break
            self._run_everything()
            migrator.release()
        assert self.database.count() == 0
        assert count_undelivered(migrator.source, self.target) == 0
        assert migrator.delivery.undelivered().deliverable == 0
        assert sorted(self._find().delivered.elements()) == sorted(self.live)
        migrator.recover()
        migrator.drop_records()
        assert self.database.count("qudo_migrate_chunk") == 0

    def _run_everything(self) -> None:
        """Resque's workers take and finish all there is, what is due later too."""
        for key in (*(f"resque:queue:{name}" for name in QUEUES), f"resque:delayed:{FAR}"):
            for text in cast("list[bytes]", self.client.lrange(key, 0, -1)):
                self.taken.add(Identity.parse(json.loads(text)["qudo"]["outbox"]))
            self.client.delete(key)
        for identity in self.running:
            self.client.delete(f"resque:worker:{identity.text}")
        self.running.clear()


# --- running it -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shop's clocks give each moment once; the second look at Redis comes at once."""
    clock = Clock()
    monkeypatch.setattr(enqueueing, "time", clock)
    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr(looking, "SECOND_LOOK_SECONDS", 0.0)


@pytest.fixture
def target(redis_server: RedisServer) -> Iterator[Target]:
    opened = Target.open(redis_server.url, "resque")
    yield opened
    opened.close()


def explore(database: Database, target: Target, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        cast("type[Crossing]", partial(Crossing, database, target)),
        settings=settings(
            max_examples=EXAMPLES or examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=not EXAMPLES,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_job_crosses_once_from_sqlite(tmp_path: Path, target: Target) -> None:
    database = SQLiteDatabase(tmp_path / "qudo.db")
    database.execute("PRAGMA synchronous = OFF")
    explore(database, target, examples=40, steps=50)
    database.close()


def test_every_job_crosses_once_from_innodb(innodb: MariaDBDatabase, target: Target) -> None:
    explore(innodb, target, examples=12, steps=40)


def test_every_job_crosses_once_from_myisam(myisam: MariaDBDatabase, target: Target) -> None:
    explore(myisam, target, examples=12, steps=40)

"""The crossing protocol as a state machine over the real functions, a real Redis and a real database.

Hypothesis interleaves apps that enqueue (in Qudo, and by the dual-write adapter), Qudo workers (those that outlived
their lease too), several migrators that sleep or die between and within any two steps, purges and rollbacks that die, a
Redis that forgets what no fence has proved, and Resque workers. After each step every job is in exactly one place; at
the end a clean drain leaves nothing undelivered.

`QUDO_MIGRATE_MODEL_EXAMPLES=500` looks for new interleavings, and shortens one that fails; without it the same ones
are tried each time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar, cast

import pymysql
import pytest
from hypothesis import HealthCheck, Phase, settings
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

from migrate import Enqueuer
from migrate.config import Config, FailureImport, Route, SourceConfig, TargetConfig
from migrate.dualwrite import breaker, planning, source_side, watch
from migrate.engine import batches, giving_back, pausing
from migrate.engine import binding as pair
from migrate.engine import rollback as rolling_back
from migrate.engine.choosing import Prepared
from migrate.engine.delivery import count_undelivered
from migrate.engine.purge import PurgeOptions, SourcePurge
from migrate.engine.reporters import Reporter
from migrate.engine.rollback import SourceRollback
from migrate.engine.rollback_result import RollbackOptions
from migrate.engine.stopping import Stop
from migrate.errors import DuplicateJob, Unavailable
from migrate.failpoints import POINTS
from migrate.jobs import Identity
from migrate.qudo import binding
from migrate.qudo.outbox import HALF_MOVED, ChunkState
from migrate.qudo.serializers import Serializer
from migrate.qudo.tables import MOVE_LEASE, RETURN_LEASE
from migrate.resque import handoff, looking, pauses, steps, taking
from migrate.resque.steps import KeyGuard, Step
from migrate.resque.target import Target
from tests.integration.stepping import Died, Gone, Migrator, at
from tests.qudo_app import Outcome, QudoJob, QudoWorker, enqueue, enqueueing, func_id, worker
from tests.servers import Database, MariaDBDatabase, RedisServer, SQLiteDatabase

EXAMPLES = int(os.environ.get("QUDO_MIGRATE_MODEL_EXAMPLES", "0"))

FUNCS = ("Worker::A", "Worker::B")
QUEUES = ("worker_a", "worker_b")
#: Unix second of jobs that are not due.
FAR = 4_000_000_000
#: A lease that is over for much longer than any grace.
LONG_AGO = 1_000

MIGRATORS, WORKERS = 3, 2

#: Where a migrator can die, without transactions or with.
LEASING_POINTS = [point for point in POINTS if point.startswith("leasing.")]
MOVE_POINTS = [point for point in POINTS if point.startswith("move.")]
OTHER_POINTS = [
    point for point in POINTS if point.startswith(("handoff.", "recover.", "fence.", "chunks.", "pending.released"))
]

#: Which migrator.
WHO = st.integers(0, MIGRATORS - 1)
#: Which of those that can do a thing does it.
CHOICES = st.integers(0, 11)

T = TypeVar("T")


def chosen(those: Sequence[T], choice: int) -> T:
    return those[choice % len(those)]


#: How often an example does what is quickly done and soon tells nothing new.
FEW = 4
#: How many steps a migrator takes before it sleeps.
STEPS = st.integers(1, 8)
#: At which pass of which point a migrator dies, if it comes so far; None: it lives.
DIES = st.none() | st.tuples(
    st.sampled_from(LEASING_POINTS) | st.sampled_from(MOVE_POINTS) | st.sampled_from(OTHER_POINTS), st.integers(1, 2)
)

#: At which point an operator's command dies; None: it ends. And how far Redis then falls back; None: not at all.
PURGE_DIES = st.none() | st.sampled_from([point for point in POINTS if point.startswith("purge.")])
ROLLBACK_DIES = st.none() | st.sampled_from([point for point in POINTS if point.startswith("rollback.")])
FALLS_BACK = st.none() | CHOICES
#: How often an example goes back, as that takes longest.
TWICE = 2

#: Func, uniqkey, priority, and whether it is due.
JOBS = st.tuples(
    st.sampled_from(FUNCS),
    st.sampled_from([None, "one", "two"]),
    st.integers(0, 2),
    st.sampled_from([True, True, True, False]),
)


class Clock:
    """Time for the shop's own clocks: each moment once, so that no two rows look alike by chance. Long past."""

    def __init__(self) -> None:
        self._seconds = itertools.count(1_000_000_000)

    def time(self) -> float:
        return float(next(self._seconds))


class Mind:
    """What a migrator holds in memory between two steps."""

    def __init__(self, pushed: Iterable[Gone] = ()) -> None:
        self.steps = ["recover", "release", "read", "drop"]  # of this pass, what is still to come
        self.to_move: list[list[Prepared]] = []
        self.to_push: list[Gone] = []
        self.pushed = list(pushed)  # it may wake and push them once more


class Kept(NamedTuple):
    """Redis as it was at one moment, and what workers had taken by then."""

    values: dict[bytes, bytes]
    taken: frozenset[Identity]
    running: frozenset[Identity]


class Carried(NamedTuple):
    """What tells a row from another, and from its own earlier state; payloads carry the same."""

    number: int
    job_id: int | None  # None: an app's own row
    enqueue_time: int
    retry_cnt: int


class Found(NamedTuple):
    """Where the jobs are, by the number that each carries."""

    in_job: Counter[int]
    moving: Counter[int]
    undelivered: Counter[int]
    delivered: Counter[int]
    alive: dict[int, Identity]  # crossed and not over


class Ground:
    """What all examples of one test share: binding and connecting anew for each would take most of the time."""

    def __init__(self, database: Database, target: Target) -> None:
        target.client.flushdb()
        self.target = target
        self.database = database
        self.session = database.session()
        route = Route(serializer=Serializer.JSON)
        self.migrators = [
            Migrator(database.url, target, route, chunk_rows=2, bind=number == 0) for number in range(MIGRATORS)
        ]
        self.workers = [QudoWorker([database], FUNCS, max_retries=1, seed=0) for _ in range(WORKERS)]
        self.transactional = self.migrators[0].source.facts().transactional
        for func in FUNCS:
            func_id(self.session, func)
        note = steps.new_note(Step.SWITCHED, 100, KeyGuard.QUDO, known=0, user="test", host="test")
        assert steps.put(target, dict.fromkeys(FUNCS, note), known=0) is not None
        # Without threads: it reads Redis at each enqueue.
        self.enqueuer = Enqueuer(
            Config(
                TargetConfig(target.label, target.keys.namespace),
                (SourceConfig("main", self.migrators[0].source.url.render_as_string(hide_password=False)),),
                (route,),
            )
        )
        self._bound = dump(target.client)

    def begin(self) -> None:
        """Nothing has been enqueued yet."""
        for table in (
            "job",
            "exception_log",
            *(f"qudo_migrate_{name}" for name in ("outbox", "chunk", "pending", "returned")),
        ):
            self.session.execute(f"DELETE FROM {table}")
        self.session.execute("DELETE FROM qudo_migrate_meta WHERE name = 'beat'")
        self.begin_ids_again()
        restore(self.target.client, self._bound)
        for migrator in self.migrators:
            migrator.forget(connections=False)
        self.enqueuer._sides["main"]._batches.renew()

    def begin_ids_again(self) -> None:
        """An old InnoDB restarts, or somebody sets the counter back: ids that were there come back."""
        is_sqlite = isinstance(self.database, SQLiteDatabase)
        self.session.execute(
            "DELETE FROM sqlite_sequence WHERE name = 'job'" if is_sqlite else "ALTER TABLE job AUTO_INCREMENT = 1"
        )

    def close(self) -> None:
        self.enqueuer.close()
        for migrator in self.migrators:
            migrator.close()
        for qudo_worker in self.workers:
            qudo_worker.close()
        self.session.close()


def dump(client: Redis) -> dict[bytes, bytes]:
    """All of Redis."""
    keys = cast("list[bytes]", client.keys())
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.dump(key)
        return dict(zip(keys, pipe.execute(), strict=True))


def restore(client: Redis, values: Mapping[bytes, bytes]) -> None:
    """Redis as it was then."""
    with client.pipeline(transaction=False) as pipe:
        pipe.flushdb()
        for key, value in values.items():
            pipe.restore(key, 0, value)
        pipe.execute()


class Crossing(RuleBasedStateMachine):
    """One source, one Redis."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        ground.begin()
        self.ground = ground
        self.session = ground.session
        self.target = ground.target
        self.client: Redis = ground.target.client
        self.migrators = ground.migrators
        self.minds = [Mind() for _ in range(MIGRATORS)]
        self.workers = ground.workers
        self.in_hand: list[QudoJob | None] = [None] * WORKERS
        self.held: dict[int, int] = {}  # number of a job whose lease holds -> the worker that has it
        self.numbers = itertools.count(1)
        self.live: dict[int, tuple[str, str | None]] = {}  # number -> func and uniqkey
        self.over_in_qudo: set[int] = set()
        self.taken: set[Identity] = set()
        self.running: set[Identity] = set()
        self.purged: dict[Identity, Carried] = {}
        self.redis_forgot = False
        self.strays = self.beats = self.purges = self.rollbacks = 0
        self.may_be_lost = [self._keep()]
        self.sound = True

    # --- apps and Qudo's workers ------------------------------------------------------------------------------------

    @initialize(jobs=st.lists(JOBS, min_size=1, max_size=4), crossed=st.lists(JOBS, max_size=4))
    def jobs_wait(
        self, jobs: list[tuple[str, str | None, int, bool]], crossed: list[tuple[str, str | None, int, bool]]
    ) -> None:
        for job in jobs:
            self._enqueue(*job)
        self.app_enqueues_across(crossed, None)

    @rule(jobs=st.lists(JOBS, min_size=1, max_size=4), ids_begin_again=st.booleans())
    def app_enqueues(self, jobs: list[tuple[str, str | None, int, bool]], ids_begin_again: bool) -> None:
        if ids_begin_again:
            self.ground.begin_ids_again()
        for job in jobs:
            self._enqueue(*job)

    def _enqueue(self, func: str, key: str | None, priority: int, due: bool) -> None:
        number = next(self.numbers)
        arg = json.dumps({"number": number}).encode()
        try:
            job_id = enqueue(self.session, func, arg, key, priority, run_after=0)
        except Exception as error:
            if not isinstance(error, pymysql.IntegrityError) and "UNIQUE" not in str(error):
                raise
            return  # such a job waits in Qudo already
        if not due:
            self.session.execute(f"UPDATE job SET run_after = {FAR} WHERE id = {job_id}")
        self.live[number] = func, key

    @rule(
        jobs=st.lists(JOBS, min_size=1, max_size=4),
        dies_at=st.sampled_from([None, None, "enqueue.written", "enqueue.handed_off"]),
    )
    def app_enqueues_across(self, jobs: list[tuple[str, str | None, int, bool]], dies_at: str | None) -> None:
        """By the adapter on step `switched`: the row of the outbox is the app's own, and so is its hand-off."""
        for func, key, priority, due in jobs:
            if due:
                self._enqueue_across(func, key, priority, dies_at)

    def _enqueue_across(self, func: str, key: str | None, priority: int, dies_at: str | None) -> None:
        number = next(self.numbers)
        self.live[number] = func, key
        try:
            with at(dies_at):
                self.ground.enqueuer.enqueue(func, {"number": number}, uniqkey=key, priority=priority)
        except Died:
            pass
        except DuplicateJob:
            del self.live[number]
        self._redis_changed()

    @precondition(lambda self: None in self.in_hand)
    @rule(choice=CHOICES)
    def qudo_worker_grabs(self, choice: int) -> None:
        who = self.in_hand.index(None)
        found = self.workers[who].find(0)
        if found and self.workers[who].grab(job := chosen(found, choice)):
            self.in_hand[who] = job
            (number,) = self._numbers_in_job(f"id = {job.id}")
            self.held[number] = who

    @precondition(lambda self: self.held)
    @rule(choice=CHOICES)
    def lease_runs_out(self, choice: int) -> None:
        """The worker goes on all the same: whatever it does to the row from now on, it does by id alone."""
        number = chosen(sorted(self.held), choice)
        job = self.in_hand[self.held.pop(number)]
        assert job is not None
        self.session.execute(f"UPDATE job SET grabbed_until = {LONG_AGO} WHERE id = {job.id}")

    @precondition(lambda self: any(self.in_hand))
    @rule(choice=CHOICES, outcome=st.sampled_from(Outcome))
    def qudo_worker_ends(self, choice: int, outcome: Outcome) -> None:
        who, job = chosen([(who, job) for who, job in enumerate(self.in_hand) if job], choice)
        self.in_hand[who] = None
        self.held = {number: holder for number, holder in self.held.items() if holder != who}
        self._end(self.workers[who], job, outcome)

    @rule(choice=CHOICES, outcome=st.sampled_from(Outcome))
    def qudo_worker_runs_one(self, choice: int, outcome: Outcome) -> None:
        if found := self.workers[0].find(0):
            job = chosen(found, choice)
            assert self.workers[0].grab(job)
            self._end(self.workers[0], job, outcome)

    def _end(self, qudo_worker: QudoWorker, job: QudoJob, outcome: Outcome) -> None:
        if self._is_on_its_way_back(job.id):
            return
        held = self._numbers_in_job(f"id = {job.id}")
        qudo_worker.end(job, outcome)
        for number in held:
            self.held.pop(number, None)  # by id alone: it may be another's
            if not self._numbers_in_job(f"id = {job.id}") and not self._has_moving_copy(number):
                del self.live[number]
                self.over_in_qudo.add(number)

    @precondition(lambda self: self.strays < FEW)
    @rule(choice=CHOICES)
    def another_database_reenqueues_here(self, choice: int) -> None:
        """With several databases Qudo's retry updates the row of that id in one of them, picked at random."""
        self.strays += 1
        rows = self.session.rows(f"SELECT id, grabbed_until FROM job WHERE grabbed_until <> {RETURN_LEASE} ORDER BY id")
        claimed = [job_id for job_id, lease in rows if lease == MOVE_LEASE]
        if ids := claimed or [job_id for job_id, _ in rows]:
            job_id = chosen(ids, choice)
            for number in self._numbers_in_job(f"id = {job_id}"):
                self.held.pop(number, None)
            self.workers[0].reenqueue(QudoJob(0, job_id, None, None, 0, 0, 0, 0))

    # --- migrators --------------------------------------------------------------------------------------------------

    @rule(steps=STEPS, dies=DIES, eager=st.booleans())
    def first_migrator_goes_on(self, steps: int, dies: tuple[str, int] | None, eager: bool) -> None:
        self._go_on(0, steps, dies, eager)

    @rule(steps=STEPS, dies=DIES, eager=st.booleans())
    def second_migrator_goes_on(self, steps: int, dies: tuple[str, int] | None, eager: bool) -> None:
        self._go_on(1, steps, dies, eager)

    @rule(steps=STEPS, dies=DIES, eager=st.booleans())
    def third_migrator_goes_on(self, steps: int, dies: tuple[str, int] | None, eager: bool) -> None:
        self._go_on(2, steps, dies, eager)

    def _go_on(self, who: int, steps: int, dies: tuple[str, int] | None, eager: bool) -> None:
        """Take some steps of a pass, and sleep; or die on the way, or meet a fault, and begin anew."""
        point, on_pass = dies or (None, 1)
        try:
            with at(point, on_pass=on_pass):
                for _ in range(steps):
                    self._take_step(who, eager)
                    self._redis_changed()
        except (Died, Unavailable):
            self.migrators[who].forget(connections=False)
            self.minds[who] = Mind(self.minds[who].pushed[-1:])
            self._redis_changed()

    def _take_step(self, who: int, eager: bool) -> None:
        """The next step of a pass; `eager`: it moves the next chunk before it has pushed the last one."""
        mind = self.minds[who]
        if mind.to_push and not (eager and mind.to_move):
            self._push(who)
        elif mind.to_move:
            self._move(who)
        else:
            mind.steps = mind.steps or Mind().steps
            getattr(self, f"_{mind.steps.pop(0)}")(who)

    def _recover(self, who: int) -> None:
        self.migrators[who].recover()

    def _read(self, who: int) -> None:
        self.minds[who].to_move = self.migrators[who].read()

    def _move(self, who: int) -> None:
        mind = self.minds[who]
        chunk = mind.to_move.pop(0)
        moved = self.migrators[who].move(chunk)
        if moved.seqs:
            mind.to_push.append(self.migrators[who].gone(chunk, moved))

    def _push(self, who: int) -> None:
        mind = self.minds[who]
        mind.pushed.append(mind.to_push.pop(0))
        self.migrators[who].push(mind.pushed[-1])

    def _drop(self, who: int) -> None:
        """Behind the real fence: whatever was in Redis by then can't be forgotten any more."""
        fences = self.client.get(self.target.keys.fence)
        try:
            self.migrators[who].drop_records()
        finally:
            if self.client.get(self.target.keys.fence) != fences:
                self.may_be_lost.clear()

    def _release(self, who: int) -> None:
        self.migrators[who].release()

    @precondition(lambda self: self.beats < FEW)
    @rule(who=WHO)
    def migrator_beats(self, who: int) -> None:
        self.beats += 1
        source = self.migrators[who].source
        with source.reading() as connection:
            target_id = binding.read(connection).target_id
        pair.Beat(self.target, source, target_id or "").once()
        self._redis_changed()

    @precondition(lambda self: any(mind.pushed for mind in self.minds))
    @rule(choice=CHOICES)
    def migrator_wakes_and_hands_off_again(self, choice: int) -> None:
        """It slept in the middle of a hand-off, for however long."""
        who, gone = chosen([(who, gone) for who, mind in enumerate(self.minds) for gone in mind.pushed], choice)
        with contextlib.suppress(Unavailable):  # a Redis that has forgotten is refused once: recovery comes first
            self.migrators[who].push(gone)
        self._redis_changed()

    # --- operators --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.purges < TWICE)
    @rule(dies_at=PURGE_DIES, redis_falls_back=FALLS_BACK)
    def operator_purges(self, dies_at: str | None, redis_falls_back: int | None) -> None:
        self.purges += 1
        migrator = self.migrators[0]
        before = self._rows()
        bits, _ = self._in_redis({identity.batch for identity in before})
        options = PurgeOptions(older_than_seconds=0)
        imports = FailureImport.FINAL
        purge = SourcePurge(migrator.source, self.target, migrator.routing, options, Stop(), Reporter(), imports)
        self._operate(purge.run, dies_at)
        gone = {identity: row for identity, (row, _) in before.items() if identity not in self._rows()}
        assert gone.keys() <= bits, "a purge deleted what Resque never got"
        self.purged |= gone
        if redis_falls_back is not None:
            self.redis_forgets(redis_falls_back)

    @precondition(lambda self: self.rollbacks < TWICE)
    @rule(func=st.sampled_from([None, *FUNCS]), dies_at=ROLLBACK_DIES, redis_falls_back=FALLS_BACK)
    def operator_rolls_back(self, func: str | None, dies_at: str | None, redis_falls_back: int | None) -> None:
        self.rollbacks += 1
        self._roll_back(func, dies_at)
        if redis_falls_back is not None:
            self.redis_forgets(redis_falls_back)

    @rule()
    def operator_resumes(self) -> None:
        for glob in ("*", *FUNCS):
            pauses.resume(self.target, glob)
        self._redis_changed()

    def _roll_back(self, func: str | None, dies_at: str | None = None) -> None:
        migrator = self.migrators[0]
        options = RollbackOptions(func_glob=func)
        rollback = SourceRollback(migrator.source, self.target, migrator.config, options, Stop(), Reporter())
        self._operate(rollback.run, dies_at)

    def _operate(self, command: Callable[[], object], dies_at: str | None) -> None:
        """One command, which may die; Redis may forget what it did between any two points behind its fence."""
        with contextlib.suppress(Died, Unavailable), at(dies_at, heard=self._passed):
            command()
        self._redis_changed()

    def _passed(self, point: str) -> None:
        if point == "fence.proved":
            self.may_be_lost.clear()
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
        place = max(0, len(self.may_be_lost) - 2 - choice)
        kept = self.may_be_lost[place]
        del self.may_be_lost[place + 1 :]
        restore(self.client, kept.values)
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
        return Kept(dump(self.client), frozenset(self.taken), frozenset(self.running))

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
        for number in self.held:
            assert found.in_job[number] == 1, f"job {number} is a Qudo worker's, and has left: {found}"
            assert found.moving[number] == 0, f"job {number} is a Qudo worker's, and moves: {found}"
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
        for batch, first, last, state in self.session.rows(
            "SELECT batch, first_seq, last_seq, state FROM qudo_migrate_chunk"
        ):
            chunks[batch].append((first, last, state))
        copies = self._rows()
        bits, present = self._in_redis({identity.batch for identity in (*copies, *self.purged)})
        returning = taking.returning(self.target, "main")
        assert set(present) <= {*copies, *self.purged}, "a job in Redis has no row in the outbox"
        found = Found(Counter(self._numbers_in_job()), Counter(), Counter(), Counter(), {})
        for identity, (row, is_due) in ({each: (row, False) for each, row in self.purged.items()} | copies).items():
            number = row.number
            states = {state for first, last, state in chunks[identity.batch] if first <= identity.seq <= last}
            states |= {ChunkState.READY} if is_due else set()
            times = len(present.get(identity, ())) + (identity in self.taken) + (identity in returning)
            if identity in bits:
                assert not states & HALF_MOVED, "a copy that still moves was handed off"
                assert times == 1, f"job {number} has its bit and was pushed {times} times"
                found.delivered[number] += 1
            else:
                assert times == 0, f"job {number} was pushed and has no bit"
                assert states, f"job {number} is undelivered and no record tells of it"
                (found.moving if states & HALF_MOVED else found.undelivered)[number] += 1
            assert set(present.get(identity, ())) <= {row}, f"a worker would get another job than {row}: {present}"
            if identity not in bits or identity in present or identity in self.running or identity in returning:
                found.alive[number] = identity
        return found

    def _rows(self) -> dict[Identity, tuple[Carried, bool]]:
        """The outbox: what each row carries, and whether it is an app's own that no hand-off has settled."""
        rows = self.session.rows(
            f"SELECT batch, seq, due, {self.session.as_bytes('arg')}, job_id, enqueue_time, retry_cnt"
            " FROM qudo_migrate_outbox"
        )
        return {
            Identity(batch, seq): (Carried(self._number(arg), *rest), due is not None)
            for batch, seq, due, arg, *rest in rows
        }

    def _in_redis(self, batches: set[int]) -> tuple[set[Identity], dict[Identity, list[Carried]]]:
        """The bits that are set, and the jobs that wait."""
        keys = self.target.keys
        with self.client.pipeline(transaction=False) as pipe:
            for name in QUEUES:
                pipe.lrange(keys.queue(name), 0, -1)
            pipe.lrange(keys.delayed(FAR), 0, -1)
            for batch in batches:
                pipe.get(keys.ledger(batch))
            lists: Sequence[Any] = pipe.execute()
        present: dict[Identity, list[Carried]] = defaultdict(list)
        for text in itertools.chain(*lists[: len(QUEUES) + 1]):
            payload = json.loads(text)
            ours = payload["qudo"]
            row = Carried(payload["args"][0]["number"], ours.get("id"), ours["enqueue_time"], ours.get("retry_cnt", 0))
            present[Identity.parse(ours["outbox"])].append(row)
        bits = {
            Identity(batch, 8 * place + bit)
            for batch, held in zip(batches, lists[len(QUEUES) + 1 :], strict=True)
            for place, byte in enumerate(held or b"")
            for bit in range(8)
            if byte & 0x80 >> bit
        }
        return bits, dict(present)

    def _numbers_in_job(self, where: str = "1 = 1") -> list[int]:
        """Without transactions a row on its way back counts once it is noted; before, its row in the outbox does."""
        noted = f"(grabbed_until <> {RETURN_LEASE} OR id IN (SELECT job_id FROM qudo_migrate_returned))"
        rows = self.session.rows(f"SELECT {self.session.as_bytes('arg')} FROM job WHERE {where} AND {noted}")
        return [self._number(arg) for (arg,) in rows]

    def _is_on_its_way_back(self, job_id: int) -> bool:
        """A row without a note, where `job` knows no transactions: a worker that once had its id must not hit it."""
        return bool(self.session.rows(f"SELECT id FROM job WHERE id = {job_id} AND grabbed_until = {RETURN_LEASE}"))

    def _has_moving_copy(self, number: int) -> bool:
        """Without transactions: a row that is gone is taken for one that we deleted (test_moving.py tells of that)."""
        return not self.ground.transactional and bool(self._find().moving[number])

    @staticmethod
    def _number(arg: bytes) -> int:
        return int(json.loads(arg)["number"])

    # --- the end ----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if self.sound:
            self._drain()

    def _drain(self) -> None:
        """Whatever has happened: one migrator that nobody disturbs brings all over, and Resque runs it."""
        self.session.execute(
            f"UPDATE job SET grabbed_until = {LONG_AGO} WHERE grabbed_until NOT IN (0, {MOVE_LEASE}, {RETURN_LEASE})"
        )
        self.held.clear()
        self.operator_resumes()
        migrator = self.migrators[0]
        migrator.forget()
        for _ in range(2 * len(self.live) + 2):
            if taking.returning(self.target, "main"):
                self._roll_back("ends what others have begun")
            if taking.returning(self.target, "main"):  # its key was taken meanwhile: only Qudo can do that job now
                self.session.execute(f"UPDATE job SET run_after = 0 WHERE run_after = {FAR}")
                self.qudo_worker_runs_one(0, Outcome.COMPLETED)
                continue
            migrator.pass_over()
            self.each_job_is_in_exactly_one_place()
            if not self.session.value("SELECT COUNT(*) FROM job") and not taking.returning(self.target, "main"):
                break
            self._run_everything()
            migrator.release()
        left = self.session.rows("SELECT id, func_id, uniqkey, grabbed_until, run_after FROM job")
        assert not left, f"left in Qudo: {left}; keys: {self.session.rows('SELECT * FROM qudo_migrate_pending')}"
        assert count_undelivered(migrator.source, self.target) == 0
        assert migrator.delivery.undelivered().deliverable == 0
        assert sorted(self._find().delivered.elements()) == sorted(self.live)
        migrator.recover()
        migrator.drop_records()
        assert self.session.value("SELECT COUNT(*) FROM qudo_migrate_chunk") == 0

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
    monkeypatch.setattr(planning, "time", clock)
    monkeypatch.setattr(looking, "SECOND_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(rolling_back, "SECOND_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(giving_back, "FLUSH_SECONDS", 0.0)  # nobody kills MariaDB here
    numbers = itertools.count(1)
    monkeypatch.setattr(
        batches, "secrets", SimpleNamespace(randbits=lambda _: next(numbers))
    )  # the same order each time
    # What is remembered for some time would make an example depend on how fast it runs.
    monkeypatch.setattr(watch, "OLD_SECONDS", -1.0)
    monkeypatch.setattr(source_side, "BINDING_SECONDS", -1.0)
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(pausing, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(watch.Watch, "_start", lambda self: None)
    # Each job is a call of its own, so that a migrator can die in the middle of a chunk.
    monkeypatch.setattr(handoff, "CALL_JOBS", 1)


@pytest.fixture
def target(redis_server: RedisServer) -> Iterator[Target]:
    opened = Target.open(redis_server.url, "resque")
    yield opened
    opened.close()


def explore(database: Database, target: Target, examples: int, steps: int) -> None:
    ground = Ground(database, target)
    run_state_machine_as_test(
        cast("type[Crossing]", partial(Crossing, ground)),
        settings=settings(
            max_examples=EXAMPLES or examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=not EXAMPLES,
            phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    ground.close()


def test_every_job_crosses_once_from_sqlite(tmp_path: Path, target: Target) -> None:
    database = SQLiteDatabase(tmp_path / "qudo.db")
    explore(database, target, examples=45, steps=50)
    database.close()


def test_every_job_crosses_once_from_innodb(innodb: MariaDBDatabase, target: Target) -> None:
    explore(innodb, target, examples=40, steps=40)


def test_every_job_crosses_once_from_myisam(myisam: MariaDBDatabase, target: Target) -> None:
    explore(myisam, target, examples=45, steps=40)

"""Where every job of the shop is now, and whether it is still what the app enqueued. Reads both databases.

Shares nothing with the migrator but the comparison of two values: it reads SQLite and Redis by itself, knows Resque's
keys by heart, and holds each payload against the value that the app enqueued, not against what any decoder made of it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis

from migrate.demo.shop import Shop, ShopJob
from migrate.verify.values import difference


class Seen(NamedTuple):
    """One job as Resque holds it."""

    id: int  #: its id in Qudo
    queue: str
    due: int  #: Unix second until which it is delayed; 0: in its queue
    payload: dict[str, Any]


class Midway(NamedTuple):
    """Where the jobs are while nobody migrates: how many are where, and how many in two places that can both run."""

    in_qudo: int
    in_outbox: int  #: moved out of Qudo, not handed off
    in_resque: int
    in_both: int  #: runnable by Qudo and by Resque


class Account(NamedTuple):
    """The last word on all jobs. The words are those of the reports of `verify`."""

    jobs: int  #: that waited in the beginning
    queued: int
    delayed: int
    in_flight: int
    untranslatable: int
    not_moved: int  #: free in Qudo, though it should have crossed
    missing: int  #: found nowhere
    duplicated: int  #: found in more than one place, or twice in one
    mismatched: int  #: not what the app enqueued, or not where it belongs
    foreign: int  #: jobs in Resque that never were in the shop
    imported: int  #: failures that came from exception_log

    @property
    def handed_off(self) -> int:
        """All that Resque has."""
        return self.queued + self.delayed

    @property
    def is_right(self) -> bool:
        """Every job is accounted for exactly once and unchanged, and nothing was left behind."""
        wrong = self.not_moved + self.missing + self.duplicated + self.mismatched + self.foreign
        return not wrong and self.handed_off + self.in_flight + self.untranslatable == self.jobs

    @property
    def verdict(self) -> str:
        """Ok, or differences."""
        return "ok" if self.is_right else "differences"

    @property
    def summary(self) -> str:
        """The whole account as one sentence."""
        foreign = f", {self.foreign:,} that never were in the shop" if self.foreign else ""
        return (
            f"{self.jobs:,} jobs waited = {self.handed_off:,} in Resque + {self.in_flight:,} in flight"
            f" + {self.untranslatable:,} untranslatable; {self.missing:,} lost, {self.duplicated:,} doubled,"
            f" {self.mismatched:,} changed, {self.not_moved:,} left behind{foreign}; {self.imported:,} old failures"
            " imported"
        )


def queue_lengths(redis: Redis) -> dict[str, int]:
    """The length of each of Resque's queues."""
    names = sorted(os.fsdecode(name) for name in redis.smembers("resque:queues"))
    return dict(zip(names, _lengths(redis, [f"resque:queue:{name}" for name in names]), strict=True))


def count_in_resque(redis: Redis) -> int:
    """How many jobs Resque has at this moment, due or delayed."""
    delayed = [f"resque:delayed:{second}" for second in _seconds(redis)]
    return sum(queue_lengths(redis).values()) + sum(_lengths(redis, delayed))


def count_moved(database: Path) -> int:
    """How many jobs have left Qudo by now, handed off or not."""
    with closing(sqlite3.connect(database)) as connection:
        (moved,) = connection.execute("SELECT count(*) FROM qudo_migrate_outbox").fetchone()
    return int(moved)


def resque_jobs(redis: Redis) -> Iterator[Seen]:
    """Every job in Resque, due or delayed. No worker runs in the demo, so none is anywhere else."""
    for queue in queue_lengths(redis):
        for text in _entries(redis, f"resque:queue:{queue}"):
            payload = json.loads(text)
            yield Seen(_qudo_id(payload), queue, 0, payload)
    for second in _seconds(redis):
        for text in _entries(redis, f"resque:delayed:{second}"):
            payload = json.loads(text)
            yield Seen(_qudo_id(payload), str(payload.get("queue")), second, payload)


def midway(database: Path, redis: Redis) -> Midway:
    """Look at both sides while no migrator runs."""
    with closing(sqlite3.connect(database)) as connection:
        in_qudo = _ids(connection, "SELECT id FROM job")
        in_outbox = _ids(connection, "SELECT job_id FROM qudo_migrate_outbox")
    in_resque = {seen.id for seen in resque_jobs(redis)}
    return Midway(len(in_qudo), len(in_outbox - in_resque), len(in_resque), len(in_qudo & in_resque))


def account(shop: Shop, database: Path, redis: Redis, now: int) -> Account:
    """Find each job of the shop; `now` is the Unix second by which leases are judged."""
    with closing(sqlite3.connect(database)) as connection:
        leases = dict(connection.execute("SELECT id, grabbed_until FROM job").fetchall())
    seen = list(resque_jobs(redis))
    places = Counter([*leases, *(each.id for each in seen)])
    numbered = dict(enumerate(shop.jobs, 1))
    free = [number for number, until in leases.items() if until <= now]
    untranslatable = sum(number in numbered and not numbered[number].translatable for number in free)
    return Account(
        jobs=len(numbered),
        queued=sum(each.due == 0 for each in seen),
        delayed=sum(each.due != 0 for each in seen),
        in_flight=len(leases) - len(free),
        untranslatable=untranslatable,
        not_moved=len(free) - untranslatable,
        missing=sum(number not in places for number in numbered),
        duplicated=sum(count - 1 for count in places.values()),
        mismatched=sum(each.id in numbered and not _is_unchanged(numbered[each.id], each) for each in seen),
        foreign=sum(number not in numbered for number in places),
        imported=int(redis.llen("resque:failed")),
    )


def _is_unchanged(job: ShopJob, seen: Seen) -> bool:
    """Whether a worker gets what the app enqueued: class, value, queue and time, and what Qudo knew besides."""
    ours = seen.payload.get("qudo", {})
    is_due = job.run_after <= job.enqueue_time
    expected: dict[str, Any] = {
        "class": job.func,
        "args": [job.value],
        "queue": job.func.lower().replace("::", "_"),
        "due": 0 if is_due else job.run_after,
        "uniqkey": job.uniqkey,
        "priority": job.priority,
        "retry_cnt": job.retry_cnt,
    }
    found = {
        "class": seen.payload.get("class"),
        "args": seen.payload.get("args"),
        "queue": seen.queue,
        "due": seen.due,
        "uniqkey": ours.get("uniqkey"),
        "priority": ours.get("priority", 0),
        "retry_cnt": ours.get("retry_cnt", 0),
    }
    return difference(expected, found) is None


def _seconds(redis: Redis) -> list[int]:
    """The seconds in which delayed jobs are due."""
    return [int(second) for second in redis.zrange("resque:delayed_queue_schedule", 0, -1)]  # type: ignore[arg-type]


def _lengths(redis: Redis, keys: list[str]) -> list[int]:
    pipeline = redis.pipeline(transaction=False)
    for key in keys:
        pipeline.llen(key)
    return [int(length) for length in pipeline.execute()]


def _entries(redis: Redis, key: str) -> list[bytes]:
    entries: list[bytes] = redis.lrange(key, 0, -1)  # type: ignore[assignment]
    return entries


def _qudo_id(payload: dict[str, Any]) -> int:
    """The job's id in Qudo; 0, which none has, for a job that doesn't come from there."""
    return int(payload.get("qudo", {}).get("id", 0))


def _ids(connection: sqlite3.Connection, query: str) -> set[int]:
    return {row[0] for row in connection.execute(query)}

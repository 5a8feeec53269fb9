"""Reckons a migration larger than any test: time, memory, network, and what ends first. See docs/scale.md.

Pure arithmetic and a small simulation by the second, on measured costs of one job (the options' defaults are those of
docs/performance.md). Each source has a MySQL of its own and one migrator; all push into one Redis for each namespace.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

GIGABYTE = 1e9
#: Bytes of Redis's replication and of the append-only file for a job, beside its payload.
COMMAND_BYTES = 10
#: Microseconds of `plan` for a row of `job`.
PLAN_US = 0.6
#: Bytes of a job's row in `job` and in the outbox beside its arg, as InnoDB stores it.
ROW_BYTES = 130


@dataclass(frozen=True)
class Shop:
    """What there is to move, and where to."""

    jobs: int
    sources: int
    namespaces: int  #: each on a Redis of its own, or on a node of a Cluster
    arg_bytes: int
    workers_per_second: float  #: jobs that all workers finish in a second
    redis_gigabytes: float  #: memory of each Redis


@dataclass(frozen=True)
class Costs:
    """Microseconds of one core for a job, and bytes; measured."""

    migrator_us: float
    mysql_us: float
    redis_us: float
    source_jobs_per_second: float  #: that one migrator and one MySQL reach together
    payload_bytes: float  #: beside the arg
    list_bytes: float  #: of Redis for a queued job beside its payload
    ledger_bytes: float


@dataclass(frozen=True)
class Outcome:
    """What comes out. Sizes are gigabytes."""

    hours: float | None  #: None: never
    jobs_per_second: float
    limited_by: str
    redis_peak: float  #: of the fullest Redis, all jobs waiting or as workers leave them
    redis_ledgers: float  #: of each Redis, for ever
    ledger_keys: int
    mysql_extra: float  #: on each source's disk, until the purge
    mysql_binlog: float  #: of each source, with row format: move and purge
    network: float  #: to each Redis
    network_megabits: float  #: a second, to each Redis
    migrator_cores: float  #: of each source's migrator
    mysql_cores: float  #: of each source's server
    redis_cores: float  #: of each Redis: one is all that it can use
    plan_seconds: float
    breaks_first: str


def simulate(shop: Shop, costs: Costs) -> Outcome:
    """Step by the second until all jobs have crossed, or a Redis is full."""
    sources_each = shop.sources / shop.namespaces
    by_source = costs.source_jobs_per_second
    by_redis = 1e6 / costs.redis_us
    rate_each = min(by_source * sources_each, by_redis)  # of one namespace
    limited_by = "the sources" if by_source * sources_each <= by_redis else "Redis's one thread"
    jobs_each = shop.jobs / shop.namespaces
    workers_each = shop.workers_per_second / shop.namespaces
    bytes_each = shop.arg_bytes + costs.payload_bytes + costs.list_bytes
    room = shop.redis_gigabytes * GIGABYTE * 0.8  # a fork for a snapshot or a rewrite needs some

    moved = finished = peak = 0.0
    seconds = 0
    full_at: float | None = None
    step = max(1, round(jobs_each / rate_each / 10_000))
    while moved < jobs_each:
        seconds += step
        coming = min(rate_each * step, jobs_each - moved)
        finished = min(finished + workers_each * step, moved + coming)
        held = (moved + coming - finished) * bytes_each + (moved + coming) * costs.ledger_bytes
        if held > room:  # --max-queue-length: no faster than workers make room
            full_at = full_at or seconds / 3600
            coming = min(coming, max(workers_each * step, 0))
            limited_by = "the workers (Redis is full)"
            if coming <= 0:
                break
        moved += coming
        peak = max(peak, (moved - finished) * bytes_each + moved * costs.ledger_bytes)
    rows = shop.jobs / shop.sources
    breaks = "nothing" if full_at is None else f"Redis is full after {full_at:.1f} h"
    return Outcome(
        hours=round(seconds / 3600, 2) if moved >= jobs_each else None,
        jobs_per_second=round(moved / seconds * shop.namespaces),
        limited_by=limited_by,
        redis_peak=round(peak / GIGABYTE, 1),
        redis_ledgers=round(jobs_each * costs.ledger_bytes / GIGABYTE, 3),
        ledger_keys=round(jobs_each / 65_536),
        mysql_extra=round(rows * (shop.arg_bytes + ROW_BYTES) / GIGABYTE, 1),
        mysql_binlog=round(3 * rows * (shop.arg_bytes + ROW_BYTES) / GIGABYTE, 1),
        network=round(jobs_each * (shop.arg_bytes + costs.payload_bytes + COMMAND_BYTES) / GIGABYTE, 1),
        network_megabits=round(rate_each * (shop.arg_bytes + costs.payload_bytes + COMMAND_BYTES) * 8 / 1e6),
        migrator_cores=round(rate_each / sources_each * costs.migrator_us / 1e6, 2),
        mysql_cores=round(rate_each / sources_each * costs.mysql_us / 1e6, 2),
        redis_cores=round(rate_each * costs.redis_us / 1e6, 2),
        plan_seconds=round(rows * PLAN_US / 1e6, 1),
        breaks_first=breaks,
    )


def main() -> None:
    """Print what comes out."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000_000)
    parser.add_argument("--sources", type=int, default=10)
    parser.add_argument("--namespaces", type=int, default=1)
    parser.add_argument("--arg-bytes", type=int, default=200)
    parser.add_argument("--workers-per-second", type=float, default=0, help="jobs that all workers finish")
    parser.add_argument("--redis-gigabytes", type=float, default=512, help="memory of each Redis")
    parser.add_argument("--source-jobs-per-second", type=float, default=30_000, help="measured: scripts/bench")
    parser.add_argument("--migrator-us", type=float, default=15)
    parser.add_argument("--mysql-us", type=float, default=22)
    parser.add_argument("--redis-us", type=float, default=2.5)
    parser.add_argument("--payload-bytes", type=float, default=131)
    parser.add_argument("--list-bytes", type=float, default=22)
    parser.add_argument("--ledger-bytes", type=float, default=0.16)
    parser.add_argument("--json", action="store_true")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    shop = Shop(**{name: given[name] for name in Shop.__dataclass_fields__})
    costs = Costs(**{name: given[name] for name in Costs.__dataclass_fields__})
    outcome = asdict(simulate(shop, costs))
    if as_json:
        print(json.dumps(outcome))
        return
    for name, value in outcome.items():
        print(f"{name.replace('_', ' '):24} {'never' if value is None else value}")


if __name__ == "__main__":
    main()

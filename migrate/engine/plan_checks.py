"""What `plan` thinks of the servers it met. Judges facts that others read; no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.config import Config, Delayed, Unique
from migrate.engine.plan_result import Check, Estimate, Level, PlannedFunc, PlannedSource
from migrate.qudo.source import ServerFacts
from migrate.resque.dialects import Dialect
from migrate.resque.target import TargetFacts

#: Redis before this has no scripts that may ask for the time and then write.
OLDEST_REDIS = (5, 0)
#: Share of `maxmemory` that may be in use when all is in Redis.
FULL_SHARE = 0.9


def target_checks(facts: TargetFacts, estimate: Estimate) -> list[Check]:
    """What the Redis is fit for."""
    checks: list[Check] = []

    def add(level: Level, message: str, advice: str = "") -> None:
        checks.append(Check(level, "target", message, advice))

    numbers = tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_REDIS:
        add(Level.PROBLEM, f"{facts.product} {facts.version} is too old", "Redis 5 or later is needed")
    if facts.evicts:
        add(
            Level.PROBLEM,
            f"maxmemory-policy is {facts.eviction}: jobs are thrown away when memory is full",
            "set maxmemory-policy to noeviction",
        )
    if facts.read_only:
        add(Level.PROBLEM, "it is a read-only replica", "point target.url at the master")
    if facts.is_cluster:
        add(
            Level.NOTE,
            "it is a Redis Cluster: one node has the whole namespace, so that node's memory and speed count",
        )
    checks += _persistence(facts)
    free = facts.max_memory - facts.used_memory
    if facts.max_memory and estimate.redis_bytes > max(0, free):
        add(
            Level.PROBLEM,
            f"needs about {size(estimate.redis_bytes)}, of maxmemory only {size(max(0, free))} is free",
            "raise maxmemory, or feed Redis only as fast as workers drain it",
        )
    elif facts.max_memory and facts.used_memory + estimate.redis_bytes > FULL_SHARE * facts.max_memory:
        add(Level.WARNING, f"will be more than {FULL_SHARE:.0%} full", "raise maxmemory")
    else:
        limit = f"{size(free)} of maxmemory are free" if facts.max_memory else "there is no maxmemory"
        needed = f"about {size(estimate.redis_bytes)} more needed, " if estimate.redis_bytes else ""
        add(Level.OK, f"memory: {needed}{limit}")
    return checks


def _persistence(facts: TargetFacts) -> list[Check]:
    about = "target"
    if facts.aof and facts.append_fsync in ("always", "everysec", None):
        return [Check(Level.OK, about, f"append-only file is on, appendfsync {facts.append_fsync or 'unknown'}")]
    if facts.aof:
        return [
            Check(
                Level.WARNING,
                about,
                f"appendfsync is {facts.append_fsync}: nothing tells what a crash would forget",
                "set appendfsync everysec",
            )
        ]
    return [
        Check(
            Level.WARNING,
            about,
            "no append-only file: a crash forgets jobs; what the outbox still has is handed off again,"
            " started jobs of that span start again",
            "set appendonly yes",
        )
    ]


def source_checks(name: str, facts: ServerFacts, lacking_rights: Sequence[str], lacking_tables: int) -> list[Check]:
    """What the source's server and account are fit for."""
    about = f"source {name}"
    checks: list[Check] = []

    def add(level: Level, message: str, advice: str = "") -> None:
        checks.append(Check(level, about, message, advice))

    if lacking_rights:
        add(
            Level.PROBLEM,
            f"the account seems to lack {', '.join(lacking_rights)}",
            "grant what `qudo-migrate init --print-ddl` lists",
        )
    if facts.read_only:
        add(Level.PROBLEM, "the server is read-only", "point the url at the master")
    if lacking_tables:
        add(Level.NOTE, f"{lacking_tables} tables of ours are to be created: by init, by run, or by a DBA")
    if facts.binlog_format == "STATEMENT":
        add(
            Level.WARNING,
            "binlog_format is STATEMENT: sessions use ROW where the account may set it, else REPEATABLE READ with small"
            " batches, behind which enqueues wait for a moment",
            "set binlog_format to ROW or MIXED for the migration",
        )
    if not facts.transactional:
        add(
            Level.NOTE,
            f"job is {facts.job_engine}: rows are claimed by lease and copied; a move takes several statements",
        )
    if facts.flush_at_commit not in (None, 1):
        add(
            Level.WARNING,
            f"innodb_flush_log_at_trx_commit is {facts.flush_at_commit}: a crash of the server can bring back rows that"
            " have been handed off",
            "set it to 1 for the migration",
        )
    elif facts.transactional:
        add(Level.OK, f"{facts.product} {facts.version}, {facts.job_engine}, commits are durable")
    if facts.binlog_format is not None and facts.sync_binlog == 0:
        add(Level.NOTE, "sync_binlog is 0: a promoted replica may lack the newest moves and bring rows back")
    return checks


def func_checks(source: PlannedSource, config: Config) -> list[Check]:
    """What in the jobs themselves a person should know."""
    checks: list[Check] = []
    for func in source.funcs:
        about = f"func {func.func} in {source.name}"
        route = config.route_for(func.func)
        if func.untranslatable_in_sample:
            checks.append(
                Check(
                    Level.PROBLEM,
                    about,
                    f"{func.untranslatable_in_sample} of {func.sampled} sampled jobs can't be translated; such jobs"
                    " stay in Qudo",
                    "see the list of samples; set serializer, bytes or blessed in its route",
                )
            )
        if func.moves and func.in_flight and func.with_uniqkey and route.unique is Unique.KEEP:
            checks.append(
                Check(
                    Level.WARNING,
                    about,
                    "Qudo workers are at work on it and its jobs have uniqkeys: a job that waits for its key may run in"
                    " Qudo beside the one in Resque",
                    "stop its Qudo workers first",
                )
            )
        if func.moves and func.sampled and func.sure < 1.0 and func.serializer != "raw":
            checks.append(
                Check(Level.NOTE, about, f"{func.sure:.0%} of the sampled jobs are {func.serializer}: the rest differ")
            )
    return checks


def workers_need(sources: Sequence[PlannedSource], config: Config) -> list[str]:
    """What the workers on the new side must have."""
    moving = [func for source in sources for func in source.funcs if func.moves]
    classes = sorted({func.class_ for func in moving})
    queues = sorted({queue for func in moving for queue in func.queues})
    needs = [f"classes: {', '.join(classes)}", f"queues: {', '.join(queues)}"] if moving else []
    routes = [config.route_for(func.func) for func in moving]
    dialect = config.target.dialect
    if any(route.delayed is Delayed.SCHEDULER for route in routes):
        scheduler = {
            Dialect.PERL: "the Perl world has none: run `qudo-migrate schedule`, resque-scheduler or node-resque's",
            Dialect.RUBY: "resque-scheduler",
            Dialect.NODE: "node-resque's Scheduler",
        }[dialect]
        needs.append(f"a scheduler for jobs that are due later ({scheduler})")
    if any(route.delayed is Delayed.START_TIME for route in routes):
        needs.append("Resque::Plugin::Delay in the workers; without it, early jobs run at once")
    if dialect is Dialect.PERL and any(route.max_retry for route in routes):
        needs.append("Resque::Plugin::Retry in the workers, for max_retry")
    return needs


def rough_estimate(funcs: Sequence[PlannedFunc], rows_per_second: float) -> Estimate:
    """Memory, disk and time for the jobs of these funcs, from samples. Sizes are bytes."""
    jobs = redis = mysql = 0
    for func in (func for func in funcs if func.moves):
        count = func.ready + func.delayed
        payload = func.mean_arg_bytes + PAYLOAD_BYTES + len(func.func)
        jobs += count
        redis += func.ready * (payload + LIST_BYTES) + func.delayed * (2 * payload + DELAYED_BYTES)
        mysql += count * (func.mean_arg_bytes + OUTBOX_ROW_BYTES)
    seconds = jobs / rows_per_second + mysql / BYTES_PER_SECOND
    return Estimate(jobs, redis, mysql, round(seconds, 1))


#: Bytes of a payload around its args; of a list's entry; of a delayed job's entry, set and key (docs/performance.md).
PAYLOAD_BYTES = 130
LIST_BYTES = 12
DELAYED_BYTES = 250
#: Bytes of an outbox row besides its arg, as InnoDB stores it.
OUTBOX_ROW_BYTES = 90
#: Bytes of args that a migration moves in a second where args are large.
BYTES_PER_SECOND = 20_000_000.0


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError

"""After Redis was lost, emptied, restored from an old copy or replaced: a person decides, this acts.

Each step leaves a state that every migrator refuses, until the last: the source's own note of its new target. So a
crash in between is answered by the same command again.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from migrate.config import Config, SourceConfig
from migrate.engine import binding
from migrate.engine.recording import record
from migrate.engine.reporters import Reporter
from migrate.engine.results import ErrorLine, Tally
from migrate.engine.side_by_side import error_lines, error_statuses, exit_status, side_by_side
from migrate.errors import MigrateError, Refused, TargetMismatch, Unavailable
from migrate.qudo import binding as source_side
from migrate.qudo import ddl, leasing, outbox, purging
from migrate.qudo.outbox import ChunkState
from migrate.qudo.source import Source
from migrate.resque import binding as target_side
from migrate.resque import ledger
from migrate.resque.target import Target

#: Batches whose bits are read at a time.
BATCHES_PER_READ = 256


class RedisLost(StrEnum):
    """What becomes of the jobs that the lost Redis had."""

    HAND_OFF = "hand-off"  #: all go to the new Redis; those that had been started run again
    HOLD = "hold"  #: they stay in the outbox, until `recover --redis-lost hand-off`


_NATIVES = "jobs born in Resque (step resque) that the lost Redis had are gone: no row tells of them"

CONSEQUENCES = {
    RedisLost.HAND_OFF: (
        "every job in the outbox that this Redis doesn't know is handed off (again) by the next run",
        "jobs that workers had started or finished before the loss run a second time",
        "failures that had been imported are not imported again: they stay marked in exception_log",
        _NATIVES,
    ),
    RedisLost.HOLD: (
        "every job in the outbox that this Redis doesn't know is held back: nothing of it runs",
        "jobs that no worker had started before the loss wait until a person decides",
        "the next run moves and hands off what is still in Qudo; later, recover --redis-lost hand-off ends that",
        _NATIVES,
    ),
}


class RecoveredSource(msgspec.Struct, frozen=True):
    """One source; `jobs` are those handed off again or held back."""

    name: str
    jobs: int
    problem: str | None  #: why the target was refused until now; None: it was not
    error: str | None = None


class RecoverResult(msgspec.Struct, frozen=True):
    """What `recover` prints with `--json`."""

    command: str
    redis_lost: RedisLost
    dry_run: bool
    exit_status: int
    consequences: list[str]
    sources: list[RecoveredSource]
    errors: list[ErrorLine]
    next: str


def recover(
    config: Config, sources: Sequence[SourceConfig], mode: RedisLost, *, old_target: str | None, dry_run: bool
) -> RecoverResult:
    """Bind all sources to the Redis of the configuration as it is now.

    All sources at once: they share a target id. `old_target`: url of the Redis that was replaced, made invalid where it
    can be reached. Raises Refused when nothing is wrong and nothing is held.
    """
    if len(sources) != len(config.source):
        raise Refused("recover concerns all sources: they share one target id", advice="leave out --source")
    target = Target.open(config.target.url, config.target.namespace)
    problems: dict[str, str | None] = {}
    jobs: dict[str, int] = {}
    new: list[tuple[str, int]] = []

    def look(source: Source, _tally: Tally) -> None:
        problems[source.name], jobs[source.name] = _problem(source, target), _lacking(source, target)

    def act(source: Source, _tally: Tally) -> None:
        jobs[source.name] = _rebuild(source, target, mode)
        source_id = source_side.identify(source)
        target_side.register_source(target, source.name, source_id)
        source_side.rebind(source, *new[0])

    try:
        target.check_usable()
        works = side_by_side(sources, look, Reporter())
        wrong = any(problems.values()) or (mode is RedisLost.HAND_OFF and any(jobs.values()))
        if not wrong and not error_statuses(works):
            raise Refused("nothing to recover: the target is the one that the sources know, and up to date")
        if not dry_run and not error_statuses(works):
            if old_target is not None:
                _invalidate(config, old_target)
            new.append(target_side.renew(target))
            works = side_by_side(sources, act, Reporter())
            counts = {"jobs": sum(jobs.values())}
            status = exit_status(error_statuses(works))
            record(target, "recover", seconds=0, options={"redis_lost": mode}, counts=counts, exit_status=status)
    finally:
        target.close()
    return RecoverResult(
        command="recover",
        redis_lost=mode,
        dry_run=dry_run,
        exit_status=exit_status(error_statuses(works)),
        consequences=list(CONSEQUENCES[mode]),
        sources=[
            RecoveredSource(
                each.source.name,
                jobs.get(each.source.name, 0),
                problems.get(each.source.name),
                each.tally.error.message if each.tally.error else None,
            )
            for each in works
        ],
        errors=error_lines(works),
        next=f"qudo-migrate recover --redis-lost {mode} --yes" if dry_run else "qudo-migrate run",
    )


def _problem(source: Source, target: Target) -> str | None:
    try:
        binding.check(source, target)
    except TargetMismatch as error:
        return error.message
    return None


def _lacking(source: Source, target: Target) -> int:
    """How many outbox rows this Redis doesn't know."""
    if ddl.lacking(source):
        return 0
    lacking = 0
    for batch, bits in _batches(source, target):
        with source.reading() as connection:
            lacking += sum(not ledger.is_set(bits, seq) for seq in outbox.seqs_of(connection, batch))
    return lacking


def _rebuild(source: Source, target: Target, mode: RedisLost) -> int:
    """Give all rows that this Redis doesn't know a chunk record again: recovery goes by those."""
    ddl.create_tables(source)
    if not source.facts().transactional:
        leasing.settle(source)
    state = ChunkState.READY if mode is RedisLost.HAND_OFF else ChunkState.HELD
    return sum(
        outbox.rebuild_chunks(source, batch, lambda seq, bits=bits: not ledger.is_set(bits, seq), state)  # type: ignore[misc]
        for batch, bits in _batches(source, target)
    )


def _batches(source: Source, target: Target) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    after = -1
    while True:
        with source.reading() as connection:
            batches = purging.batches(connection, after, BATCHES_PER_READ)
        if not batches:
            return found
        found += ledger.bitmaps(target, batches).items()
        after = batches[-1]


def _invalidate(config: Config, old_target: str) -> None:
    """Make the replaced Redis refuse everybody, where it can be reached."""
    old = Target.open(old_target, config.target.namespace)
    try:
        target_side.invalidate(old)
    except Unavailable:
        return
    except MigrateError as error:
        raise Refused(f"the old target can't be made invalid: {error.message}", advice="stop it") from error
    finally:
        old.close()

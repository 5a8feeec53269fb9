"""Lengths of queues and lists. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from migrate.resque.target import Target


class QueueLengths(NamedTuple):
    """What Resque holds, in jobs."""

    queues: dict[str, int]
    delayed: int
    failed: int
    workers: int  #: registered
    working: int  #: of them with a job


def lengths(target: Target, names: Sequence[str]) -> dict[str, int]:
    """Jobs in each queue, one round trip."""
    with target.commands() as client, client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(target.keys.queue(name))
        return dict(zip(names, (int(length) for length in pipe.execute()), strict=True))


def all_lengths(target: Target) -> QueueLengths:
    """All queues, the delayed jobs, the failures and the workers: some round trips, whatever they hold."""
    keys = target.keys
    with target.commands() as client:
        names: Iterable[bytes] = client.smembers(keys.queues)  # type: ignore[assignment]
        seconds: Sequence[bytes] = client.zrange(keys.schedule, 0, -1)  # type: ignore[assignment]
        workers: Iterable[bytes] = client.smembers(keys.workers)  # type: ignore[assignment]
        with client.pipeline(transaction=False) as pipe:
            pipe.llen(keys.failed)
            listed = sorted(worker.decode("utf-8", "surrogateescape") for worker in workers)
            for worker in listed:
                pipe.exists(keys.worker(worker))
            for second in seconds:
                pipe.llen(keys.delayed(int(second)))
            failed, *rest = (int(value) for value in pipe.execute())
    return QueueLengths(
        queues=lengths(target, sorted(name.decode("utf-8", "surrogateescape") for name in names)),
        delayed=sum(rest[len(listed) :]),
        failed=failed,
        workers=len(listed),
        working=sum(rest[: len(listed)]),
    )

"""Which limits the operator's options mean for one source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from migrate.engine.giving_way import GiveWay
from migrate.engine.options import DrainOptions
from migrate.engine.throttling import Limit, MaxLoad, QueueRoom, ReplicaLag
from migrate.qudo.load import OtherClients
from migrate.qudo.source import Source
from migrate.resque.target import Target


def limits(
    source: Source, replicas: Sequence[str], target: Target, options: DrainOptions, *, gives_way: bool = False
) -> Iterator[Limit]:
    """What holds one source's drain back. `gives_way`: `--max-load` also lets others go first; for long drains."""
    if options.max_queue_length is not None:
        yield QueueRoom(target, options.max_queue_length)
    if options.max_load and not source.is_sqlite:
        yield MaxLoad(source, options.max_load)
    if replicas:
        opened = [Source(f"replica {place} of {source.name}", url) for place, url in enumerate(replicas, start=1)]
        yield ReplicaLag(opened, options.max_lag)
    if gives_way and options.max_load and not source.is_sqlite:
        yield GiveWay(OtherClients(source))

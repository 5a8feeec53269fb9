"""Which limits the operator's options mean for one source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from migrate.engine.options import DrainOptions
from migrate.engine.throttling import Limit, MaxLoad, QueueRoom, ReplicaLag
from migrate.qudo.source import Source
from migrate.resque.target import Target


def limits(source: Source, replicas: Sequence[str], target: Target, options: DrainOptions) -> Iterator[Limit]:
    """What holds one source's drain back."""
    if options.max_queue_length is not None:
        yield QueueRoom(target, options.max_queue_length)
    if options.max_load and not source.is_sqlite:
        yield MaxLoad(source, options.max_load)
    if replicas:
        opened = [Source(f"replica {place} of {source.name}", url) for place, url in enumerate(replicas, start=1)]
        yield ReplicaLag(opened, options.max_lag)

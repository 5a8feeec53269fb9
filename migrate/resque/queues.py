"""Queue lengths. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.resque.target import Target


def lengths(target: Target, names: Sequence[str]) -> dict[str, int]:
    """Jobs in each queue, one round trip."""
    with target.commands() as client, client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(target.keys.queue(name))
        return dict(zip(names, (int(length) for length in pipe.execute()), strict=True))

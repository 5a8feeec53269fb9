"""Freeing uniqkeys whose job is over, so that the next job under the key may cross. Reads Redis, writes `pending`."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.engine import crossed
from migrate.engine.routing import Routing
from migrate.failpoints import reach
from migrate.qudo import pending
from migrate.qudo.pending import Waiter
from migrate.qudo.source import Source
from migrate.resque import ledger
from migrate.resque.looking import Place
from migrate.resque.target import Target

#: Waiters that one look serves.
MOST_WAITERS = 10_000


def release_over(source: Source, target: Target, routing: Routing, waiters: Sequence[Waiter]) -> int:
    """Free the keys of those waiters whose holder was handed off and is not pending any more; how many.

    A job that failed for good is over, as in Qudo, which deletes its row.
    """
    delivered = ledger.delivered_many(target, [waiter.holder for waiter in waiters])
    if not delivered:
        return 0
    sightings = crossed.find(source, target, routing, delivered)
    alive = {identity for identity, sighting in sightings.items() if sighting.place is not Place.FAILED}
    over = [waiter for waiter in waiters if waiter.holder in delivered and waiter.holder not in alive]
    with source.writing() as connection:
        for waiter in over:
            pending.release(connection, waiter)
            reach("pending.released")
    return len(over)

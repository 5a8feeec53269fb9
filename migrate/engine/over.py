"""Freeing uniqkeys whose job is over, so that the next job under the key may cross. Reads Redis, writes `pending`."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.engine import crossed
from migrate.engine.routing import Routing
from migrate.failpoints import reach
from migrate.jobs import Identity
from migrate.qudo import pending
from migrate.qudo.source import Source
from migrate.resque import ledger, taking
from migrate.resque.looking import Place
from migrate.resque.target import Target

#: Jobs that one look serves.
MOST_HOLDERS = 10_000


def release_over(source: Source, target: Target, routing: Routing, holders: Sequence[Identity]) -> set[Identity]:
    """Free the keys of those jobs that were handed off and are not pending any more; returns them.

    A job that failed for good is over, as in Qudo, which deletes its row. One that a rollback has taken is not.
    """
    delivered = ledger.delivered_many(target, holders)
    if not delivered:
        return set()
    sightings = crossed.find(source, target, routing, delivered)
    alive = {identity for identity, sighting in sightings.items() if sighting.place is not Place.FAILED}
    over = delivered - alive - taking.returning(target, source.name)
    # A Redis that lost its last second during the look has forgotten jobs, and their bits: those come back.
    over &= ledger.delivered_many(target, over)
    with source.writing() as connection:
        for holder in sorted(over):
            pending.release(connection, holder)
            reach("pending.released")
    return over

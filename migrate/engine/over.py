"""Freeing uniqkeys whose job is over, so that the next job under the key may cross. Reads Redis, writes `pending`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from migrate.engine import crossed
from migrate.engine.routing import Routing
from migrate.failpoints import reach
from migrate.jobs import Identity
from migrate.qudo import pending
from migrate.qudo.source import Source
from migrate.resque import ledger, looking, taking
from migrate.resque.looking import Place, Wanted
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
    over = delivered - alive
    over -= taking.returning_of(target, source.name, over)
    # A Redis that lost its last second during the look has forgotten jobs, and their bits: those come back.
    over &= ledger.delivered_many(target, over)
    with source.writing() as connection:
        for holder in sorted(over):
            pending.release(connection, holder)
            reach("pending.released")
    return over


def natives_over(target: Target, holders: Iterable[str]) -> set[str]:
    """Of holders of uniqkeys in Redis, those whose job is found nowhere any more, or has failed for good.

    Each is the text that stands there: an identity, a space, its content.
    """
    wanted = {}
    for holder in holders:
        name, _, content = holder.partition(" ")
        wanted[holder] = Wanted(Identity.parse(name), content)
    found = looking.find(target, list(wanted.values()))
    alive = {identity for identity, sighting in found.items() if sighting.place is not Place.FAILED}
    # Asked last: a rollback that has taken one meanwhile has noted it in the same instant.
    alive |= taking.natives_of_any(target, [each.identity for each in wanted.values() if each.identity not in alive])
    return {holder for holder, each in wanted.items() if each.identity not in alive}

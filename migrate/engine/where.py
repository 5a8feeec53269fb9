"""The story of one job: its row, its outbox rows, their ledger bits, and where Resque has it. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from migrate.config import Config
from migrate.decision import Decision
from migrate.engine import binding, crossed
from migrate.engine.results import Tally
from migrate.engine.routing import Routing, RowState
from migrate.engine.step_watch import StepWatch
from migrate.engine.stopping import Stop
from migrate.engine.survey import Survey
from migrate.errors import UsageError
from migrate.jobs import Identity
from migrate.qudo import ddl, outbox
from migrate.qudo.source import Source
from migrate.resque import ledger, taking
from migrate.resque.looking import Place, Sighting
from migrate.resque.target import Target


class Crossing(msgspec.Struct, frozen=True):
    """One crossing under this id: ids come back, so a job id can have several."""

    outbox: str
    func: str
    queue: str
    handed_off: bool
    state: str  #: not_handed_off, queued, delayed, working, failed, or consumed: found nowhere
    place: str  #: where it was seen, for people


class Story(msgspec.Struct, frozen=True):
    """What `where` prints."""

    source: str
    id: int
    state: str  #: in `job`, else of the newest crossing that isn't over, or of the newest; "unknown": there is no trace
    func: str | None
    reason: str | None  #: why it can't be translated
    in_job: bool
    crossings: list[Crossing]


_PLACES = {
    Place.DELAYED: "in the delayed queue until second {}",
    Place.QUEUED: "in queue {}",
    Place.WORKING: "at work in {}",
    Place.FAILED: "in the list of failures ({})",
}


def parse_reference(text: str) -> tuple[str, int]:
    """SOURCE:ID as the operator writes it. Raises UsageError."""
    name, colon, number = text.rpartition(":")
    if not colon or not name or not number.isascii() or not number.isdigit():
        raise UsageError(f"{text}: not a job", advice="write SOURCE:ID, for instance main:123")
    return name, int(number)


def where(config: Config, reference: str) -> Story:
    """Tell a job's story. Raises UsageError for an unknown source."""
    name, job_id = parse_reference(reference)
    (source_config,) = config.only_sources([name])
    source = Source(source_config.name, source_config.url)
    target = Target.open(config.target.url, config.target.namespace)
    try:
        binding.check(source, target)
        routing = Routing(source, config, steps=StepWatch(target))
        routing.refresh()
        tally = Tally()
        has_our_tables = not ddl.lacking(source)
        rows = list(Survey(source, routing, tally, Stop(), has_our_tables=has_our_tables, only_id=job_id))
        crossings = _crossings(source, target, routing, job_id) if has_our_tables else []
    finally:
        source.close()
        target.close()
    reason = tally.untranslatable[0].reason if tally.untranslatable else None
    if rows:
        state, func = rows[0].state.value, routing.name(rows[0].row.func_id)
        if rows[0].state is RowState.NOT_MOVED and rows[0].row.grabbed_until:
            reason = "a worker's lease on it ran out: free again"
    elif crossings:
        told = _newest_there(crossings)
        state, func = told.state, told.func
    else:
        state, func = "unknown", None
    return Story(name, job_id, state, func, reason, bool(rows), crossings)


def _crossings(source: Source, target: Target, routing: Routing, job_id: int) -> list[Crossing]:
    with source.reading() as connection:
        moved = outbox.rows_of_job(source, connection, job_id, routing.names)
        decisions = outbox.read_decisions(connection, {row.decision for row in moved})
    identities = [row.identity for row in moved]
    delivered = ledger.delivered_many(target, identities)
    sightings = crossed.find(source, target, routing, delivered)
    on_their_way = taking.returning_of(target, source.name, identities)
    result = []
    for row in moved:
        decision = Decision.parse(decisions[row.decision])
        state, place = _seen(row.identity, delivered, sightings)
        if row.identity in on_their_way:
            state, place = "returning", "on its way back to Qudo: the next rollback ends it"
        result.append(
            Crossing(row.identity.text, decision.func, decision.queue, row.identity in delivered, state, place)
        )
    return result


def _newest_there(crossings: Sequence[Crossing]) -> Crossing:
    """The newest crossing whose job is somewhere, else the newest: two of one second have no order that is known."""
    there = [crossing for crossing in crossings if crossing.state != "consumed"]
    return (there or crossings)[-1]


def _seen(identity: Identity, delivered: set[Identity], sightings: Mapping[Identity, Sighting]) -> tuple[str, str]:
    if identity not in delivered:
        return "not_handed_off", "in the outbox: the next run hands it off"
    sighting = sightings.get(identity)
    if sighting is None:
        return "consumed", "handed off, and found nowhere any more: a worker has done it"
    alike = "" if sighting.by_identity else " (known by its content: its identity was lost on the way)"
    return sighting.place.value, f"{_PLACES[sighting.place].format(sighting.where)}{alike}"

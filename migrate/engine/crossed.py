"""Finding jobs that have crossed: their outbox rows, and where Resque has them now. Writes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from migrate.engine.routing import Routing
from migrate.errors import Untranslatable
from migrate.jobs import Identity
from migrate.qudo import outbox
from migrate.qudo.outbox import OutboxRow
from migrate.qudo.source import Source
from migrate.resque import looking
from migrate.resque.looking import Sighting, Wanted
from migrate.resque.target import Target

#: Outbox rows that one statement reads by identity.
_ROWS_PER_READ = 300


def find(
    source: Source, target: Target, routing: Routing, identities: Iterable[Identity]
) -> Mapping[Identity, Sighting]:
    """Where Resque has these jobs of the source now; those found nowhere are left out."""
    wanted: list[Wanted] = []
    listed = sorted(identities)
    for start in range(0, len(listed), _ROWS_PER_READ):
        part = listed[start : start + _ROWS_PER_READ]
        with source.reading() as connection:
            rows = outbox.rows_of(source, connection, part, routing.names)
            decisions = outbox.read_decisions(connection, {row.decision for row in rows})
        contents = _contents(routing, rows, decisions)
        wanted += [Wanted(identity, contents.get(identity, "")) for identity in part]
    return looking.find(target, wanted)


def _contents(routing: Routing, rows: Sequence[OutboxRow], decisions: Mapping[int, str]) -> dict[Identity, str]:
    """Class and args of each row's job, for copies that lost their identity on the way."""
    contents: dict[Identity, str] = {}
    for row in rows:
        with contextlib.suppress(Untranslatable, KeyError):
            translation = routing.translate_moved(row.job, decisions[row.decision], row.identity, 0)
            contents[row.identity] = looking.content_of(translation.job.payload)
    return contents

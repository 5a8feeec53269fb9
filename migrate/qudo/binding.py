"""What a source remembers of its Redis: target id, its own id, the newest beat. Reads and writes the meta table."""

from __future__ import annotations

import secrets

import msgspec
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from migrate.qudo import tables
from migrate.qudo.source import Source

meta = tables.meta.c

_TARGET, _SOURCE, _BEAT = "target", "source", "beat"


class Binding(msgspec.Struct, frozen=True):
    """One source's side of "one source, one target"."""

    source_id: str | None  #: random, drawn when the source was bound
    target_id: str | None  #: the id that stands in the Redis it was bound to
    beat: int  #: newest second of Redis's own clock that this source saw; 0: none yet


def read(connection: Connection) -> Binding:
    """What the source remembers. Read in the transaction that reads or moves rows, and checked by the hand-off."""
    values = {str(row[0]): str(row[1]) for row in connection.execute(select(meta.name, meta.value))}
    return Binding(values.get(_SOURCE), values.get(_TARGET), int(values.get(_BEAT, "0")))


def identify(source: Source) -> str:
    """The source's own id, drawn at the first call. Safe to repeat and side by side."""
    with source.writing() as connection:
        return _settle(connection, _SOURCE, secrets.token_hex(8))


def bind(source: Source, target_id: str) -> str:
    """Remember the target id unless one is remembered; returns the one that holds."""
    with source.writing() as connection:
        return _settle(connection, _TARGET, target_id)


def rebind(source: Source, target_id: str, beat: int) -> None:
    """Belong to another target, or to the same one in another state, from now on: a person has decided so."""
    with source.writing() as connection:
        connection.execute(delete(tables.meta).where(meta.name.in_([_TARGET, _BEAT])))
        connection.execute(
            insert(tables.meta), [{"name": _TARGET, "value": target_id}, {"name": _BEAT, "value": str(beat)}]
        )


def _settle(connection: Connection, name: str, value: str) -> str:
    held = connection.execute(select(meta.value).where(meta.name == name)).scalar_one_or_none()
    if held is not None:
        return str(held)
    try:
        with connection.begin_nested():
            connection.execute(insert(tables.meta).values(name=name, value=value))
    except IntegrityError:
        # Another migrator was faster. Under REPEATABLE READ only a locking read sees its row; the failed insert holds
        # a shared lock on it already, and asking for more would let two such losers deadlock (seen).
        query = select(meta.value).where(meta.name == name).with_for_update(read=True)
        return str(connection.execute(query).scalar_one())
    return value


def remember_beat(source: Source, beat: int) -> None:
    """Keep the newest beat; an older one changes nothing."""
    # Two transactions: who locks the row before it is there, or after a lost race for it, can deadlock (seen).
    with source.writing() as connection:
        _settle(connection, _BEAT, str(beat))
    with source.writing() as connection:
        held = connection.execute(select(meta.value).where(meta.name == _BEAT).with_for_update()).scalar_one()
        if int(held) < beat:
            connection.execute(update(tables.meta).where(meta.name == _BEAT).values(value=str(beat)))

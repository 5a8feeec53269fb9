"""What a source remembers of the steps, for a process that begins while Redis is away. Reads and writes the meta table.

Written by `cutover` after Redis; a copy, never the authority.
"""

from __future__ import annotations

import hashlib

import msgspec
from sqlalchemy import delete, insert, select

from migrate.errors import SchemaError
from migrate.qudo import tables
from migrate.qudo.source import Source

meta = tables.meta.c

_PREFIX = "step:"
#: Bytes that the meta table holds in a value.
_MOST = 255


class StoredStep(msgspec.Struct, frozen=True, array_like=True):
    """One func's step, as short as the column asks for."""

    func: str
    step: str
    percent: int
    guard: str
    version: int
    spelling: str = "folded"  #: older versions knew no other


def read(source: Source) -> list[StoredStep]:
    """All steps that the source remembers. Raises the server's errors."""
    try:
        with source.reading() as connection:
            found = connection.execute(select(meta.value).where(meta.name.like(_PREFIX + "%"))).scalars().all()
    except SchemaError:  # our tables aren't there: no func has a step
        return []
    return [msgspec.json.decode(text, type=StoredStep) for text in found]


def write(source: Source, stored: list[StoredStep]) -> None:
    """Remember these, instead of what was remembered of their funcs. Safe to repeat."""
    with source.writing() as connection:
        for each in stored:
            text = msgspec.json.encode(each).decode()
            name = _PREFIX + hashlib.blake2b(each.func.encode(), digest_size=16).hexdigest()
            connection.execute(delete(tables.meta).where(meta.name == name))
            if len(text) <= _MOST:  # else a very long name: such a func falls back on Qudo
                connection.execute(insert(tables.meta).values(name=name, value=text))

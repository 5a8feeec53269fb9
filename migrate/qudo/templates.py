"""Statements that are compiled once, with places for what each use of them brings: lists of ids, and what goes by them.

Compiling a statement whose text holds 900 ids takes SQLAlchemy as long as running it takes the server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Connection, CursorResult, TextClause, literal_column, text
from sqlalchemy.sql.elements import ClauseElement

from migrate.qudo.source import Source

#: Around a place's name: nothing that SQL, a driver or SQLAlchemy gives a meaning.
_PLACE = "«{}»"


class Template:
    """A statement with places, for one kind of server."""

    def __init__(self, source: Source, statement: ClauseElement) -> None:
        self._text = str(statement.compile(dialect=source.dialect, compile_kwargs={"literal_binds": True}))

    def text(self, **values: str) -> str:
        """The statement with these texts in their places, as the driver wants it: numbers and what is made of them."""
        filled = self._text
        for name, value in values.items():
            filled = filled.replace(_PLACE.format(name), value)
        return filled

    def execute(self, connection: Connection, **values: str) -> CursorResult[Any]:
        """Run it with these texts in their places."""
        return connection.exec_driver_sql(self.text(**values))


def place(name: str) -> ColumnElement[Any]:
    """A value that each use brings."""
    return literal_column(_PLACE.format(name))


def among_place(name: str, column: str = "job.id") -> TextClause:
    """That the column is one of the ids that each use brings."""
    return text(f"{column} IN ({_PLACE.format(name)})")


def condition_place(name: str) -> TextClause:
    """A condition that each use brings."""
    return text(_PLACE.format(name))


def template(source: Source, make: Callable[[Source], ClauseElement]) -> Template:
    """The template of what `make` makes, compiled at its first use."""
    made = _templates.setdefault(source, {})
    found = made.get(make)
    if found is None:
        found = made[make] = Template(source, make(source))
    return found


_templates: WeakKeyDictionary[Source, dict[Callable[[Source], ClauseElement], Template]] = WeakKeyDictionary()

"""Several columns as one text: PyMySQL takes a row of ten columns four times as long as a row of one.

Words with a blank between, so for numbers and short texts; an arg stays a column of its own. NULL is the word N.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, String, case, cast, func

from migrate.qudo.source import Source

#: Stands for NULL.
NULL = "N"


def words(source: Source, *columns: ColumnElement[Any]) -> ColumnElement[Any]:
    """SQL for the columns as one text. What may be NULL goes through `number` or `bytes_as_hex`."""
    if source.is_sqlite:
        return func.printf(" ".join(["%s"] * len(columns)), *columns)
    return func.concat_ws(" ", *columns)


def number(column: Any) -> ColumnElement[Any]:
    """A number that may be NULL, as a word."""
    return func.coalesce(cast(column, String(20)), NULL)


def bytes_as_hex(column: Any) -> ColumnElement[Any]:
    """Bytes that may be NULL, as a word; text gives its bytes in the column's character set."""
    return case((column.is_(None), NULL), else_=func.hex(column))  # SQLite's hex(NULL) is ""

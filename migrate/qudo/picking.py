"""SQL that gives each row of an id list its own value, in one statement and without window functions.

MySQL 5.x has neither ROW_NUMBER nor a VALUES table; a long CASE is searched from its start for each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, Table, TextClause, literal_column, text

from migrate.qudo.source import Source

Named = TypeVar("Named")

#: Ids in one list. MariaDB turns lists of 1,000 and more into a join with a temporary table (seen).
_IDS_PER_LIST = 900
_IDS_PER_LIST_SQLITE = 100


#: For statements made by `by_id` and `among`: each has another text, and SQLAlchemy would keep 500 of them, compiled.
UNCACHED: Mapping[str, Any] = MappingProxyType({"compiled_cache": None})


def id_lists(source: Source, ids: Sequence[Named]) -> Iterator[Sequence[Named]]:
    """Cut a list of ids, or of what has one, into lists that one statement can hold."""
    size = _IDS_PER_LIST_SQLITE if source.is_sqlite else _IDS_PER_LIST
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def among(ids: Sequence[int], column: str = "job.id") -> TextClause:
    """SQL for "the column is one of these ids", written out: a thousand bound parameters cost more than the query.

    A text, no expression of type Boolean: MySQL's dialect adds "= 1" to such a one, and no index serves that (seen).
    """
    return text(f"{column} IN ({listed(ids)})")


def has_no_gap(ids: Sequence[int]) -> bool:
    """Whether these sorted ids are all that there can be from the first to the last."""
    return int(ids[-1]) - int(ids[0]) == len(ids) - 1


def among_copied(source: Source, ids: Sequence[int]) -> str:
    """SQL for "this row of `job` is one of these" (sorted ids), for a statement that copies: a range where it is one.

    Where copying locks what it reads, a range would wait for whoever has the row behind it.
    """
    if has_no_gap(ids) and not source.small_moves:
        return f"job.id BETWEEN {int(ids[0])} AND {int(ids[-1])}"
    return f"job.id IN ({listed(ids)})"


def listed(ids: Sequence[int]) -> str:
    """Ids with commas between."""
    return ",".join(map(str, map(int, ids)))


def by_id(source: Source, ids: Sequence[int], values: Sequence[int], column: str = "job.id") -> ColumnElement[Any]:
    """SQL that is `values[i]` in the row whose `column` is `ids[i]`. `ids` are sorted and cover every row met."""
    return literal_column(by_id_text(source, ids, values, column))


def by_id_text(source: Source, ids: Sequence[int], values: Sequence[int], column: str = "job.id") -> str:
    """The same as text.

    MySQL: INTERVAL() finds the place by binary search, ELT() takes the value there.
    """
    numbers = [*map(int, values)]
    first, count = numbers[0], len(numbers)
    if numbers.count(first) == count:
        return str(first)
    counts_up = numbers == [*range(first, first + count)]
    if counts_up and has_no_gap(ids):
        return f"({column} {first - int(ids[0]):+d})"
    if source.is_sqlite:
        cases = " ".join(f"WHEN {int(key)} THEN {int(value)}" for key, value in zip(ids, values, strict=True))
        return f"CASE {column} {cases} END"
    place = f"INTERVAL({column}, {listed(ids)})"
    if counts_up:
        # MySQL wants INTERVAL() to have two arguments at least, which more than one value guarantees.
        return f"({first - 1} + {place})"
    return f"CAST(ELT({place}, {listed(values)}) AS UNSIGNED)"


def by_primary_key(query: Select[*tuple[Any, ...]], table: Table) -> Select[*tuple[Any, ...]]:
    """The query, made to find rows of `table` by its primary key, whatever the optimizer thinks.

    Where a list names nearly all rows of a short table, a scan looks cheaper: it locks, and waits for, rows that nobody
    has named, such as an open transaction's (seen).
    """
    for dialect in ("mysql", "mariadb"):
        query = query.with_hint(table, "FORCE INDEX (PRIMARY)", dialect)
    return query

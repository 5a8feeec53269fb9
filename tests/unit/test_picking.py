"""SQL that gives each row of an id list its own value: SQLite's here, MySQL's on a server in test_moving.py."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.dialects import mysql

from migrate.qudo import tables
from migrate.qudo.picking import among, among_copied, by_id, id_lists
from migrate.qudo.source import Source

SQLITE = Source("main", "sqlite:///none.db")
MYSQL = Source("main", "mysql+pymysql://u@h/qudo")

IDS = st.lists(st.integers(1, 2**63 - 1) | st.integers(1, 50), min_size=1, max_size=40, unique=True).map(sorted)


@st.composite
def ids_and_values(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Ids and a value for each: any, all the same, counting up, or counting up with a break."""
    ids = draw(IDS)
    first = draw(st.integers(0, 2**63 - 1 - 100))
    values = draw(
        st.lists(st.integers(0, 2**63 - 1), min_size=len(ids), max_size=len(ids))
        | st.just([first] * len(ids))
        | st.just(list(range(first, first + len(ids))))
        | st.just([*range(first, first + len(ids) - 1), first + 50])
    )
    return ids, values


@pytest.fixture(scope="module")
def engine() -> Engine:
    """An SQLite in memory with a `job` table of its own for each connection."""
    return create_engine("sqlite://")


def picked(engine: Engine, source: Source, ids: Sequence[int], values: Sequence[int]) -> dict[int, int]:
    """What the SQL gives each row of a table that holds these ids and others beside them."""
    others = {key + 1 for key in ids if key < 2**63 - 1} | {key - 1 for key in ids}
    rows = [{"id": key, "func_id": 1, "grabbed_until": 0} for key in sorted({*ids, *others})]
    with engine.begin() as connection:
        tables.job.drop(connection, checkfirst=True)
        tables.job.create(connection)
        connection.execute(tables.job.insert(), rows)
        query = select(tables.job.c.id, by_id(source, ids, values)).where(among(ids))
        return {int(key): int(value) for key, value in connection.execute(query)}


@given(given_values=ids_and_values())
def test_each_row_gets_the_value_of_its_id_and_no_other_row_is_met(
    engine: Engine, given_values: tuple[list[int], list[int]]
) -> None:
    ids, values = given_values
    assert picked(engine, SQLITE, ids, values) == dict(zip(ids, values, strict=True))


@pytest.mark.parametrize(("source", "most"), [(SQLITE, 100), (MYSQL, 900)], ids=["sqlite", "mysql"])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 899, 900, 901, 2500])
def test_lists_hold_all_ids_in_order_and_never_too_many(source: Source, most: int, count: int) -> None:
    ids = list(range(7, 7 + count))
    lists = [list(part) for part in id_lists(source, ids)]
    assert [key for part in lists for key in part] == ids
    assert all(0 < len(part) <= most for part in lists)
    # MariaDB turns lists of 1,000 and more into a join with a temporary table.
    assert all(len(part) < 1000 for part in lists)


def test_ids_are_written_out_and_never_compared_as_a_boolean() -> None:
    """MySQL's dialect makes "… = 1" of an expression of type Boolean, and no index serves that."""
    statement = tables.job.delete().where(among([3, 1, 2]))
    assert str(statement.compile(dialect=mysql.dialect())).endswith("WHERE job.id IN (3,1,2)")


def test_only_integers_get_into_the_text() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        among(["1) OR (1"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="invalid literal"):
        by_id(SQLITE, [1, 2], ["1", "x"])  # type: ignore[list-item]


def test_copying_asks_for_a_range_where_ids_have_no_gap() -> None:
    assert among_copied(MYSQL, [3, 4, 5]) == "job.id BETWEEN 3 AND 5"
    assert among_copied(MYSQL, [3, 4, 6]) == "job.id IN (3,4,6)"


@pytest.mark.parametrize(
    ("ids", "values", "sql"),
    [
        ([1], [7], "7"),
        ([1, 2, 3], [7, 7, 7], "7"),
        ([1, 2, 3], [7, 8, 9], "(job.id +6)"),
        ([7, 8, 9], [0, 1, 2], "(job.id -7)"),
        ([1, 2, 4], [7, 8, 9], "(6 + INTERVAL(job.id, 1,2,4))"),
        ([1, 2, 3], [7, 9, 8], "CAST(ELT(INTERVAL(job.id, 1,2,3), 7,9,8) AS UNSIGNED)"),
        ([1, 2, 3], [9, 8, 7], "CAST(ELT(INTERVAL(job.id, 1,2,3), 9,8,7) AS UNSIGNED)"),
    ],
)
def test_mysql_is_asked_the_shortest_way(ids: list[int], values: list[int], sql: str) -> None:
    assert str(by_id(MYSQL, ids, values)) == sql


def test_another_column_can_be_meant(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE other (number INTEGER)"))
        connection.execute(text("INSERT INTO other VALUES (1), (2), (3)"))
        value = by_id(SQLITE, [1, 3], [10, 30], column="other.number")
        query = select(value).select_from(text("other")).where(among([1, 3], column="other.number"))
        assert sorted(connection.execute(query).scalars()) == [10, 30]

"""Each hot query is a look-up in an index: a plan that scans would be right and a thousand times slower."""

from __future__ import annotations

import itertools

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.dialects import mysql

from migrate.qudo import ddl, moving, reading
from migrate.qudo.picking import listed
from migrate.qudo.reading import Position, Selection
from migrate.qudo.source import Source
from migrate.qudo.templates import template
from tests.qudo_app.enqueueing import fill
from tests.servers import MariaDBDatabase

ROWS = 20_000
FEW = 900


@pytest.fixture
def filled(innodb: MariaDBDatabase) -> Source:
    fill(innodb, ROWS, priorities=3)
    innodb.execute("ANALYZE TABLE job")
    return Source("main", innodb.url)


def rows_examined(connection: Connection, statement: str) -> tuple[str, int]:
    """The key that a statement uses, and how many rows the server expects to read."""
    plan = connection.execute(text("EXPLAIN " + statement.replace(":", "\\:"))).mappings().one()
    return str(plan["key"]), int(plan["rows"])


def rows_read(connection: Connection) -> int:
    """How many rows and keys this session has read so far."""
    found = connection.execute(text("SHOW SESSION STATUS LIKE 'Handler_read%'")).all()
    return sum(int(row[1]) for row in found)


def compiled(statement: object) -> str:
    return str(statement.compile(dialect=mysql.dialect(), compile_kwargs={"literal_binds": True}))  # type: ignore[attr-defined]


def test_rows_to_be_moved_are_locked_by_their_primary_key(filled: Source) -> None:
    ids = list(range(1, FEW + 1))
    query = template(filled, moving.locking).text(ids=listed(ids))
    with filled.reading() as connection:
        key, rows = rows_examined(connection, query)
    assert key == "PRIMARY"
    assert rows <= FEW


@pytest.mark.parametrize("rows", [FEW, ROWS], ids=["much", "all"])
def test_moved_rows_are_deleted_one_by_one_however_short_the_table(rows: int, filled: Source) -> None:
    """A scan would wait for rows that open transactions have inserted."""
    statement = template(filled, moving.taking_away).text(batch="7", first="1", count=str(FEW))
    ddl.create_tables(filled)
    with filled.reading() as connection:
        connection.execute(text(f"DELETE FROM job WHERE id > {rows + 1}"))
        values = {"batch": "7", "seq": "job.id", "decision": "1", "rows": f"job.id <= {2 * FEW}"}
        template(filled, moving.copying).execute(connection, **values)
        plans = connection.execute(text(f"EXPLAIN {statement}")).mappings().all()
        assert [str(plan["type"]) for plan in plans if plan["table"] == "job"] == ["eq_ref"]
        before = rows_read(connection)
        assert connection.execute(text(statement)).rowcount == FEW
        assert rows_read(connection) - before < 4 * FEW + 10  # copies, the list of them twice, rows


def test_a_page_of_free_rows_is_a_range_of_the_priority_index(filled: Source) -> None:
    query = reading.free_rows_query(filled, Position(1, ROWS // 2), Selection((), ()), 2_000_000_000, 500)
    with filled.reading() as connection:
        key, _ = rows_examined(connection, compiled(query))
        before = rows_read(connection)
        connection.execute(query).all()
        read = rows_read(connection) - before
    assert key in ("priority", "PRIMARY")
    assert 500 <= read < 3 * 500


def test_the_next_priority_costs_one_look_into_its_index(filled: Source) -> None:
    with filled.reading() as connection:
        before = rows_read(connection)
        assert reading.highest_priority(connection, 2) == 1
        assert rows_read(connection) - before < 50  # SHOW STATUS reads its own temporary table


def test_samples_of_a_func_cost_their_own_number_wherever_its_rows_stand(innodb: MariaDBDatabase) -> None:
    """By id, the optimizer would read all of the table before a func that is new, or sort all rows of a large one."""
    fill(innodb, ROWS, priorities=3)
    fill(innodb, 50, func="Worker::Rare")
    fill(innodb, 2000, func="Worker::Keyed", uniqkey="k{n}")
    innodb.execute("ANALYZE TABLE job")
    source = Source("main", innodb.url)
    with source.reading() as connection:
        for func_id, newest in itertools.product((1, 2, 3), (False, True)):
            query = reading.samples_query(source, func_id, 100, newest=newest)
            before = rows_read(connection)
            found = reading.rows_of(connection.execute(query))
            assert rows_read(connection) - before < 100 + 50, (func_id, newest)
            assert {row.func_id for row in found} == {func_id}
            assert len(found) == (50 if func_id == 2 else 100)
            if func_id == 1:
                assert sorted(row.id for row in found)[0] == (ROWS - 99 if newest else 1)

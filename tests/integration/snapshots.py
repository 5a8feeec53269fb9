"""Proof that a command wrote nothing: all of both sides before and after, and the servers' own counts of writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from redis import Redis

from tests.resque_app import whole_redis
from tests.servers import Database, MariaDBDatabase, SQLiteDatabase

#: Statements that write, as MySQL counts them.
_WRITES = ("insert", "insert_select", "update", "update_multi", "delete", "delete_multi", "replace", "create_table")


@contextlib.contextmanager
def nothing_written(*sides: Database | Redis) -> Iterator[None]:
    """Fail when the block changed anything on one of the sides, or wrote and took it back."""
    before = [(whole(side), writes(side)) for side in sides]
    yield
    after = [(whole(side), writes(side)) for side in sides]
    assert after == before


@contextlib.contextmanager
def nothing_left(*sides: Database | Redis) -> Iterator[None]:
    """Fail when one of the sides is another after the block; what was written and taken back is fine."""
    before = [whole(side) for side in sides]
    yield
    assert [whole(side) for side in sides] == before


def whole(side: Database | Redis) -> object:
    """All that a database holds: definitions and rows, or keys and values."""
    if isinstance(side, Redis):
        return whole_redis(side)
    if isinstance(side, SQLiteDatabase):
        return side.path.read_bytes()
    tables = [name for (name,) in side.rows("SHOW TABLES")]
    return {name: (side.rows(f"SHOW CREATE TABLE {name}"), _rows(side, name)) for name in tables}


def writes(side: Database | Redis) -> object:
    """How many writes the server has counted; of an SQLite file its own counter of changes is in its bytes."""
    if isinstance(side, Redis):
        return side.info("persistence")["rdb_changes_since_last_save"]
    if isinstance(side, MariaDBDatabase):
        names = ", ".join(f"'Com_{name}'" for name in _WRITES)
        return side.rows(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({names})")
    return None


def _rows(database: Database, table: str) -> list[tuple[Any, ...]]:
    return sorted(database.rows(f"SELECT * FROM {table}"), key=repr)

"""What real servers make of schema/'s DDL, of the tables in code, and of dumps that the real Qudo wrote: the same."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine, create_engine, text

from migrate.qudo import ddl, tables
from migrate.qudo.source import Source
from tests.servers import MariaDBDatabase, SQLiteDatabase

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "schema"
QUDO = tuple(tables.qudo.tables)
OURS = tuple(tables.ours.tables)


class Column(NamedTuple):
    """A column as the server describes it."""

    type: str
    nullable: bool
    default: str | None
    extra: str = ""  #: auto_increment
    collation: str | None = None


class Key(NamedTuple):
    """A primary, unique or other key."""

    unique: bool
    columns: tuple[str, ...]


class Described(NamedTuple):
    """A table as the server describes it; columns in their order."""

    columns: dict[str, Column]
    keys: dict[str, Key]
    engine: str = "SQLite"

    def without_charset(self) -> Described:
        """The same for a shop with another character set."""
        return self._replace(columns={name: each._replace(collation=None) for name, each in self.columns.items()})


def statements(path: Path) -> list[str]:
    """The statements of a file."""
    return [each for each in re.sub(r"--.*", "", path.read_text()).split(";") if each.strip()]


# MySQL


def on_mysql(database: MariaDBDatabase, names: Iterable[str]) -> dict[str, Described]:
    return {name: _mysql_table(database, name) for name in names}


def _mysql_table(database: MariaDBDatabase, name: str) -> Described:
    where = "WHERE table_schema = DATABASE() AND table_name = %s"
    columns = database.rows(
        "SELECT column_name, column_type, is_nullable, column_default, extra, collation_name"
        f" FROM information_schema.columns {where} ORDER BY ordinal_position",
        [name],
    )
    parts = database.rows(
        "SELECT index_name, non_unique, column_name, sub_part"
        f" FROM information_schema.statistics {where} ORDER BY index_name, seq_in_index",
        [name],
    )
    keys: dict[str, Key] = {}
    for key, non_unique, column, prefix in parts:
        assert prefix is None
        held = keys.get(key, Key(not non_unique, ()))
        keys[key] = held._replace(columns=(*held.columns, column))
    engine = database.value(f"SELECT engine FROM information_schema.tables {where}", [name])
    return Described(
        {row[0]: Column(row[1], row[2] == "YES", row[3], row[4], row[5]) for row in columns}, keys, str(engine)
    )


def drop_mysql(database: MariaDBDatabase, names: Iterable[str]) -> None:
    database.execute(f"DROP TABLE {', '.join(names)}")


@pytest.fixture
def qudo_mysql(innodb: MariaDBDatabase) -> MariaDBDatabase:
    """A database loaded from qudo.sql by the server's own client."""
    innodb.load_dump(SCHEMA / "mysql/qudo.sql")
    return innodb


@pytest.fixture
def mysql_engine(innodb: MariaDBDatabase) -> Iterator[Engine]:
    engine = create_engine(innodb.url)
    yield engine
    engine.dispose()


def test_qudos_tables_on_mysql_are_those_in_code(qudo_mysql: MariaDBDatabase, mysql_engine: Engine) -> None:
    by_file = on_mysql(qudo_mysql, QUDO)
    drop_mysql(qudo_mysql, QUDO)
    tables.qudo.create_all(mysql_engine)
    assert on_mysql(qudo_mysql, QUDO) == by_file


@pytest.mark.parametrize(("dump", "engine"), [("qudo_a.sql", "InnoDB"), ("qudo_b.sql", "MyISAM")])
def test_qudos_tables_on_mysql_are_those_that_the_real_qudo_made(
    qudo_mysql: MariaDBDatabase, dump: str, engine: str
) -> None:
    by_file = on_mysql(qudo_mysql, QUDO)
    qudo_mysql.load_dump(ROOT / "tests/data/qudo" / dump)
    for name, real in on_mysql(qudo_mysql, QUDO).items():
        assert real.without_charset() == by_file[name].without_charset()._replace(engine=engine)


def test_our_tables_on_mysql_are_those_in_code(qudo_mysql: MariaDBDatabase) -> None:
    source = Source("main", qudo_mysql.url)
    ddl.create_tables(source)
    source.close()
    by_code = on_mysql(qudo_mysql, OURS)
    drop_mysql(qudo_mysql, OURS)
    for statement in statements(SCHEMA / "mysql/qudo_migrate.sql"):
        qudo_mysql.execute(statement)
    assert on_mysql(qudo_mysql, OURS) == by_code
    assert by_code["qudo_migrate_outbox"].keys["PRIMARY"] == Key(True, ("batch", "seq"))


def test_the_servers_client_loads_our_tables(innodb: MariaDBDatabase) -> None:
    innodb.load_dump(SCHEMA / "mysql/qudo_migrate.sql")
    assert {row[0] for row in innodb.rows("SHOW TABLES")} == set(OURS)


@pytest.mark.parametrize(
    ("uniqkey", "collation"),
    [
        ("VARCHAR(255) CHARACTER SET latin1 COLLATE latin1_swedish_ci", "latin1_swedish_ci"),
        ("VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "utf8mb4_bin"),
        ("VARBINARY(255)", None),
    ],
)
def test_pending_keys_compare_as_the_shops_uniqkeys_do(
    qudo_mysql: MariaDBDatabase, uniqkey: str, collation: str | None
) -> None:
    qudo_mysql.execute(f"ALTER TABLE job MODIFY uniqkey {uniqkey} NULL")
    source = Source("main", qudo_mysql.url)
    ddl.create_tables(source)
    source.close()
    described = on_mysql(qudo_mysql, ["job", "qudo_migrate_pending"])
    key = described["qudo_migrate_pending"].columns["pending_key"]
    assert key == described["job"].columns["uniqkey"]._replace(nullable=False, default=None)
    assert key.collation == collation


def test_the_grants_suffice(qudo_mysql: MariaDBDatabase) -> None:
    account = qudo_mysql.server.create_account()
    for grant in statements(SCHEMA / "mysql/grants.sql"):
        fitted = grant.replace("`qudo`", f"`{qudo_mysql.name}`").replace("'qudo_migrate'@", f"'{account.user}'@")
        assert fitted != grant
        qudo_mysql.execute(fitted)
    source = Source("main", qudo_mysql.url_for(account))
    try:
        ddl.create_tables(source)
        with source.writing() as connection:
            connection.execute(text("INSERT INTO qudo_migrate_meta VALUES ('beat', '0')"))
            connection.execute(text("UPDATE qudo_migrate_meta SET value = '1'"))
            connection.execute(text("DELETE FROM qudo_migrate_meta"))
            connection.execute(text("DELETE FROM job"))
            connection.execute(text("UPDATE exception_log SET retried = 1"))
        assert ddl.lacking(source) == []
    finally:
        source.close()


def test_the_tests_mysql_databases_are_like_qudos(innodb: MariaDBDatabase, myisam: MariaDBDatabase) -> None:
    of_tests, of_myisam = on_mysql(innodb, QUDO), on_mysql(myisam, QUDO)
    innodb.load_dump(SCHEMA / "mysql/qudo.sql")
    by_file = on_mysql(innodb, QUDO)
    assert of_tests == by_file
    for name, each in of_myisam.items():
        assert each.without_charset() == by_file[name].without_charset()._replace(engine="MyISAM")


# SQLite


#: Where SQLite's Qudo allows NULL and MySQL's, which the code follows, does not.
NULL_ON_SQLITE_ONLY = {("job_status", "arg")}


def on_sqlite(path: Path, names: Iterable[str]) -> dict[str, Described]:
    connection = sqlite3.connect(path)
    try:
        return {name: _sqlite_table(connection, name) for name in names}
    finally:
        connection.close()


def _sqlite_table(connection: sqlite3.Connection, name: str) -> Described:
    columns: dict[str, Column] = {}
    primary: dict[int, str] = {}
    for _, column, declared, not_null, default, place in connection.execute(f"PRAGMA table_info({name})"):
        # A rowid alias is never NULL, whether that is said or not.
        columns[column] = Column(_affinity(declared), not (not_null or place), default)
        if place:
            primary[place] = column
    keys = {"PRIMARY": Key(True, tuple(primary[place] for place in sorted(primary)))}
    for _, key, unique, origin, partial in connection.execute(f"PRAGMA index_list({name})").fetchall():
        assert not partial
        if origin != "pk":
            parts = connection.execute(f"PRAGMA index_info({key})").fetchall()
            keys[key] = Key(bool(unique), tuple(part[2] for part in parts))
    return Described(columns, keys)


def _affinity(declared: str) -> str:
    """What SQLite makes of a declared type, by its own rules in their order."""
    for part, affinity in (("INT", "INTEGER"), ("CHAR", "TEXT"), ("CLOB", "TEXT"), ("TEXT", "TEXT"), ("BLOB", "BLOB")):
        if part in declared.upper():
            return affinity
    raise AssertionError(declared)


def load_sqlite(path: Path, *files: str) -> None:
    connection = sqlite3.connect(path)
    for file in files:
        connection.executescript((SCHEMA / "sqlite" / file).read_text())
    connection.close()


def make_sqlite(path: Path, metadata: Any) -> None:
    engine = create_engine(f"sqlite:///{path}")
    metadata.create_all(engine)
    engine.dispose()


def test_qudos_tables_on_sqlite_are_those_in_code(tmp_path: Path) -> None:
    load_sqlite(tmp_path / "file.db", "qudo.sql")
    make_sqlite(tmp_path / "code.db", tables.qudo)
    by_code = on_sqlite(tmp_path / "code.db", QUDO)
    for name, by_file in on_sqlite(tmp_path / "file.db", QUDO).items():
        columns = {
            column: each._replace(nullable=False) if (name, column) in NULL_ON_SQLITE_ONLY else each
            for column, each in by_file.columns.items()
        }
        assert columns == by_code[name].columns
        # Qudo makes secondary indexes on MySQL only.
        assert all(key.unique for key in by_file.keys.values())
        assert by_file.keys == {key: each for key, each in by_code[name].keys.items() if each.unique}


def test_qudos_ids_on_sqlite_are_never_used_twice(tmp_path: Path) -> None:
    load_sqlite(tmp_path / "file.db", "qudo.sql")
    connection = sqlite3.connect(tmp_path / "file.db")
    for table in QUDO:
        (made,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", [table]).fetchone()
        assert "AUTOINCREMENT" in made
    connection.close()


def test_the_tests_sqlite_databases_are_like_qudos(sqlite: SQLiteDatabase, tmp_path: Path) -> None:
    load_sqlite(tmp_path / "file.db", "qudo.sql")
    assert on_sqlite(sqlite.path, QUDO) == on_sqlite(tmp_path / "file.db", QUDO)


def test_our_tables_on_sqlite_are_those_in_code(tmp_path: Path) -> None:
    load_sqlite(tmp_path / "file.db", "qudo.sql", "qudo_migrate.sql")
    load_sqlite(tmp_path / "code.db", "qudo.sql")
    source = Source("main", f"sqlite:///{tmp_path / 'code.db'}")
    ddl.create_tables(source)
    source.close()
    assert on_sqlite(tmp_path / "code.db", OURS) == on_sqlite(tmp_path / "file.db", OURS)

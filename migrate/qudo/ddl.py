"""Our tables in a source: their DDL, and their creation where they lack.

Writes to the source only in `create_tables`.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, MetaData, Table, inspect, text
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.schema import CreateTable

from migrate.errors import RightsError, SchemaError
from migrate.qudo import tables
from migrate.qudo.source import Source

#: What the account of the migration needs on a MySQL source, for a DBA.
GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON `{database}`.* TO {account};",
    "GRANT CREATE ON `{database}`.* TO {account};  -- not needed once the tables above exist",
)


def statements(source: Source | None, *, engine: str | None = "InnoDB", key_charset: str | None = None) -> list[str]:
    """CREATE TABLE statements of our tables, for the dialect of `source` (MySQL's when None).

    `key_charset`: character set and collation clause of `job.uniqkey`, which the pending keys must share.
    """
    dialect = sqlite.dialect() if source is not None and source.is_sqlite else mysql.dialect()
    result = []
    for table in tables.ours.sorted_tables:
        statement = str(CreateTable(_for_engine(table, engine), if_not_exists=True).compile(dialect=dialect)).strip()
        if key_charset and table is tables.pending:
            statement = statement.replace("pending_key VARCHAR(255)", f"pending_key VARCHAR(255) {key_charset}")
        result.append("\n".join(line.rstrip() for line in statement.splitlines()))
    return result


def _for_engine(table: Table, engine: str | None) -> Table:
    copy = table.to_metadata(MetaData())
    if engine:
        copy.dialect_options["mysql"]["engine"] = engine
        copy.dialect_options["mysql"]["default_charset"] = "utf8mb4"
    return copy


def lacking(source: Source) -> list[str]:
    """The names of our tables that the source doesn't have.

    Raises SchemaError for a table that an older version made and this one can't use.
    """
    with source.reading() as connection:
        inspector = inspect(connection)
        found = set(inspector.get_table_names())
        try:
            if tables.outbox.name in found:
                _check_columns(source, {str(column["name"]) for column in inspector.get_columns(tables.outbox.name)})
        except NoSuchTableError:  # somebody creates it at this moment: listed, and not there yet (seen with MariaDB)
            found.discard(tables.outbox.name)
    return [str(table.name) for table in tables.ours.sorted_tables if table.name not in found]


def _check_columns(source: Source, found: Collection[str]) -> None:
    """The outbox has changed since its first form; the other tables have not."""
    absent = [column.name for column in tables.outbox.columns if column.name not in found]
    if absent:
        raise SchemaError(
            f"source {source.name}: table {tables.outbox.name} has no column {', '.join(absent)}:"
            " another version of qudo-migrate made it",
            advice=f"if that table is empty, drop it and run again; else ALTER TABLE {tables.outbox.name}"
            " ADD due INTEGER UNSIGNED NULL, ADD UNIQUE (due, batch, seq)",
        )


def create_tables(source: Source) -> None:
    """Create our tables where they lack. Safe to repeat and side by side. Raises RightsError, naming the way out."""
    absent = lacking(source)
    check_collation(source, absent)
    if not absent:
        return
    ddl = own_ddl(source)
    try:
        with source.writing() as connection:
            for statement in ddl:
                connection.execute(text(statement))
    except RightsError as error:
        raise RightsError(
            f"source {source.name}: no right to create {', '.join(absent)}: {error.message.partition(': ')[2]}",
            advice="have a DBA run what `qudo-migrate init --print-ddl` prints",
        ) from error


def check_collation(source: Source, absent: Collection[str]) -> None:
    """Raise SchemaError when pending keys would compare otherwise than `job.uniqkey` does.

    They would arbitrate wrongly, or the join of both would fail with an illegal mix of collations (seen: error 1267).
    """
    if source.is_sqlite or tables.pending.name in absent:
        return
    with source.reading() as connection:
        wanted = _key_charset(source, connection, tables.job.name, "uniqkey")
        found = _key_charset(source, connection, tables.pending.name, "pending_key")
    if wanted != found:
        raise SchemaError(
            f"source {source.name}: {tables.pending.name}.pending_key is {found}, but job.uniqkey is {wanted}",
            advice=f"ALTER TABLE {tables.pending.name} MODIFY pending_key VARCHAR(255) {wanted} NOT NULL",
        )


def own_ddl(source: Source) -> list[str]:
    """The statements for exactly this source: its engine, and the collation of its `job.uniqkey`."""
    facts = source.facts()
    charset = None
    if not source.is_sqlite:
        with source.reading() as connection:
            charset = _key_charset(source, connection, tables.job.name, "uniqkey")
    return statements(source, engine=facts.our_engine, key_charset=charset)


def for_dba(source: Source | None) -> str:
    """Our tables and the rights of the account, as a DBA runs them; MySQL's in general when `source` is None."""
    if source is not None and source.is_sqlite:
        return "\n\n".join(f"{statement};" for statement in own_ddl(source))
    tables_ddl = statements(None) if source is None else own_ddl(source)
    database = "qudo" if source is None else str(source.url.database)
    account = "'qudo_migrate'@'%'" if source is None else f"'{source.url.username}'@'%'"
    title = "-- our tables" if source is None else f"-- our tables in source {source.name}"
    grants = [grant.format(database=database, account=account) for grant in GRANTS]
    return "\n\n".join([title, *(f"{statement};" for statement in tables_ddl), "\n".join(grants)])


def key_collation(source: Source) -> tuple[str | None, str | None]:
    """Character set and collation of `job.uniqkey`; None, None where it compares byte by byte: SQLite, VARBINARY."""
    if source.is_sqlite:
        return None, None
    with source.reading() as connection:
        words = _key_charset(source, connection, tables.job.name, "uniqkey").split()
    return (words[2], words[4]) if len(words) == 5 else (None, None)


def _key_charset(source: Source, connection: Connection, table: str, column: str) -> str:
    """The clause of a text column's character set and collation."""
    row = connection.execute(
        text(
            "SELECT character_set_name, collation_name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = :table AND column_name = :column"
        ),
        {"table": table, "column": column},
    ).first()
    if row is None:
        raise SchemaError(f"source {source.name}: table {table} has no column {column}")
    # A shop may have made the column VARBINARY: then keys compare byte by byte, as `binary` does.
    return f"CHARACTER SET {row[0]} COLLATE {row[1]}" if row[0] else "CHARACTER SET binary"

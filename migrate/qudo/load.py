"""How loaded a source's server and its replicas are. Read-only, cheap enough to ask twice a second."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from migrate.errors import ServerError
from migrate.qudo.source import Source

#: InnoDB's undo that no snapshot needs any more but purge has not removed: long transactions make it grow.
HISTORY_LIST_LENGTH = "history_list_length"


def status_values(source: Source, names: Collection[str]) -> dict[str, float]:
    """Status variables by name, as asked for (names compare without case); those that the server lacks are left out."""
    with source.reading() as connection:
        rows = connection.execute(text("SHOW GLOBAL STATUS")).all()
        held = {str(row[0]).lower(): row[1] for row in rows}
        values = {name: float(held[name.lower()]) for name in names if name.lower() in held}
        for name in names:
            if name.lower() == HISTORY_LIST_LENGTH:
                values[name] = _history_list_length(connection, held)
    return values


class OtherClients:
    """Counts the statements that a source's server gets from others than this `Source`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ours = source.count_statements()

    def __call__(self) -> int:
        """Ever rising but for a few: ours are counted as they are sent, the server's as they end."""
        with self._source.reading() as connection:
            row = connection.execute(text("SHOW GLOBAL STATUS LIKE 'Questions'")).one()
        return int(row[1]) - self._ours()


def _history_list_length(connection: Connection, status: Mapping[str, Any]) -> float:
    """MariaDB shows it as a status variable, MySQL in a table that needs the right PROCESS."""
    if "innodb_history_list_length" in status:
        return float(status["innodb_history_list_length"])
    query = text("SELECT count FROM information_schema.innodb_metrics WHERE name = 'trx_rseg_history_len'")
    return float(connection.execute(query).scalar_one())


def replica_lag(replica: Source) -> float | None:
    """Seconds that a replica is behind its master; None when it doesn't replicate at all."""
    with replica.reading() as connection:
        row = _replica_status(connection, replica.name)
    value = row.get("Seconds_Behind_Source", row.get("Seconds_Behind_Master"))
    return None if value is None else float(value)


def _replica_status(connection: Connection, name: str) -> Mapping[str, Any]:
    """SHOW REPLICA STATUS; servers before MySQL 8.0.22 and MariaDB 10.5 know it by its old name."""
    for statement in ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS"):
        try:
            row = connection.execute(text(statement)).mappings().first()
        except DBAPIError as error:
            code = error.orig.args[0] if error.orig is not None and error.orig.args else 0
            if code != _PARSE_ERROR:
                raise
            connection.rollback()
            continue
        if row is not None:
            return dict(row)
    raise ServerError(f"{name}: it is no replica", advice="check replicas in the configuration")


_PARSE_ERROR = 1064

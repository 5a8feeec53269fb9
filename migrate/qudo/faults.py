"""Driver errors of MySQL, MariaDB and SQLite, turned into the project's own at the edge.

Messages carry the server's own words but never a statement's parameters: those are job data.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from migrate.errors import (
    AccessDenied,
    Contention,
    MigrateError,
    RightsError,
    SchemaError,
    ServerError,
    Unavailable,
    UsageError,
)

#: MySQL's and MariaDB's error numbers; names in comments are theirs.
_ACCESS_DENIED = {1045, 1698, 1862, 4151}  # ER_ACCESS_DENIED_ERROR, …_NO_PASSWORD, MUST_CHANGE_PASSWORD
_RIGHTS = {1044, 1142, 1143, 1227, 1370}  # DBACCESS, TABLEACCESS, COLUMNACCESS, SPECIFIC, PROCACCESS
_SCHEMA = {1049, 1054, 1146}  # BAD_DB, BAD_FIELD, NO_SUCH_TABLE
_CONTENTION = {
    1020,
    1062,
    1205,
    1213,
    3572,
}  # CHECKREAD, DUP_ENTRY (a race for a key), LOCK_WAIT, DEADLOCK, NOWAIT
_UNAVAILABLE = {
    *(2002, 2003, 2005, 2006, 2013, 2014, 2045, 2055),  # the client library's own: no connection, or lost
    4031,  # MySQL 8.0.24 on: idle for longer than wait_timeout, where older ones just hang up
    *(1021, 1041, 1114, 1030, 28),  # disk or memory full, table full, storage engine
    *(1040, 1129, 1203, 1226),  # too many connections, host blocked
    *(1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184, 1317, 1927),  # shutdown, cut connections, killed
    *(1290, 1792, 1836),  # read-only server
    *(1969, 3024),  # statement time limit
}
_KEY_VALUE = re.compile(r"Duplicate entry '.*' for key", re.DOTALL)


@contextmanager
def database_faults(source: str) -> Iterator[None]:
    """Turn the errors of SQLAlchemy and its drivers inside the block into ours, naming the source."""
    try:
        yield
    except exc.DBAPIError as error:
        raise translated(source, error.orig) from error
    except (exc.NoSuchModuleError, exc.ArgumentError) as error:
        raise SchemaError(f"source {source}: its url can't be used: {error}") from error
    except exc.TimeoutError as error:
        raise Unavailable(f"source {source}: no free connection") from error
    except RuntimeError as error:
        if "'cryptography' package" not in str(error):
            raise
        # PyMySQL: the passwords of MySQL 8 over a connection without TLS need RSA.
        raise UsageError(f"source {source}: {error}", advice="pip install 'qudo-migrate[mysql8]'") from error


def translated(source: str, error: BaseException | None) -> MigrateError:
    """Our error for a driver's error."""
    if isinstance(error, sqlite3.Error):
        return _from_sqlite(source, error)
    code, words = _code_and_words(error)
    if code in _ACCESS_DENIED:
        return AccessDenied(
            f"source {source}: the server refuses the login: {words}",
            advice="check user and password in the source's url (and the environment variable they come from)",
        )
    if code in _RIGHTS:
        return RightsError(
            f"source {source}: {words}",
            advice="grant what `qudo-migrate init --print-ddl` lists to this account",
        )
    if code in _SCHEMA:
        return SchemaError(f"source {source}: {words}", advice="check that the url names a Qudo database")
    if code in _CONTENTION:
        return Contention(f"source {source}: {words}")
    if code in _UNAVAILABLE or code == 0:
        return Unavailable(f"source {source}: {words}", advice="check that the server is up and can be reached")
    return ServerError(f"source {source}: the server answered error {code}: {words}")


def _code_and_words(error: BaseException | None) -> tuple[int, str]:
    """The number and text of a MySQL driver's error; 0 stands for "the connection is gone"."""
    arguments = error.args if error is not None else ()
    code = arguments[0] if arguments and isinstance(arguments[0], int) else 0
    words = str(arguments[1]) if len(arguments) > 1 else ""
    words = _KEY_VALUE.sub("duplicate entry for key", words or "connection lost")
    return code, " ".join(words.split())


def _from_sqlite(source: str, error: sqlite3.Error) -> MigrateError:
    words = " ".join(str(error).split())
    if "locked" in words or "busy" in words:
        return Contention(f"source {source}: {words}")
    if "no such table" in words or "no such column" in words or "not a database" in words:
        return SchemaError(f"source {source}: {words}", advice="check that the url names a Qudo database")
    if "unable to open" in words or "readonly" in words or "full" in words or "disk I/O" in words:
        return Unavailable(f"source {source}: {words}", advice="check the file, its folder's rights and the disk")
    if isinstance(error, sqlite3.IntegrityError):
        return Contention(f"source {source}: a key is there already")
    return ServerError(f"source {source}: {words}")

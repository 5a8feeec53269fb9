"""Errors: one tree, one exit status each, and no driver's error that isn't turned into one of ours at the edge."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import redis.exceptions
import redis.sentinel
from pymysql.constants import CR, ER
from redis._parsers.base import BaseParser
from sqlalchemy import exc, text
from sqlalchemy.dialects import mysql

import migrate
from migrate import errors
from migrate.errors import (
    AccessDenied,
    Contention,
    Loading,
    MigrateError,
    RightsError,
    SchemaError,
    ServerError,
    TargetMismatch,
    Unavailable,
    UsageError,
)
from migrate.qudo import faults as database_side
from migrate.qudo.faults import database_faults
from migrate.qudo.source import Source
from migrate.resque import faults as redis_side
from migrate.resque.faults import redis_faults

DOCS = Path(__file__).parents[2] / "docs"


# --- the tree -------------------------------------------------------------------------------------------------------


def drawn_tree() -> dict[str, tuple[str, str]]:
    """The tree in the module's docstring: name -> its parent's name and its exit status."""
    assert errors.__doc__ is not None
    parents = [(-1, "Exception")]
    tree = {}
    for line in errors.__doc__.splitlines():
        found = re.match(
            r"    (?P<branch>[│ ]*(?:[├└]── )?)(?P<name>[A-Z][A-Za-z]+) +(?P<status>\d+|-|exit status)", line
        )
        if found is None:
            continue
        depth = len(found["branch"])
        while parents[-1][0] >= depth:
            parents.pop()
        tree[found["name"]] = parents[-1][1], found["status"]
        parents.append((depth, found["name"]))
    return tree


def every_error() -> Iterator[type[MigrateError]]:
    """MigrateError and all its subclasses, wherever in the package they are defined."""
    for module in pkgutil.walk_packages(migrate.__path__, "migrate."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    remaining = [MigrateError]
    while remaining:
        found = remaining.pop()
        yield found
        remaining += found.__subclasses__()


def test_the_module_draws_the_tree_as_it_is() -> None:
    drawn = {name: parent for name, (parent, _) in drawn_tree().items()}
    ours = [each for each in every_error() if each.__module__ == errors.__name__]
    assert drawn == {each.__name__: each.__bases__[0].__name__ for each in ours}


def test_an_error_of_another_module_has_the_exit_status_of_its_kind() -> None:
    for each in every_error():
        (parent, *_) = each.__bases__
        if each.__module__ != errors.__name__:
            assert issubclass(parent, MigrateError)
            assert each.exit_status == parent.exit_status, each


def test_every_error_has_the_exit_status_that_the_tree_says() -> None:
    statuses = {name: status for name, (_, status) in drawn_tree().items()}
    assert statuses.pop("MigrateError") == "exit status"
    # A dash: the error never ends a command.
    ending = {name: status for name, status in statuses.items() if status != "-"}
    assert "Untranslatable" not in ending
    assert ending == {name: str(getattr(errors, name).exit_status) for name in ending}


def test_every_exit_status_is_explained() -> None:
    text_of_page = (DOCS / "exit-statuses.md").read_text(encoding="utf-8")
    explained = {int(status) for status in re.findall(r"^\| (\d+) \|", text_of_page, re.MULTILINE)}
    assert explained == {0} | {each.exit_status for each in every_error()}


def test_an_error_keeps_its_message_and_its_advice() -> None:
    error = errors.Refused("a person is needed", advice="ask one")
    assert (str(error), error.message, error.advice) == ("a person is needed", "a person is needed", "ask one")
    assert errors.Refused("x").advice == ""


# --- MySQL and MariaDB ----------------------------------------------------------------------------------------------

#: What a number means to a migration; every other one is a ServerError.
MEANING: dict[type[MigrateError], set[int]] = {
    AccessDenied: {ER.ACCESS_DENIED_ERROR, 1698, 1862, 4151},
    RightsError: {
        ER.DBACCESS_DENIED_ERROR,
        ER.TABLEACCESS_DENIED_ERROR,
        ER.COLUMNACCESS_DENIED_ERROR,
        ER.SPECIFIC_ACCESS_DENIED_ERROR,
        ER.PROCACCESS_DENIED_ERROR,
    },
    SchemaError: {ER.BAD_DB_ERROR, ER.BAD_FIELD_ERROR, ER.NO_SUCH_TABLE},
    Contention: {ER.CHECKREAD, ER.DUP_ENTRY, ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, 3572},
    Unavailable: {
        *(CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_UNKNOWN_HOST),
        *(CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_COMMANDS_OUT_OF_SYNC, CR.CR_SERVER_LOST_EXTENDED),
        *(ER.DISK_FULL, ER.OUT_OF_RESOURCES, ER.RECORD_FILE_FULL, ER.GET_ERRNO),
        *(ER.CON_COUNT_ERROR, ER.HOST_IS_BLOCKED, ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED),
        *(ER.SERVER_SHUTDOWN, ER.NORMAL_SHUTDOWN, ER.SHUTDOWN_COMPLETE, ER.ABORTING_CONNECTION, ER.QUERY_INTERRUPTED),
        *(ER.NET_READ_ERROR, ER.NET_READ_INTERRUPTED, ER.NET_ERROR_ON_WRITE, ER.NET_WRITE_INTERRUPTED),
        ER.NEW_ABORTING_CONNECTION,
        *(ER.OPTION_PREVENTS_STATEMENT, 1792, 1836),
        *(28, 1927, 1969, 3024),
    },
}

EVERY_NUMBER = sorted(
    {value for module in (ER, CR) for name, value in vars(module).items() if name.isupper()}
    | set().union(*MEANING.values())
    | {1, 126, 144, 999, 1317, 3948, 4031, 10_000, 65_535}
)


@pytest.mark.parametrize("kind", MEANING, ids=lambda kind: str(kind.__name__))
def test_mysql_errors_are_told_apart_by_their_number(kind: type[MigrateError]) -> None:
    for number in MEANING[kind]:
        error = database_side.translated("main", pymysql.OperationalError(number, "the server's own words"))
        assert type(error) is kind, number
        assert error.message.startswith("source main: ")
        assert "the server's own words" in error.message


def test_no_mysql_error_is_left_as_it_is() -> None:
    known = {number: kind for kind, numbers in MEANING.items() for number in numbers}
    for number in EVERY_NUMBER:
        error = database_side.translated("main", pymysql.OperationalError(number, "words"))
        assert isinstance(error, MigrateError)
        assert number in known or type(error) in (ServerError, Unavailable), number


def test_whatever_sqlalchemy_takes_for_a_lost_connection_is_waited_for() -> None:
    """MySQL 8.0.24 says 4031 to a connection that was idle for too long, where others just hang up."""
    dialect: Any = mysql.dialect()
    dialect.dbapi = pymysql
    for number in EVERY_NUMBER:
        lost = pymysql.OperationalError(number, "words")
        if dialect.is_disconnect(lost, None, None):
            assert isinstance(database_side.translated("main", lost), Unavailable), number


@pytest.mark.parametrize(
    "error",
    [
        pymysql.err.InterfaceError(0, ""),
        pymysql.err.InternalError("Packet sequence number wrong - got 1 expected 2"),
        pymysql.err.Error(),
        None,
    ],
    ids=repr,
)
def test_an_error_without_a_number_is_a_connection_that_is_gone(error: BaseException | None) -> None:
    assert isinstance(database_side.translated("main", error), Unavailable)


def test_no_job_data_is_in_the_error_of_a_statement() -> None:
    words = "Duplicate entry '7-it''s the\nsecret-key' for key 'func_id'"
    with pytest.raises(Contention) as caught, database_faults("main"):
        raise exc.IntegrityError("INSERT …", {"arg": b"secret-arg"}, pymysql.IntegrityError(1062, words))
    assert caught.value.message == "source main: duplicate entry for key 'func_id'"
    assert isinstance(caught.value.__cause__, exc.IntegrityError)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (exc.TimeoutError("QueuePool limit"), Unavailable),
        (exc.NoSuchModuleError("no driver"), SchemaError),
        (exc.ArgumentError("no url"), SchemaError),
        (exc.OperationalError("SELECT", None, sqlite3.OperationalError("database is locked")), Contention),
        (exc.ProgrammingError("SELECT", None, pymysql.ProgrammingError(1146, "no table")), SchemaError),
    ],
)
def test_sqlalchemys_errors_become_ours_and_stay_the_cause(raised: Exception, expected: type[MigrateError]) -> None:
    with pytest.raises(expected, match="source main: ") as caught, database_faults("main"):
        raise raised
    assert caught.value.__cause__ is raised


def test_other_errors_pass_both_edges_unchanged() -> None:
    for edge in (database_faults("main"), redis_faults("redis://x")):
        with pytest.raises(ZeroDivisionError), edge:
            raise ZeroDivisionError
    for ours in (database_faults("main"), redis_faults("redis://x")):
        with pytest.raises(errors.Refused, match=r"^as it was$"), ours:
            raise errors.Refused("as it was")


def test_a_login_that_needs_the_rsa_package_says_how_to_install_it() -> None:
    """MySQL 8's usual plugin over a connection without TLS; PyMySQL raises a RuntimeError, which nothing wraps."""
    words = "'cryptography' package is required for sha256_password or caching_sha2_password auth methods"
    with pytest.raises(UsageError, match="source main: ") as caught, database_faults("main"):
        raise RuntimeError(words)
    assert "mysql8" in caught.value.advice
    with pytest.raises(RuntimeError, match="another"), database_faults("main"):
        raise RuntimeError("another")


# --- SQLite, which has no numbers that Python tells -----------------------------------------------------------------


def sqlite_file(folder: Path) -> Path:
    path = folder / "qudo.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE job (id INTEGER PRIMARY KEY, arg BLOB)")
    connection.close()
    return path


def error_of(source: Source, statement: str, *, writes: bool = False) -> MigrateError:
    with pytest.raises(MigrateError) as caught, source.writing() if writes else source.reading() as connection:
        connection.execute(text(statement))
    return caught.value


def test_sqlite_errors_are_told_apart_by_their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.qudo.source.LOCK_WAIT_SECONDS", 0)
    path = sqlite_file(tmp_path)
    source = Source("main", f"sqlite:///{path}")
    assert type(error_of(source, "SELECT * FROM absent")) is SchemaError
    assert type(error_of(source, "SELECT absent FROM job")) is SchemaError
    assert type(error_of(source, "SELECT")) is ServerError
    twice = error_of(source, "INSERT INTO job VALUES (1, x'736563726574'), (1, x'736563726574')", writes=True)
    assert type(twice) is Contention
    assert "secret" not in twice.message

    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert type(error_of(source, "DELETE FROM job", writes=True)) is Contention
    other.execute("ROLLBACK")

    other.execute(f"PRAGMA max_page_count = {other.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(sqlite3.OperationalError) as full:
        other.execute("INSERT INTO job (arg) VALUES (zeroblob(1000000))")
    assert type(database_side.translated("main", full.value)) is Unavailable
    other.close()


def test_a_file_that_is_no_database_is_no_qudo_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, however long it may be. " * 100)
    assert type(error_of(Source("main", f"sqlite:///{path}"), "SELECT * FROM job")) is SchemaError


def test_a_file_that_lacks_is_no_qudo_database_and_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    assert type(error_of(Source("main", f"sqlite:///{path}"), "SELECT 1")) is SchemaError
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("database is locked", Contention),
        ("database table is locked: job", Contention),
        ("database schema is locked: main", Contention),
        ("attempt to write a readonly database", Unavailable),
        ("unable to open database file", Unavailable),
        ("disk I/O error", Unavailable),
        ("database or disk is full", Unavailable),
        ("database disk image is malformed", ServerError),
    ],
)
def test_each_of_sqlites_words_is_known(words: str, expected: type[MigrateError]) -> None:
    assert type(database_side.translated("main", sqlite3.OperationalError(words))) is expected


@pytest.mark.parametrize("kind", [kind for kind in vars(sqlite3).values() if isinstance(kind, type)], ids=repr)
def test_no_sqlite_error_is_left_as_it_is(kind: type) -> None:
    if issubclass(kind, sqlite3.Error):
        assert isinstance(database_side.translated("main", kind("words")), ServerError)


# --- Redis ----------------------------------------------------------------------------------------------------------


def redis_error(line: str) -> Exception:
    """The error that redis-py makes of a server's error line: it takes the code off those that it knows."""
    error = BaseParser.parse_error(line)
    assert isinstance(error, redis.exceptions.RedisError)
    return error


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("NOAUTH Authentication required.", AccessDenied),
        ("WRONGPASS invalid username-password pair or user is disabled.", AccessDenied),
        ("ERR invalid password", AccessDenied),
        ("ERR Client sent AUTH, but no password is set", AccessDenied),
        ("NOPERM this user has no permissions to run the 'evalsha' command", RightsError),
        ("LOADING Redis is loading the dataset in memory", Loading),
        ("OOM command not allowed when used memory > 'maxmemory'.", Unavailable),
        ("READONLY You can't write against a read only replica.", Unavailable),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist", Unavailable),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Unavailable),
        ("NOREPLICAS Not enough good replicas to write.", Unavailable),
        ("CLUSTERDOWN The cluster is down", Unavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable),
        ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", Unavailable),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", Unavailable),
        ("ERR max number of clients reached", Unavailable),
        ("ASK 3999 10.0.0.1:6381", Unavailable),
        ("CROSSSLOT Keys in request don't hash to the same slot", TargetMismatch),
        ("MOVED 3999 10.0.0.1:6381", TargetMismatch),
        ("ERR unknown command 'EVALSHA'", ServerError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ServerError),
        ("NOSCRIPT No matching script. Please use EVAL.", ServerError),
    ],
)
def test_redis_errors_are_told_apart_by_what_the_server_says(line: str, expected: type[MigrateError]) -> None:
    error = redis_side.translated("redis://h:1/0", redis_error(line))
    assert type(error) is expected
    assert error.message.startswith("target redis://h:1/0: ")


def every_redis_error() -> list[type[Exception]]:
    remaining: list[type[Exception]] = [redis.exceptions.RedisError, redis.sentinel.MasterNotFoundError]
    found = []
    while remaining:
        kind = remaining.pop()
        found.append(kind)
        remaining += kind.__subclasses__()
    return found


@pytest.mark.parametrize("kind", every_redis_error(), ids=lambda kind: str(kind.__name__))
def test_no_error_of_redis_py_is_left_as_it_is(kind: type[Exception]) -> None:
    raised = kind("1 h:1") if issubclass(kind, redis.exceptions.AskError) else kind("words")
    with pytest.raises(MigrateError) as caught, redis_faults("redis://h"):
        raise raised
    assert caught.value.__cause__ is raised
    lost = isinstance(raised, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError)
    refused = isinstance(raised, redis.exceptions.AuthenticationError)
    assert isinstance(caught.value, Unavailable) or not lost or refused


@pytest.mark.parametrize(
    "raised", [ConnectionResetError("reset"), TimeoutError(), BrokenPipeError(), OSError(113, "x")]
)
def test_what_the_network_raises_is_a_redis_that_cannot_be_reached(raised: OSError) -> None:
    with pytest.raises(Unavailable, match="can't be reached"), redis_faults("redis://h"):
        raise raised


def test_sentinels_that_are_down_are_named_without_their_settings() -> None:
    said = "No master found for 'jobs' : Redis<ConnectionPool<Connection<host=s1,password=x>>> - TimeoutError()"
    error = redis_side.translated("redis+sentinel://s1:1/jobs", redis.sentinel.MasterNotFoundError(said))
    assert type(error) is Unavailable
    assert error.message == "target redis+sentinel://s1:1/jobs: No master found for 'jobs'"

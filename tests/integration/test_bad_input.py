"""Everything that can be wrong before a job moves: one clear line, the right exit status, nothing lost or written."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.conftest import SECRET_ARGUMENT, Run
from tests.integration.snapshots import nothing_left, nothing_written
from tests.qudo_app import enqueue, fill, job_ids, job_rows
from tests.resque_app import Resque
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer, SQLiteDatabase
from tests.servers.command import Cli, CommandResult
from tests.servers.mariadb import PASSWORD

#: Another password, so that a wrong one can be told from the right one in what is printed.
WRONG_PASSWORD = f"{PASSWORD}-but-wrong"
#: Seconds within which a run must say that it can't begin, however patient `--retry-for` is by default.
PROMPT_SECONDS = 20
DEAD_MYSQL = (
    f"mysql+pymysql://user:{PASSWORD.replace(':', '%3A').replace('/', '%2F').replace('@', '%40')}@127.0.0.1:1/qudo"
)


def complaint(result: CommandResult, status: int) -> str:
    """The one line that says what is wrong."""
    assert result.status == status, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith(("source ", "target "))]
    lines += [line.removeprefix("qudo-migrate: ") for line in result.stderr.splitlines() if "qudo-migrate: " in line]
    assert len(lines) == 1, result.stdout + result.stderr
    return lines[0]


def refused(cli: Cli, status: int, *arguments: str) -> str:
    """Run, quickly, in vain; what it complains of."""
    begun = time.monotonic()
    line = complaint(cli("run", *arguments), status)
    assert time.monotonic() - begun < PROMPT_SECONDS
    return line


@pytest.fixture
def shop(innodb: MariaDBDatabase) -> MariaDBDatabase:
    """A source with three jobs."""
    fill(innodb, 3, arg=f'["{SECRET_ARGUMENT}"]')
    return innodb


# --- the configuration ----------------------------------------------------------------------------------------------

GOOD = """
[target]
url = "redis://127.0.0.1:1/0"
[[source]]
name = "main"
url = "sqlite:///qudo.db"
[[route]]
func = "*"
[failures]
import = "none"
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param("[failures]", "[faliures]", "faliures: unknown key, did you mean failures?", id="section"),
        pytest.param("name =", "nmae =", "source[0].nmae: unknown key, did you mean name?", id="source"),
        pytest.param(
            'func = "*"',
            'func = "*"\nmax_retries = 1',
            "route[0].max_retries: unknown key, did you mean max_retry?",
            id="route",
        ),
        pytest.param(
            'func = "*"', 'bands = [{min_prio = 1, queue = "x"}]', "route[0].bands[0].min_prio: unknown key", id="band"
        ),
        pytest.param(
            'func = "*"', "xyzzy = 1", "route[0].xyzzy: unknown key; known: func, move, class", id="no near match"
        ),
        pytest.param('"none"', '"some"', "failures.import: ", id="word"),
        pytest.param('"main"', '"ma in"', "source[0].name: use 1 to 64 letters", id="name"),
        pytest.param('name = "main"', "", "source[0]: ", id="no name"),
        pytest.param("[target]", "[target", "not valid TOML: ", id="toml"),
        pytest.param("qudo.db", "${NO_SUCH}.db", "source[0].url: ${NO_SUCH} is not set", id="variable"),
        pytest.param("redis://", "redis://:${NO_SUCH}@", "target.url: ${NO_SUCH} is not set", id="target variable"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_file_and_key(old: str, new: str, words: str, cli: Cli) -> None:
    assert old in GOOD
    (cli.folder / "qudo-migrate.toml").write_text(GOOD.replace(old, new, 1))
    assert refused(cli, 2).startswith(f"qudo-migrate.toml: {words}")


def test_start_time_is_for_perl_only(cli: Cli) -> None:
    text = GOOD.replace("[target]", "[target]\ndialect = 'ruby'").replace('"*"', '"*"\ndelayed = "start_time"')
    (cli.folder / "qudo-migrate.toml").write_text(text)
    assert 'route[0].delayed: "start_time" is read by the Perl plugin Delay only, not by ruby' in refused(cli, 2)


def test_a_configuration_that_cannot_be_read_is_named(cli: Cli) -> None:
    result = cli("run")
    assert complaint(result, 2) == "qudo-migrate.toml: no such file"
    assert "qudo-migrate init" in result.stderr
    assert refused(cli, 2, "--config", "nowhere.toml") == "nowhere.toml: no such file"
    assert refused(cli, 2, "--config", str(cli.folder)).startswith(f"{cli.folder}: can't be read: ")
    (cli.folder / "latin1.toml").write_bytes(b'[target]\nurl = "\xe9"')
    assert refused(cli, 2, "--config", "latin1.toml").startswith("latin1.toml: can't be read: ")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:{}@127.0.0.1/qudo",
        "mysql+nonsense://user:{}@127.0.0.1/qudo",
        "mysql+mysqldb://user:{}@127.0.0.1/qudo",
        "mysql+pymysql://user:{}@127.0.0.1:port/qudo",
        "{}",
        "mysql+pymysql://user:{}@127.0.0.1:1/qudo?no_such_option=1",
    ],
)
def test_a_source_url_that_makes_no_sense_is_refused_without_its_password(
    url: str, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    write_config({"main": url.format(PASSWORD.replace("@", "%40"))}, redis_server)
    assert refused(cli, 2).startswith("source main: ")


@pytest.mark.parametrize(
    "url",
    ["http://:{}@127.0.0.1", "redis:/:{}@127.0.0.1", "redis://:{}@127.0.0.1:port/0", "{}", "redis+sentinel://:{}@h/"],
)
def test_a_target_url_that_makes_no_sense_is_refused_without_its_password(
    url: str, shop: MariaDBDatabase, write_config: WriteConfig, cli: Cli
) -> None:
    quoted = PASSWORD.replace("@", "%40").replace("/", "%2F")
    write_config([shop], url.format(quoted))
    with nothing_written(shop):
        line = refused(cli, 2)
    assert line.startswith("target.url: ")
    assert quoted not in line


# --- servers that can't be used ---------------------------------------------------------------------------------------


def test_a_wrong_mysql_password_ends_at_once_with_3(
    shop: MariaDBDatabase, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    wrong = shop.url_for(shop.account._replace(password=WRONG_PASSWORD))
    write_config({"shop-1": wrong}, redis_server)
    with nothing_written(shop, redis):
        line = refused(cli, 3)
    assert line.startswith("source shop-1: the server refuses the login: Access denied for user")


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_redis_password_ends_at_once_with_3(
    password: str, shop: MariaDBDatabase, write_config: WriteConfig, cli: Cli
) -> None:
    with RedisServer(requirepass=PASSWORD) as server:
        credentials = f":{password}@" if password else ""
        write_config([shop], f"redis://{credentials}127.0.0.1:{server.port}/0")
        with nothing_written(shop, server.client()):
            line = refused(cli, 3)
    assert line.startswith(f"target redis://127.0.0.1:{server.port}/0: the server refuses the login: ")


def test_a_redis_user_without_rights_ends_with_2(shop: MariaDBDatabase, write_config: WriteConfig, cli: Cli) -> None:
    with RedisServer(user="weak on >pw ~* +info +get +config|get") as server:
        write_config([shop], f"redis://weak:pw@127.0.0.1:{server.port}/0")
        assert "NOPERM" in refused(cli, 2) or "permission" in refused(cli, 2)
        assert job_ids(shop) == [1, 2, 3]


def test_a_dead_mysql_does_not_keep_the_other_source_from_draining(
    shop: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    write_config({"dead": DEAD_MYSQL, "main": shop}, redis_server)
    report = run(status=3, timeout=PROMPT_SECONDS)
    assert "source dead: Can't connect to MySQL server" in report.errors["dead"]
    assert report.counts_of("main") == {"moved": 3, "handed_off": 3}
    assert not report.complete
    assert resque.ids() == [1, 2, 3]


@pytest.mark.parametrize("command", ["run", "rehearse", "run --dry-run"])
def test_a_dead_redis_ends_at_once_with_3(
    command: str, shop: MariaDBDatabase, write_config: WriteConfig, cli: Cli
) -> None:
    write_config([shop], "redis://127.0.0.1:1/0")
    with nothing_written(shop):
        line = complaint(cli(*command.split(), timeout=PROMPT_SECONDS), 3)
    assert line.startswith("target redis://127.0.0.1:1/0: can't be reached: ")


def test_what_is_no_redis_ends_with_3(
    shop: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    write_config([shop], f"redis://127.0.0.1:{shop.server.port}/0")
    assert refused(cli, 3).startswith(f"target redis://127.0.0.1:{shop.server.port}/0: ")


def test_a_redis_that_evicts_jobs_is_refused(
    shop: MariaDBDatabase, write_config: WriteConfig, cli: Cli, run: Run
) -> None:
    with RedisServer(maxmemory="100mb", maxmemory_policy="allkeys-lru") as server:
        write_config([shop], server)
        with nothing_written(shop, server.client()):
            assert "maxmemory-policy is allkeys-lru" in refused(cli, 2)
        server.client().config_set("maxmemory-policy", "volatile-lru")
        assert run().counts == {"moved": 3, "handed_off": 3}


def test_a_read_only_replica_is_refused(
    shop: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    with RedisServer(replicaof=f"127.0.0.1 {redis_server.port}") as replica:
        write_config([shop], replica)
        with nothing_written(shop):
            assert "it is read-only, a replica" in refused(cli, 3)


def test_a_read_only_mysql_ends_with_3(
    redis_server: RedisServer, write_config: WriteConfig, cli: Cli, run: Run
) -> None:
    with MariaDB() as server:
        database = server.create_database()
        fill(database, 3)
        database.execute("SET GLOBAL read_only = ON")
        write_config([database], redis_server)
        with nothing_written(database):
            assert "read-only" in refused(cli, 3, "--retry-for", "1")
        database.execute("SET GLOBAL read_only = OFF")
        assert run().counts == {"moved": 3, "handed_off": 3}


# --- rights and schema ------------------------------------------------------------------------------------------------


def test_without_the_right_to_create_our_tables_nothing_is_touched(
    shop: MariaDBDatabase, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    account = shop.server.create_account(PASSWORD, [f"SELECT, INSERT, UPDATE, DELETE ON {shop.name}.*"])
    write_config({"main": shop.url_for(account)}, redis_server)
    with nothing_left(shop, redis):
        result = cli("run", timeout=PROMPT_SECONDS)
    assert "source main: no right to create qudo_migrate_" in complaint(result, 2)
    assert "qudo-migrate init --print-ddl" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("engine", "lacking"),
    [
        ("InnoDB", "SELECT"),
        ("InnoDB", "INSERT"),
        ("InnoDB", "DELETE"),
        ("MyISAM", "INSERT"),
        ("MyISAM", "DELETE"),
        ("MyISAM", "UPDATE"),
    ],
)
def test_an_account_that_lacks_a_right_moves_nothing_and_loses_nothing(
    engine: str,
    lacking: str,
    mariadb: MariaDB,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    cli: Cli,
) -> None:
    database = mariadb.create_database(engine)
    fill(database, 3)
    rows = job_rows(database)
    held = {"SELECT", "INSERT", "DELETE", "UPDATE", "CREATE"} - {lacking}
    account = mariadb.create_account(PASSWORD, [f"{', '.join(sorted(held))} ON {database.name}.*"])
    write_config({"main": database.url_for(account)}, redis_server)

    line = refused(cli, 2)

    assert line.startswith("source main: ")
    assert f"{lacking} command denied" in line
    assert job_rows(database) == rows
    assert resque.jobs() == []
    write_config([database], redis_server)
    assert cli("run").status == 0
    assert resque.ids() == [1, 2, 3]


@pytest.mark.parametrize("table", ["job", "job_status"])
def test_a_database_that_lacks_a_table_of_qudos_is_refused(
    table: str, shop: MariaDBDatabase, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    shop.execute(f"DROP TABLE {table}")
    write_config([shop], redis_server)
    with nothing_left(shop, redis):
        line = refused(cli, 2)
    assert "source main: not a Qudo database: no table" in line
    assert table in line


def test_a_missing_column_is_named(
    shop: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, cli: Cli
) -> None:
    shop.execute("ALTER TABLE job DROP COLUMN priority")
    write_config([shop], redis_server)
    assert "priority" in refused(cli, 2)
    assert (shop.count(), resque.jobs()) == (3, [])


def test_a_missing_database_is_named(
    shop: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    account = shop.server.create_account(PASSWORD, ["ALL PRIVILEGES ON *.*"])
    write_config({"main": shop.server.url("no_such_database", account)}, redis_server)
    assert "Unknown database 'no_such_database'" in refused(cli, 2)


def test_a_missing_file_is_named_and_not_made(
    tmp_path: Path, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    path = tmp_path / "no such.db"
    write_config({"main": f"sqlite:///{path}"}, redis_server)
    assert refused(cli, 2) == f"source main: {path}: no such file"
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"this is no database " * 1000], ids=["empty", "text"])
def test_a_file_that_is_no_qudo_database_is_refused_and_kept(
    content: bytes, tmp_path: Path, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(content)
    write_config({"main": f"sqlite:///{path}"}, redis_server)
    assert refused(cli, 2).startswith("source main: ")
    assert path.read_bytes() == content


# --- one source, one target -------------------------------------------------------------------------------------------


@pytest.fixture
def bound(database: Database, redis_server: RedisServer, write_config: WriteConfig, run: Run) -> Database:
    """A source whose three jobs have crossed, and that has three new ones."""
    fill(database, 3)
    write_config([database], redis_server)
    run()
    fill(database, 3)
    return database


@pytest.mark.parametrize("database", ["innodb", "myisam", "sqlite"], indirect=True)
def test_an_emptied_redis_is_noticed(bound: Database, redis: Redis, cli: Cli) -> None:
    redis.flushall()
    with nothing_left(bound, redis):
        line = refused(cli, 2)
    assert line.startswith("source main: target redis://127.0.0.1:")
    assert "emptied, replaced, or another database or namespace" in line


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
@pytest.mark.parametrize("change", ["database", "namespace"])
def test_another_database_or_namespace_of_the_same_redis_is_noticed(
    change: str, bound: Database, redis: Redis, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    url = redis_server.url.removesuffix("/0") + ("/1" if change == "database" else "/0")
    write_config([bound], {"url": url, "namespace": "other" if change == "namespace" else "resque"})
    with nothing_left(bound, redis):
        assert "another database or namespace" in refused(cli, 2)


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_redis_that_another_migration_owns_is_refused(
    bound: Database, sqlite: SQLiteDatabase, write_config: WriteConfig, cli: Cli, run: Run
) -> None:
    with RedisServer(appendfsync="always") as other:
        write_config({"theirs": sqlite}, other)
        run()
        write_config([bound], other)
        with nothing_left(bound, other.client()):
            assert "it belongs to another migration" in refused(cli, 2)


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_redis_that_forgot_more_than_a_moment_is_noticed(bound: Database, redis: Redis, cli: Cli) -> None:
    """As a restored copy would be: the right id, an old beat, bits that are missing."""
    redis.set("resque:qudo_migrate:beat", int(redis.time()[0]) - 3600)
    with nothing_left(bound, redis):
        assert "older than what the source knows of it" in refused(cli, 2)


@pytest.mark.parametrize("database", ["innodb"], indirect=True)
def test_a_renamed_source_is_noticed(
    bound: Database,
    sqlite: SQLiteDatabase,
    redis: Redis,
    redis_server: RedisServer,
    write_config: WriteConfig,
    cli: Cli,
) -> None:
    write_config({"new-name": bound}, redis_server)
    with nothing_left(bound, redis):
        assert "source new-name: " in (line := refused(cli, 2))
    assert "knows this database under the name main" in line

    write_config({"main": sqlite}, redis_server)
    with nothing_left(redis):
        assert "knows another database under this name" in refused(cli, 2)


def test_one_database_under_two_names_is_refused_and_each_job_crosses_once(
    shop: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    write_config({"one": shop, "two": shop}, redis_server)
    report = run(status=2)
    (error,) = report.errors.values()
    assert "knows this database under the name" in error
    assert sorted(job.id for job in resque.jobs()) == [1, 2, 3]


# --- jobs and keys ----------------------------------------------------------------------------------------------------


def test_a_job_of_an_unknown_func_stays_and_is_named(
    database: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run, cli: Cli
) -> None:
    good = enqueue(database, "Worker::Mail", b"{}")
    bad = enqueue(database, "Worker::Mail", f'["{SECRET_ARGUMENT}"]'.encode())
    database.execute("UPDATE job SET func_id = 4711 WHERE id = %s", [bad])
    write_config([database], redis_server)

    report = run(status=1)

    assert report.counts == {"moved": 1, "handed_off": 1, "untranslatable": 1}
    assert report.untranslatable == {("main", bad): "unknown func id 4711"}
    assert (resque.ids(), job_ids(database)) == ([good], [bad])
    assert f"main:{bad}" in cli("run").stdout


@pytest.mark.parametrize(
    ("key", "run_after"),
    [("queue:worker_mail", 0), ("queues", 0), ("delayed_queue_schedule", 1000), ("qudo_migrate:batches", 0)],
)
def test_a_key_of_another_type_in_redis_is_named_and_loses_nothing(
    key: str,
    run_after: int,
    innodb: MariaDBDatabase,
    redis: Redis,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    cli: Cli,
    run: Run,
) -> None:
    fill(innodb, 3, run_after=run_after)
    redis.set(f"resque:{key}", "somebody else's")
    write_config([innodb], redis_server)

    line = refused(cli, 2)

    assert f"resque:{key} is a string" in line
    assert redis.get(f"resque:{key}") == b"somebody else's"
    redis.delete(f"resque:{key}")
    assert run().counts["handed_off"] == 3
    assert resque.ids() == [1, 2, 3]


# --- several sources --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "status"),
    [
        ((), 0),
        (("untranslatable",), 1),
        (("dead",), 3),
        (("untranslatable", "dead"), 3),
        (("dead", "no qudo"), 2),
        (("untranslatable", "no qudo"), 2),
    ],
    ids=lambda value: " + ".join(value) or "none" if isinstance(value, tuple) else None,
)
def test_the_gravest_exit_status_wins_and_the_healthy_source_drains(
    others: tuple[str, ...],
    status: int,
    shop: MariaDBDatabase,
    sqlite: SQLiteDatabase,
    tmp_path: Path,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    enqueue(sqlite, "Worker::Mail", b"\xff\xfe")
    (tmp_path / "empty.db").touch()
    known: dict[str, Database | str] = {
        "untranslatable": sqlite,
        "dead": DEAD_MYSQL,
        "no qudo": f"sqlite:///{tmp_path}/empty.db",
    }
    write_config({"main": shop} | {name.replace(" ", "-"): known[name] for name in others}, redis_server)

    report = run(status=status)

    assert report.counts_of("main") == {"moved": 3, "handed_off": 3}
    assert resque.ids() == [1, 2, 3]
    assert set(report.errors) == {name.replace(" ", "-") for name in others if name != "untranslatable"}

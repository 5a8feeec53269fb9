"""`init` looks at the sources and writes a configuration that works as it is."""

from __future__ import annotations

import stat
import tomllib
from typing import Any

import pytest
from redis import Redis

from tests.integration.conftest import Run
from tests.integration.snapshots import nothing_written
from tests.qudo_app import copy_tables, enqueue, fill, load_fixture
from tests.resque_app import Resque
from tests.servers import Database, MariaDB, MariaDBDatabase, RedisServer
from tests.servers.command import Cli
from tests.servers.mariadb import PASSWORD, MariaDBSession


def written(cli: Cli, name: str = "qudo-migrate.toml") -> dict[str, Any]:
    return tomllib.loads((cli.folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("database", ["innodb", "sqlite"], indirect=True)
def test_what_init_writes_runs_without_an_edit(
    database: Database, mariadb: MariaDB, redis_server: RedisServer, resque: Resque, cli: Cli, run: Run
) -> None:
    original = mariadb.create_database()
    load_fixture(original, "b")
    copy_tables(original, database)
    cli.env["QUDO_PASSWORD"] = PASSWORD

    result = cli("init", "--source", f"main={database.url}", "--target", redis_server.url)

    assert result.status == 0, result.stderr
    assert "Next: qudo-migrate plan" in result.stdout
    routes = {route["func"]: route["serializer"] for route in written(cli)["route"]}
    assert routes == {"Batch::Storable": "storable", "Batch::Pack": "messagepack", "Batch::Raw": "raw"}
    assert run(status=1).counts == {"moved": 127, "handed_off": 127, "untranslatable": 2}
    assert len(resque.jobs()) == 127


def test_passwords_go_into_the_environment_not_into_the_file(innodb: MariaDBDatabase, cli: Cli, run: Run) -> None:
    fill(innodb, 3)
    with RedisServer(requirepass=PASSWORD) as server:
        result = cli("init", "--source", f"old-shop={innodb.url}", "--target", server.url, "--json")

        assert result.json()["variables"] == ["QUDO_OLD_SHOP_PASSWORD", "REDIS_PASSWORD"]
        text = (cli.folder / "qudo-migrate.toml").read_text()
        assert "pa55" not in text
        assert "${QUDO_OLD_SHOP_PASSWORD}" in text
        assert "${REDIS_PASSWORD}" in text
        cli.env |= {"QUDO_OLD_SHOP_PASSWORD": PASSWORD, "REDIS_PASSWORD": PASSWORD}
        assert run().counts == {"moved": 3, "handed_off": 3}


def test_a_url_whose_password_is_a_variable_stays_as_it_is(
    innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli
) -> None:
    cli.env["SHOP"] = PASSWORD
    account = innodb.account
    url = f"mysql+pymysql://{account.user}:${{SHOP}}@127.0.0.1:{innodb.server.port}/{innodb.name}"
    assert cli("init", "--source", f"main={url}", "--target", redis_server.url).status == 0
    assert written(cli)["source"] == [{"name": "main", "url": url}]


def test_each_func_gets_a_route_that_matches_it_alone(
    innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli
) -> None:
    for func in ('Odd "name"\\', "Glob*", "鮎::Worker", "Glob[x]?"):
        enqueue(innodb, func, b"{}")
    assert cli("init", "--source", f"main={innodb.url}", "--target", redis_server.url).status == 0
    assert [route["func"] for route in written(cli)["route"]] == [
        "Glob[*]",
        "Glob[[]x][?]",
        'Odd "name"\\',
        "鮎::Worker",
    ]


def test_several_sources_share_routes_for_the_same_func(mariadb: MariaDB, redis_server: RedisServer, cli: Cli) -> None:
    databases = {"one": mariadb.create_database("InnoDB"), "two": mariadb.create_database("MyISAM")}
    for database in databases.values():
        fill(database, 3, "Worker::Mail")
    enqueue(databases["two"], "Worker::Only", b"plain text")
    options = [part for name, database in databases.items() for part in ("--source", f"{name}={database.url}")]

    result = cli("init", *options, "--target", redis_server.url, "--namespace", "{shop}", "--dialect", "node", "--json")

    config = written(cli)
    assert [source["name"] for source in config["source"]] == ["one", "two"]
    assert {route["func"]: route["serializer"] for route in config["route"]} == {
        "Worker::Mail": "json",
        "Worker::Only": "raw",
    }
    assert (config["target"]["namespace"], config["target"]["dialect"]) == ("{shop}", "node")
    assert [(each["name"], each["engine"]) for each in result.json()["sources"]] == [
        ("one", "InnoDB"),
        ("two", "MyISAM"),
    ]


@pytest.mark.parametrize("database", ["innodb", "sqlite"], indirect=True)
def test_init_creates_our_tables_unless_told_otherwise(database: Database, redis_server: RedisServer, cli: Cli) -> None:
    arguments = ("init", "--source", f"main={database.url}", "--target", redis_server.url)
    with nothing_written(database):
        assert cli(*arguments, "--no-create-tables").status == 0
    created = cli(*arguments, "--force", "--json").json()["sources"][0]["tables_created"]
    assert "qudo_migrate_outbox" in created
    assert all(database.count(table) == 0 for table in created)
    assert cli(*arguments, "--force", "--json").json()["sources"][0]["tables_created"] == []


def test_init_replaces_no_file_unasked(innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli) -> None:
    path = cli.folder / "qudo-migrate.toml"
    path.write_text("# mine\n")
    arguments = ("init", "--source", f"main={innodb.url}", "--target", redis_server.url)
    result = cli(*arguments)
    assert result.status == 2
    assert "qudo-migrate.toml: is there already" in result.stderr
    assert path.read_text() == "# mine\n"
    assert cli(*arguments, "--config", "other.toml").status == 0
    assert stat.S_ISREG((cli.folder / "other.toml").stat().st_mode)
    assert cli(*arguments, "--force").status == 0
    assert "# mine" not in path.read_text()


def test_without_the_right_to_create_tables_init_prints_what_a_dba_must_run(
    innodb: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, run: Run
) -> None:
    fill(innodb, 3, uniqkey="key-{n}")
    grants = [f"SELECT, INSERT, UPDATE, DELETE ON {innodb.name}.*"]
    account = innodb.server.create_account(PASSWORD, grants)
    cli.env["QUDO_PASSWORD"] = PASSWORD

    result = cli("init", "--source", f"main={innodb.url_for(account)}", "--target", redis_server.url, "--json")

    document = result.json()
    assert result.status == document["exit_status"] == 1
    assert "no right to create qudo_migrate_chunk" in document["errors"][0]["error"]
    for statement in document["ddl"].split(";\n"):
        if statement.strip().startswith(("CREATE", "-- our tables")):
            innodb.execute(statement.partition("\n\n")[2] if statement.startswith("--") else statement)
    assert run().counts == {"moved": 3, "handed_off": 3}


def test_print_ddl_is_for_a_dba_and_runs_as_it_is(
    innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli, run: Run
) -> None:
    fill(innodb, 3)
    account = innodb.server.create_account(PASSWORD)
    url = innodb.url_for(account)
    (cli.folder / "qudo-migrate.toml").write_text(
        f'[target]\nurl = "{redis_server.url}"\n[[source]]\nname = "main"\nurl = "{url}"\n'
    )
    # The account may not even look: what is printed fits MySQL in general.
    ddl = cli("init", "--print-ddl")
    assert ddl.status == 0
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON `qudo`.* TO 'qudo_migrate'@'%';" in ddl.stdout

    innodb.execute(f"GRANT SELECT ON {innodb.name}.* TO {account.user}@'%'")
    ddl = cli("init", "--print-ddl")
    assert ddl.stdout.startswith("-- our tables in source main")
    root = innodb.server.root(innodb.name)
    _run_script(root, ddl.stdout)
    root.close()

    assert run().counts == {"moved": 3, "handed_off": 3}


def _run_script(session: MariaDBSession, script: str) -> None:
    for statement in script.split(";"):
        text = "\n".join(line for line in statement.splitlines() if not line.strip().startswith("--")).strip()
        if text:
            session.execute(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "init needs --source NAME=URL"),
        (("--source", "mysql+pymysql://u@h/db", "--target", "redis://h"), "write NAME=URL"),
        (("--source", "a=sqlite:///a", "--source", "a=sqlite:///b", "--target", "redis://h"), "a name is there twice"),
        (("--source", "a b=sqlite:///a", "--target", "redis://h"), "source[0].name"),
        (("--source", "a=sqlite:///a", "--target", "http://h"), "target.url: 'http'"),
        (("--source", "a=sqlite:///a", "--target", "redis://h", "--dialect", "python"), "python"),
    ],
    ids=["nothing", "no name", "twice", "bad name", "bad scheme", "bad dialect"],
)
def test_wrong_use_is_explained(arguments: tuple[str, ...], words: str, cli: Cli) -> None:
    result = cli("init", *arguments)
    assert result.status == 2
    assert words in result.stderr
    assert not (cli.folder / "qudo-migrate.toml").exists()


def test_nothing_is_written_unless_all_could_be_looked_at(
    innodb: MariaDBDatabase, redis_server: RedisServer, cli: Cli
) -> None:
    source, target = ("--source", f"main={innodb.url}"), ("--target", redis_server.url)
    dead_source = ("--source", "dead=mysql+pymysql://u:p@127.0.0.1:1/qudo")
    with nothing_written(innodb):
        assert cli("init", *dead_source, *source, *target).status == 3
        assert cli("init", *source, "--target", "redis://127.0.0.1:1/0").status == 3
    assert not (cli.folder / "qudo-migrate.toml").exists()

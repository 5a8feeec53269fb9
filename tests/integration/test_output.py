"""What the operator sees: one JSON object or a table on stdout, messages on stderr, bars on a terminal only."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import SECRET_ARGUMENT
from tests.qudo_app import enqueue, fill
from tests.schemas import check
from tests.servers import MariaDBDatabase, RedisServer
from tests.servers.command import Cli

#: How tqdm draws.
BAR = re.compile(r"main: +\d+%\|")


@pytest.fixture
def shop(innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig) -> MariaDBDatabase:
    """A configured source: 1,234 mails, 5 images, one job that can't be read and one that a worker holds."""
    fill(innodb, 1234, "Worker::Mail", arg=f'["{SECRET_ARGUMENT}"]')
    fill(innodb, 5, "Worker::Image")
    enqueue(innodb, "Worker::Image", f'{{"{SECRET_ARGUMENT}": '.encode())
    held = enqueue(innodb, "Worker::Image", b"{}")
    innodb.execute("UPDATE job SET grabbed_until = %s WHERE id = %s", [innodb.now() + 1000, held])
    write_config([innodb], redis_server)
    return innodb


def test_a_run_closes_with_a_table_and_the_next_command(shop: MariaDBDatabase, cli: Cli) -> None:
    result = cli("run")

    assert result.status == 1
    table = [line.split() for line in result.stdout.splitlines()]
    assert ["main", "Worker::Mail", "worker_mail", "1,234"] in table
    assert ["main", "Worker::Image", "worker_image", "5"] in table
    assert "1,239 jobs moved, 1,239 handed off in " in result.stdout
    assert "left in Qudo: 1 untranslatable, 1 in flight" in result.stdout
    (bad,) = shop.rows("SELECT MIN(id) FROM job")
    assert f"main:{bad[0]}" in result.stdout
    assert result.stdout.rstrip().splitlines()[-1].startswith("Next: qudo-migrate ")
    assert "\x1b" not in result.stdout + result.stderr


def test_without_a_terminal_there_is_no_bar(shop: MariaDBDatabase, cli: Cli) -> None:
    result = cli("run")
    assert "\r" not in result.stderr
    assert not BAR.search(result.stderr)


class Terminal(NamedTuple):
    """What a command printed whose stderr was a terminal."""

    status: int
    stdout: str
    screen: str


def _on_a_terminal(cli: Cli, *arguments: str) -> Terminal:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    out = cli.folder / "stdout.terminal"
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "migrate", *arguments],
            cwd=cli.folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm", **cli.env},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=slave,
        )
        os.close(slave)
        screen = b""
        with contextlib.suppress(OSError):  # how a terminal ends whose last writer is gone
            while data := os.read(master, 65536):
                screen += data
        os.close(master)
        status = process.wait(60)
    return Terminal(status, out.read_text(), screen.decode())


def test_on_a_terminal_a_bar_counts_the_jobs(shop: MariaDBDatabase, cli: Cli) -> None:
    terminal = _on_a_terminal(cli, "run", "--batch-size", "100")
    assert terminal.status == 1
    assert BAR.search(terminal.screen)
    assert "1239/" in terminal.screen
    assert "1,239 jobs moved" in terminal.stdout
    assert not BAR.search(terminal.stdout)


@pytest.mark.parametrize("option", ["--quiet", "--log-format=json"])
def test_even_on_a_terminal_there_is_no_bar_for_machines(option: str, shop: MariaDBDatabase, cli: Cli) -> None:
    assert not BAR.search(_on_a_terminal(cli, "run", option).screen)


def test_json_leaves_the_bar_on_the_terminal_and_one_object_on_stdout(shop: MariaDBDatabase, cli: Cli) -> None:
    terminal = _on_a_terminal(cli, "run", "--json")
    check(json.loads(terminal.stdout), "run")
    assert BAR.search(terminal.screen)


def test_quiet_says_nothing_but_the_result(shop: MariaDBDatabase, cli: Cli) -> None:
    result = cli("run", "--quiet", "--in-flight-wait", "0.5")
    assert result.stderr == ""
    assert "1,239 jobs moved" in result.stdout


def test_messages_are_lines_of_json_where_machines_read_them(shop: MariaDBDatabase, cli: Cli) -> None:
    result = cli("--log-format", "json", "run", "--in-flight-wait", "0.5")
    messages = [json.loads(line) for line in result.stderr.splitlines()]
    assert any("1 job in flight" in each["message"] for each in messages)
    assert all({"time", "level", "message"} <= set(each) for each in messages)


def test_common_options_may_stand_before_the_command_or_behind_it(shop: MariaDBDatabase, cli: Cli) -> None:
    (cli.folder / "qudo-migrate.toml").rename(cli.folder / "other.toml")
    for arguments in (
        ("--config", "other.toml", "--json", "run", "--dry-run"),
        ("run", "--dry-run", "--config", "other.toml", "--json"),
    ):
        check(cli(*arguments).json(), "run")


@pytest.mark.parametrize("command", ["run", "plan", "rehearse", "where main:1", "init"])
def test_an_error_is_one_object_with_json_and_a_line_with_advice_without(command: str, cli: Cli) -> None:
    result = cli(*command.split(), "--json")
    document = result.json()
    check(document, "error")
    assert (result.status, document["exit_status"], result.stderr) == (2, 2, "")

    text = cli(*command.split())
    assert (text.status, text.stdout) == (2, "")
    first, second, *rest = text.stderr.splitlines()
    assert first == f"qudo-migrate: {document['error']}"
    assert second == f"  → {document['advice']}"
    assert rest == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("run --no-such-option", "--no-such-option"),
        ("no-such-command", "no-such-command"),
        ("run --limit -1", "--limit"),
        ("run --batch-size 0", "--batch-size"),
        ("run --retry-for soon", "--retry-for"),
        ("where", "SOURCE:ID"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_what_is_wrong(arguments: str, word: str, cli: Cli) -> None:
    result = cli(*arguments.split())
    assert (result.status, result.stdout) == (2, "")
    assert word in result.stderr


def test_help_names_the_commands(cli: Cli) -> None:
    result = cli("--help")
    assert result.status == 0
    for command in ("init", "plan", "rehearse", "run", "where"):
        assert command in result.stdout
    assert "--in-flight-wait" in cli("run", "-h").stdout

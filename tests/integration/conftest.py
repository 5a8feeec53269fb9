"""What these tests are given beside the servers: a checked `run`, Resque as its workers see it, an eye on secrets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol
from urllib.parse import quote

import pytest
from redis import Redis

from tests.integration.reports import Report
from tests.resque_app import Resque
from tests.servers import RedisServer
from tests.servers.command import COMMAND_SECONDS, Cli
from tests.servers.mariadb import PASSWORD

#: Stands in job arguments that no output may show.
SECRET_ARGUMENT = "argument-that-nobody-may-see"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis whose every write is durable at once: with `everysec`, each run would wait two seconds for its fence."""
    with RedisServer(appendfsync="always") as server:
        yield server


@pytest.fixture(autouse=True)
def empty_redis(request: pytest.FixtureRequest) -> None:
    """The session's Redis is empty for each test that gets it, whether it asks for a client or not."""
    if "redis_server" in request.fixturenames:
        request.getfixturevalue("redis")


@pytest.fixture
def resque(redis: Redis) -> Resque:
    """What workers see in the session's Redis."""
    return Resque(redis)


class Run(Protocol):
    """Runs `qudo-migrate run --json`; the exit status must be `status`."""

    def __call__(self, *arguments: str, status: int = 0, timeout: float = COMMAND_SECONDS) -> Report: ...


@pytest.fixture
def run(cli: Cli) -> Run:
    """`run("--limit", "5").counts == {"moved": 5, "handed_off": 5, "kept": 3}`; the report is checked by its schema."""

    def run(*arguments: str, status: int = 0, timeout: float = COMMAND_SECONDS) -> Report:
        result = cli("run", "--json", *arguments, timeout=timeout)
        assert result.status == status, f"exit status {result.status}, not {status}\n{result.stdout}{result.stderr}"
        return Report(result)

    return run


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """No command of any test may show a password, a job's argument, or a traceback."""
    cli: Cli | None = request.getfixturevalue("cli") if "cli" in request.fixturenames else None
    yield
    if cli is None:
        return
    for path in sorted(cli.folder.glob("std*.*")):
        output = path.read_text(encoding="utf-8", errors="replace")
        for secret in (PASSWORD, quote(PASSWORD, safe=""), SECRET_ARGUMENT):
            assert secret not in output, f"{path.name} shows {secret}:\n{output}"
        assert "Traceback" not in output, output

"""Migrators that a failpoint has put to sleep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from migrate.failpoints import VARIABLE
from tests.servers.command import Cli, RunningCommand


@contextmanager
def asleep(cli: Cli, point: str, *arguments: str) -> Iterator[RunningCommand]:
    """A run that sleeps (SIGSTOP) at a failpoint until SIGCONT; killed at the end, as its locks would stay."""
    cli.env[VARIABLE] = f"{point}=stop"
    command = cli.start("run", "--json", *arguments)
    del cli.env[VARIABLE]
    status = Path(f"/proc/{command.pid}/stat")
    try:
        command.wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] in ("T", "t"), 30, "it sleeps")
        yield command
    finally:
        if command.running:
            command.kill()

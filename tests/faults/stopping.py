"""Commands that a failpoint has put to sleep."""

from __future__ import annotations

from pathlib import Path

from tests.servers.command import RunningCommand


def wait_stopped(command: RunningCommand) -> None:
    """Until the command sleeps at its failpoint (SIGSTOP)."""
    status = Path(f"/proc/{command.pid}/stat")
    command.wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] in ("T", "t"), 30, "it sleeps")

"""Leaving a record of a command in the target's history. Never makes a command fail."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime

from migrate import __version__
from migrate.errors import MigrateError
from migrate.resque import history
from migrate.resque.history import Options, Record
from migrate.resque.target import Target


def operator() -> str:
    """Who works here: behind sudo, who called it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user id that no name belongs to
        return str(os.getuid())


def record(
    target: Target,
    command: str,
    *,
    seconds: float,
    options: Options,
    counts: Mapping[str, int],
    exit_status: int,
) -> None:
    """Note a command that has ended; a Redis that is away, full or another migration's gets no note."""
    with contextlib.suppress(MigrateError):
        history.add(
            target,
            Record(
                at=datetime.now(UTC).replace(microsecond=0),
                command=command,
                user=operator(),
                host=socket.gethostname(),
                version=__version__,
                seconds=round(seconds, 1),
                options={key: value for key, value in options.items() if value is not None and value is not False},
                counts={key: value for key, value in counts.items() if value},
                exit_status=exit_status,
            ),
        )

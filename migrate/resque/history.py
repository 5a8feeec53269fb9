"""What was done to this target: a short record of each command that changed something. Writes one key of our own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

import msgspec

from migrate.resque.target import Target

#: What was given, by the option's name.
Options: TypeAlias = Mapping[str, str | int | float | bool | None]

#: Records that are kept.
KEPT_RECORDS = 500


class Record(msgspec.Struct, frozen=True):
    """One command. Options and counts carry no secrets and no job data."""

    at: datetime  #: UTC, when it ended
    command: str
    user: str
    host: str
    version: str
    seconds: float
    options: Options
    counts: Mapping[str, int]
    exit_status: int

    @property
    def command_line(self) -> str:
        """The command as it was typed, as far as it is recorded."""
        return command_line(self.command, self.options)


def command_line(command: str, options: Options) -> str:
    """A command with its options, as an operator types it."""
    options = {key: value for key, value in options.items() if value is not None and value is not False}
    words = [command]
    if command == "cutover":
        step = str(options.pop("step", ""))
        action = str(options.pop("action", "set"))  # older versions didn't tell
        words += [action, step] if action == "set" else [action]
    for key, value in options.items():
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words.append(shlex.quote(f"{value:g}" if isinstance(value, float) else str(value)))
    return " ".join(words)


def add(target: Target, record: Record) -> None:
    """Put a record in front."""
    with target.commands() as client, client.pipeline() as pipe:
        pipe.lpush(target.keys.history, msgspec.json.encode(record))
        pipe.ltrim(target.keys.history, 0, KEPT_RECORDS - 1)
        pipe.execute()


def newest(target: Target, count: int) -> list[Record]:
    """The newest records first."""
    with target.commands() as client:
        texts: list[bytes] = client.lrange(target.keys.history, 0, count - 1)  # type: ignore[assignment]
    return [msgspec.json.decode(text, type=Record) for text in texts]

"""What was done to this target: a short record of each command that changed something. Writes one key of our own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from migrate.resque.target import Target

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
    options: Mapping[str, str | int | float | bool | None]
    counts: Mapping[str, int]
    exit_status: int


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

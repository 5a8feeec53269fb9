"""Failures imported from Qudo's `exception_log`: into Resque's list, each once.

Writes `failed` and a ledger of our own.

The ledger knows a row by its id and a fingerprint of its content, since ids come back: about 20 bytes a row, in
buckets of 100 rows so that Redis stores them compactly. Marking the row alone would import it twice after a crash
between push and mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from migrate.jobs import ResqueFailure
from migrate.resque import lua
from migrate.resque.handoff import BEHIND_SECONDS, HandedOff, outcome
from migrate.resque.target import Target

#: Rows of one bucket of the ledger.
BUCKET_ROWS = 100


def enter(target: Target, source: str, failures: Sequence[ResqueFailure], *, target_id: str, beat: int) -> HandedOff:
    """Push those that the ledger doesn't know, and note them. Safe to repeat and side by side; at most some hundreds.

    Raises as `HandOff.push` does.
    """
    if not failures:
        return HandedOff(0, 0)
    keys = target.keys
    buckets: dict[bytes, int] = {}
    arguments: list[Any] = [target_id, beat, BEHIND_SECONDS]
    for failure in failures:
        bucket, field = divmod(failure.id, BUCKET_ROWS)
        number = buckets.setdefault(keys.failure_ledger(source, bucket), len(buckets) + 1)
        arguments += (number, field, bytes.fromhex(failure.fingerprint), failure.text or b"")
    script = lua.source("guard", "failures")
    reply = target.run(script, [keys.target_id, keys.beat, keys.failed, *buckets], arguments)
    return outcome(reply, target, target_id, beat)


def known(target: Target, source: str, failures: Sequence[ResqueFailure]) -> set[int]:
    """The ids of those rows that the ledger knows by this content."""
    found: set[int] = set()
    for start in range(0, len(failures), 1000):
        part = failures[start : start + 1000]
        with target.commands() as client, client.pipeline(transaction=False) as pipe:
            for failure in part:
                bucket, field = divmod(failure.id, BUCKET_ROWS)
                pipe.hget(target.keys.failure_ledger(source, bucket), str(field))
            values = pipe.execute()
        found.update(
            failure.id
            for failure, value in zip(part, values, strict=True)
            if value == bytes.fromhex(failure.fingerprint)
        )
    return found

"""Failures imported from Qudo's `exception_log`: into Resque's list, each once.

Writes `failed` and a ledger of our own.

The ledger knows a row by its id and a fingerprint of its content, since ids come back: about 20 bytes a row, in
buckets of 100 rows so that Redis stores them compactly. Marking the row alone would import it twice after a crash
between push and mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from migrate.jobs import ResqueFailure
from migrate.resque import lua
from migrate.resque.handoff import BEHIND_SECONDS, HandedOff, outcome
from migrate.resque.target import Target

#: Rows of one bucket of the ledger.
BUCKET_ROWS = 100
#: Behind the fingerprint of a row whose job has crossed.
_CROSSED = b"c"


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


class Known(NamedTuple):
    """Ids of rows that the ledger has by this content."""

    imported: set[int]  #: pushed
    crossed: set[int]  #: only noted: their job goes on in Resque


def known(target: Target, source: str, failures: Sequence[ResqueFailure]) -> Known:
    """What the ledger has of those rows."""
    found = Known(set(), set())
    for start in range(0, len(failures), 1000):
        part = failures[start : start + 1000]
        with target.commands() as client, client.pipeline(transaction=False) as pipe:
            for failure in part:
                bucket, field = divmod(failure.id, BUCKET_ROWS)
                pipe.hget(target.keys.failure_ledger(source, bucket), str(field))
            values = pipe.execute()
        for failure, value in zip(part, values, strict=True):
            fingerprint = bytes.fromhex(failure.fingerprint)
            if value == fingerprint:
                found.imported.add(failure.id)
            elif value == fingerprint + _CROSSED:
                found.crossed.add(failure.id)
    return found

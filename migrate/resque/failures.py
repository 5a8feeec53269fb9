"""Failures imported from Qudo's `exception_log`: into Resque's list, each once.

Writes `failed` and a ledger of our own.

The ledger knows a row by its id and a fingerprint of its content, since ids come back: about 20 bytes a row, in
buckets of 100 rows so that Redis stores them compactly. Marking the row alone would import it twice after a crash
between push and mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from migrate.jobs import ResqueFailure
from migrate.resque import lua
from migrate.resque.handoff import BEHIND_SECONDS, HandedOff, outcome
from migrate.resque.target import Target

#: Rows of one bucket of the ledger.
BUCKET_ROWS = 100
#: Choices of funcs for which it is remembered what was seen: funcs come, and `--func` chooses.
MOST_RULES = 50
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


class Seen(msgspec.Struct, frozen=True):
    """What a complete import has left of `exception_log`: nothing is to be done for rows that stand as they stood then.

    It is written behind what that import has pushed and noted, so a Redis that forgets those has forgotten this too.
    """

    buckets: dict[int, str]  #: by the id of the first row that one can have: a digest of its rows
    open: list[int]  #: ids of rows that something may still become of: ask again


def seen(target: Target, source: str, rule: str) -> Seen | None:
    """What the last import of these funcs (`rule` names them) has seen; None: none has ended, or it isn't known."""
    with target.commands() as client:
        text: bytes | None = client.hget(target.keys.failures_seen(source), rule)  # type: ignore[assignment]
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Seen)
    except msgspec.DecodeError:  # another version's
        return None


def remember(target: Target, source: str, rule: str, what: Seen | None) -> None:
    """Note what was seen; None: forget it."""
    key = target.keys.failures_seen(source)
    with target.commands() as client:
        if what is None:
            client.hdel(key, rule)
        elif client.hexists(key, rule) or int(client.hlen(key)) < MOST_RULES:
            client.hset(key, rule, msgspec.json.encode(what))


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

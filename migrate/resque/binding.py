"""What a Redis remembers as a target: its id, the sources bound to it, the beat. Reads and writes our own keys only."""

from __future__ import annotations

import secrets

from migrate.errors import TargetMismatch
from migrate.resque import lua
from migrate.resque.target import Target


def read_target_id(target: Target) -> str | None:
    """The id under which sources know this Redis and namespace; None: no source was ever bound to it."""
    with target.commands() as client:
        held: bytes | None = client.get(target.keys.target_id)  # type: ignore[assignment]
    return None if held is None else held.decode()


def claim(target: Target) -> str:
    """Give this Redis an id unless it has one; returns the one that holds. Safe to repeat and side by side."""
    with target.commands() as client:
        client.set(target.keys.target_id, secrets.token_hex(8), nx=True)
    held = read_target_id(target)
    if held is None:
        raise TargetMismatch(f"target {target.label}: it forgets what it was told a moment ago", advice="see its log")
    return held


def renew(target: Target) -> tuple[str, int]:
    """Give this Redis a new id, whatever it had, and a beat of now; returns both. Old ids are refused from then on."""
    new = secrets.token_hex(8)
    now = target.now()
    with target.commands() as client, client.pipeline() as pipe:
        pipe.set(target.keys.target_id, new)
        pipe.set(target.keys.beat, now)
        pipe.execute()
    return new, now


def invalidate(target: Target) -> bool:
    """Make this Redis no target any more, for any source; False when it was none."""
    with target.commands() as client:
        return bool(client.set(target.keys.target_id, f"replaced-{secrets.token_hex(8)}", xx=True))


def check_source(target: Target, name: str, source_id: str) -> None:
    """Raise TargetMismatch when the name stands for another source here, or the source for another name."""
    with target.commands() as client:
        held = {key.decode(): value.decode() for key, value in client.hgetall(target.keys.sources).items()}  # type: ignore[union-attr]
    if held.get(name, source_id) != source_id:
        raise TargetMismatch(
            f"source {name}: {target.label} knows another database under this name",
            advice="give the source the name it had, or a new one; names are part of each job's identity",
        )
    other = next((key for key, value in held.items() if value == source_id and key != name), None)
    if other is not None:
        raise TargetMismatch(
            f"source {name}: {target.label} knows this database under the name {other}",
            advice=f"name the source {other} again; names are part of each job's identity",
        )


def register_source(target: Target, name: str, source_id: str) -> None:
    """Enter a source under its name. Safe to repeat. Raises TargetMismatch as `check_source` does."""
    check_source(target, name, source_id)
    with target.commands() as client:
        client.hsetnx(target.keys.sources, name, source_id)
    check_source(target, name, source_id)


def read_beat(target: Target) -> int | None:
    """The newest beat written here, Unix second of Redis's own clock."""
    with target.commands() as client:
        held: bytes | None = client.get(target.keys.beat)  # type: ignore[assignment]
    return None if held is None else int(held)


def beat(target: Target, target_id: str) -> int:
    """Write a beat and return it. Raises TargetMismatch when this Redis isn't the target any more."""
    keys = target.keys
    verdict, value = target.run(lua.source("beat"), [keys.target_id, keys.beat], [target_id])
    if verdict != b"ok":
        raise wrong_target(target, target_id, value.decode())
    return int(value)


def wrong_target(target: Target, expected: str, found: str) -> TargetMismatch:
    """The error for a Redis that holds another target id than the source is bound to, or none."""
    if not found:
        return TargetMismatch(
            f"target {target.label}: it doesn't hold the ledger of this migration:"
            " emptied, replaced, or another database or namespace",
            advice="point [target] at the Redis that holds it; if that one is lost, see docs/redis-lost.md",
        )
    return TargetMismatch(
        f"target {target.label}: it belongs to another migration (target id {found}, bound to {expected})",
        advice="point [target] at the Redis and namespace that this source was bound to",
    )


def older_than_known(target: Target, known: int, found: int) -> TargetMismatch:
    """The error for a Redis whose beat is behind what a source was told."""
    behind = "has no beat" if not found else f"is {known - found} s behind"
    return TargetMismatch(
        f"target {target.label}: it is older than what the source knows of it: it {behind}",
        advice="it was restored from an old copy, or lost its newest data: see docs/redis-lost.md",
    )

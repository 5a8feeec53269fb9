"""uniqkeys that Redis guards: of jobs born in Resque. Keys of our own."""

from __future__ import annotations

from collections.abc import Mapping

from migrate.resque import lua
from migrate.resque.target import Target


def holders(target: Target, func: str) -> dict[str, str]:
    """Each key and its holder: an identity, a space, its content."""
    with target.commands() as client:
        held: Mapping[bytes, bytes] = client.hgetall(target.keys.unique(func))  # type: ignore[assignment]
    return {key.decode(): holder.decode() for key, holder in held.items()}


def holder_of(target: Target, func: str, key: str) -> str | None:
    """Who holds a key."""
    with target.commands() as client:
        held: bytes | None = client.hget(target.keys.unique(func), key)  # type: ignore[assignment]
    return None if held is None else held.decode()


def release(target: Target, func: str, held: Mapping[str, str]) -> None:
    """Give keys free that these very holders hold; another holder keeps its key."""
    arguments = [part for pair in held.items() for part in pair]
    if arguments:
        target.run(lua.source("release"), [target.keys.unique(func)], arguments)

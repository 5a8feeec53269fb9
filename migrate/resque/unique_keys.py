"""uniqkeys that Redis guards: of jobs born in Resque. Keys of our own.

Redis compares texts byte by byte, so keys that the sources' databases take for equal must be spelled alike here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from migrate.resque import lua
from migrate.resque.target import Target


class Spelling(StrEnum):
    """How a func's keys are spelled in Redis, by what its sources take for equal; from the finest to the coarsest."""

    BYTES = "bytes"  #: as it is
    PADDED = "padded"  #: without blanks at the end, as MySQL's `_bin` collations compare
    FOLDED = "folded"  #: see `folded`


def spelled(key: str, spelling: Spelling) -> str:
    """The key as it stands in Redis."""
    match spelling:
        case Spelling.BYTES:
            return key
        case Spelling.PADDED:
            return key.rstrip(" ")
        case Spelling.FOLDED:
            return folded(key)


def spellings(key: str) -> list[str]:
    """All, for who knows the job that holds the key, and not the func's spelling."""
    return list(dict.fromkeys(spelled(key, each) for each in Spelling))


def coarsest(found: Iterable[Spelling]) -> Spelling:
    """The one that is safe for all: what any takes for equal, it spells alike. Folded where there is none."""
    order = list(Spelling)
    return max(found, key=order.index, default=Spelling.FOLDED)


def folded(key: str) -> str:
    """One spelling for all keys that any of MySQL's collations could take for equal: case, accents, trailing blanks.

    That is more than most collations take for equal, which costs little.
    """
    if key.isascii():
        return key.lower().rstrip(" ")
    text = unicodedata.normalize("NFKD", key.casefold())
    return "".join(letter for letter in text if not unicodedata.combining(letter)).casefold().rstrip(" ")


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


def release_of(target: Target, func: str, keys: Sequence[str], holders: set[str]) -> None:
    """Give those of these keys free that one of these jobs holds, by its identity."""
    if not keys:
        return
    with target.commands() as client:
        held: Sequence[bytes | None] = client.hmget(target.keys.unique(func), list(keys))  # type: ignore[assignment]
    found = {key: holder.decode() for key, holder in zip(keys, held, strict=True) if holder is not None}
    release(target, func, {key: holder for key, holder in found.items() if holder.partition(" ")[0] in holders})


def release(target: Target, func: str, held: Mapping[str, str]) -> None:
    """Give keys free that these very holders hold; another holder keeps its key."""
    arguments = [part for pair in held.items() for part in pair]
    if arguments:
        target.run(lua.source("release"), [target.keys.unique(func)], arguments)

"""Shadow copies: what Resque would have got of jobs that Qudo runs. Keys of our own, which no worker sees; bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from migrate.resque import lua
from migrate.resque.target import Target

#: Copies that are kept, the newest of all funcs.
KEPT_SHADOWS = 20_000
#: Copies that one command reads.
PAGE_SHADOWS = 500

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(tuple[str, bytes, bytes | None]).decode


class Shadow(NamedTuple):
    """One copy, and what it was made of: a Qudo that keeps up has deleted the row before anybody can compare them."""

    source: str
    job_id: int
    func: str
    payload: bytes
    arg: bytes | None  #: as it was written into `job`


class MirrorCount(NamedTuple):
    """What became of one func's copies, ever."""

    copied: int
    missed: int  #: too many at a time, Redis away, or not translatable: the enqueue never waits for its shadow


def keep(target: Target, func: str, shadows: Sequence[Shadow], missed: int) -> None:
    """Keep copies, and count those that were missed."""
    keys = target.keys
    arguments: list[Any] = [KEPT_SHADOWS, func, missed]
    for shadow in shadows:
        arguments += (f"{shadow.source}:{shadow.job_id}", _encode(shadow[2:]))
    target.run(lua.source("shadow"), [keys.mirror, keys.mirror_order, keys.mirror_counts], arguments)


def shadows(target: Target) -> Iterator[list[Shadow]]:
    """All copies, the newest first, in pages."""
    keys = target.keys
    seen = 0
    while True:
        with target.commands() as client:
            fields: list[bytes] = client.lrange(keys.mirror_order, -seen - PAGE_SHADOWS, -seen - 1)  # type: ignore[assignment]
            held: list[bytes | None] = client.hmget(keys.mirror, fields) if fields else []  # type: ignore[assignment]
        page = []
        for field, value in zip(fields, held, strict=True):
            source, _, job_id = field.decode().rpartition(":")
            if value is not None:
                page.append(Shadow(source, int(job_id), *_decode(value)))
        yield page
        if len(fields) < PAGE_SHADOWS:
            return
        seen += len(fields)


def counts(target: Target) -> Mapping[str, MirrorCount]:
    """How many jobs of each func were copied and missed."""
    with target.commands() as client:
        held: Mapping[bytes, bytes] = client.hgetall(target.keys.mirror_counts)  # type: ignore[assignment]
    found: dict[str, dict[str, int]] = {}
    for field, value in held.items():
        func, _, word = field.decode().rpartition(":")
        found.setdefault(func, {})[word] = int(value)
    return {func: MirrorCount(words.get("copied", 0), words.get("missed", 0)) for func, words in sorted(found.items())}

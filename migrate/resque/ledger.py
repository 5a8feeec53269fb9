"""Reading the ledger: which identities were handed off.

The bits are set by the hand-off script alone, and never cleared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from migrate.jobs import Identity
from migrate.resque.target import Target


def _bits(target: Target, batch: int, first: int, last: int) -> tuple[int, int]:
    """The bytes that hold bits `first` to `last`, as an integer, and the number of that integer's lowest bit's seq.

    Redis counts bits from the most significant one of the first byte.
    """
    start, end = first // 8, last // 8
    with target.commands() as client:
        found: bytes = client.getrange(target.keys.ledger(batch), start, end)  # type: ignore[assignment]
    held = found.ljust(end - start + 1, b"\0")
    return int.from_bytes(held, "big"), end * 8 + 7


def delivered(target: Target, batch: int, first: int, last: int) -> set[int]:
    """The seqs from `first` to `last` whose bit is set."""
    bits, lowest = _bits(target, batch, first, last)
    return {seq for seq in range(first, last + 1) if bits >> (lowest - seq) & 1}


def count_delivered(target: Target, batch: int, first: int, last: int) -> int:
    """How many of the bits `first` to `last` are set."""
    bits, lowest = _bits(target, batch, first, last)
    return (bits >> (lowest - last) & ((1 << (last - first + 1)) - 1)).bit_count()


def delivered_many(target: Target, identities: Iterable[Identity]) -> set[Identity]:
    """Those of any identities whose bit is set."""
    by_batch: dict[int, list[int]] = defaultdict(list)
    for identity in identities:
        by_batch[identity.batch].append(identity.seq)
    return {
        Identity(batch, seq)
        for batch, seqs in by_batch.items()
        for seq in delivered(target, batch, min(seqs), max(seqs)).intersection(seqs)
    }


def bitmaps(target: Target, batches: Sequence[int]) -> dict[int, bytes]:
    """The whole bitmaps of batches, 8 KiB each at most; empty where there is none."""
    with target.commands() as client, client.pipeline(transaction=False) as pipe:
        for batch in batches:
            pipe.get(target.keys.ledger(batch))
        return {batch: value or b"" for batch, value in zip(batches, pipe.execute(), strict=True)}


def is_set(bits: bytes, seq: int) -> bool:
    """Whether a bitmap has the bit of this seq: Redis counts from the most significant bit of the first byte."""
    place, within = divmod(seq, 8)
    return place < len(bits) and bool(bits[place] >> (7 - within) & 1)


def total(target: Target) -> int:
    """How many jobs were ever handed off to this target: its set bits."""
    with target.commands() as client:
        batches: Iterable[bytes] = client.hkeys(target.keys.batches)  # type: ignore[assignment]
        with client.pipeline(transaction=False) as pipe:
            for batch in batches:
                pipe.bitcount(target.keys.ledger(int(batch, 16)))
            return sum(int(count) for count in pipe.execute())

"""Which source each batch of the ledger belongs to, and all of a ledger's bits at one time. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.parts import in_parts
from migrate.resque import ledger
from migrate.resque.target import Target

#: Bitmaps that one round trip reads: 8 KiB each at most.
BITMAPS_PER_READ = 200


def owners(target: Target) -> dict[int, str]:
    """Batch -> name of its source, of every batch that ever handed off a job."""
    found: dict[int, str] = {}
    names: dict[bytes, str] = {}
    with target.commands() as client:
        for batch, source in client.hscan_iter(target.keys.batches.decode(), count=1000):
            name = names.setdefault(source, source.decode("utf-8", "surrogateescape"))
            found[int(batch, 16)] = name
    return found


def owner(target: Target, batch: int) -> str | None:
    """The source of one batch; None: no job of it was ever handed off."""
    with target.commands() as client:
        source: bytes | None = client.hget(target.keys.batches.decode(), f"{batch:016x}")  # type: ignore[assignment]
    return None if source is None else source.decode("utf-8", "surrogateescape")


def bits(target: Target, batches: Sequence[int]) -> dict[int, bytes]:
    """The ledger of these batches as it is now."""
    found: dict[int, bytes] = {}
    for part in in_parts(batches, BITMAPS_PER_READ):
        found.update(ledger.bitmaps(target, part))
    return found


def processed(target: Target) -> int | None:
    """How many jobs Resque's workers have counted as begun or done; None: there is no such number."""
    with target.commands() as client:
        value: bytes | None = client.get(f"{target.namespace}:stat:processed")  # type: ignore[assignment]
    return int(value) if value is not None and value.isdigit() else None

"""The ledger's bits, counted and listed in one answer of Redis, against a model that looks at each bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from hypothesis import example, given
from hypothesis import strategies as st

from migrate.engine.batches import BATCH_JOBS
from migrate.jobs import Identity
from migrate.resque import ledger
from migrate.resque.keys import Keys
from migrate.resque.target import Target


class FakeRedis:
    """Bitmaps as Redis keeps them: bit 0 is the highest of the first byte; strings end with the last byte written."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytearray] = {}
        self.commands = 0

    def setbit(self, key: bytes, offset: int) -> None:
        value = self.values.setdefault(key, bytearray())
        value.extend(b"\0" * (offset // 8 + 1 - len(value)))
        value[offset // 8] |= 0x80 >> offset % 8

    def getrange(self, key: bytes, start: int, end: int) -> bytes:
        self.commands += 1
        return bytes(self.values.get(key, bytearray())[start : end + 1])


class FakeTarget:
    """As much of a target as the ledger needs."""

    def __init__(self, bits: dict[int, set[int]]) -> None:
        self.keys = Keys("resque")
        self.redis = FakeRedis()
        for batch, seqs in bits.items():
            for seq in seqs:
                self.redis.setbit(self.keys.ledger(batch), seq)

    @contextmanager
    def commands(self) -> Iterator[FakeRedis]:
        yield self.redis


def target(bits: dict[int, set[int]]) -> Target:
    return cast("Target", FakeTarget(bits))


SEQS = st.integers(0, 80) | st.integers(0, BATCH_JOBS - 1)
BITS = st.sets(SEQS, max_size=60)


@given(bits=BITS, first=SEQS, more=st.integers(0, 100))
@example(bits={0}, first=0, more=0)
@example(bits={BATCH_JOBS - 1}, first=BATCH_JOBS - 1, more=0)
@example(bits={7, 8}, first=7, more=1)
@example(bits=set(), first=0, more=100)
@example(bits={3}, first=1000, more=5)
def test_bits_of_a_range_are_those_that_are_set(bits: set[int], first: int, more: int) -> None:
    last = min(first + more, BATCH_JOBS - 1)
    held = target({1: bits})
    expected = {seq for seq in range(first, last + 1) if seq in bits}
    assert ledger.delivered(held, 1, first, last) == expected
    assert ledger.count_delivered(held, 1, first, last) == len(expected)


@given(bits=st.sets(st.integers(0, BATCH_JOBS - 1), max_size=20))
def test_a_whole_batch_is_counted_with_one_command(bits: set[int]) -> None:
    held = target({1: bits})
    assert ledger.count_delivered(held, 1, 0, BATCH_JOBS - 1) == len(bits)
    assert cast("FakeTarget", held).redis.commands == 1


@given(
    bits=st.dictionaries(st.integers(0, 3), BITS, max_size=4),
    asked=st.lists(st.builds(Identity, st.integers(0, 4), SEQS), max_size=30),
)
def test_any_identities_are_asked_for_with_one_command_a_batch(
    bits: dict[int, set[int]], asked: list[Identity]
) -> None:
    held = target(bits)
    found = ledger.delivered_many(held, asked)
    assert found == {identity for identity in asked if identity.seq in bits.get(identity.batch, ())}
    assert cast("FakeTarget", held).redis.commands == len({identity.batch for identity in asked})


def test_nobody_asked_for_costs_nothing() -> None:
    held = target({1: {1}})
    assert ledger.delivered_many(held, []) == set()
    assert cast("FakeTarget", held).redis.commands == 0

"""Sets of identities by bits, against Python's own."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from migrate.identities import Identities, Told
from migrate.jobs import Identity

one = st.builds(Identity, st.sampled_from([0, 1, 2**63 - 1]), st.sampled_from([0, 1, 7, 8, 9, 4095, 65535]))
changes = st.lists(st.tuples(st.booleans(), one))


@given(changes)
def test_they_hold_what_a_set_holds(steps: list[tuple[bool, Identity]]) -> None:
    ours = Identities()
    expected: set[Identity] = set()
    for adds, identity in steps:
        (ours.add if adds else ours.discard)(identity)
        (expected.add if adds else expected.discard)(identity)
        assert (identity in ours) == (identity in expected)
    assert list(ours) == sorted(expected)
    assert len(ours) == len(expected)
    assert [Identity(batch, seq) for batch, seqs in ours.by_batch() for seq in seqs] == sorted(expected)
    assert [batch for batch, _ in ours.by_batch()] == sorted({identity.batch for identity in expected})


@given(st.lists(st.tuples(one, st.sampled_from(["started", "held"]))))
def test_each_has_the_word_that_it_got_last(steps: list[tuple[Identity, str]]) -> None:
    told = Told()
    expected: dict[Identity, str] = {}
    for identity, word in steps:
        told.tell(identity, word)
        expected[identity] = word
    for identity, word in expected.items():
        assert [told.is_told(identity, each) for each in ("started", "held")] == [word == "started", word == "held"]
    counts = told.counts()
    assert all(counts[word] == list(expected.values()).count(word) for word in ("started", "held"))


def test_a_job_takes_a_bit() -> None:
    tracemalloc.start()
    ours = Identities(Identity(1, seq) for seq in range(65_536))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(ours) == 65_536
    assert held < 16_000

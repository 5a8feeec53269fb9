"""Identities: read back as written, and never given twice, whatever forks or is renewed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.engine import batches
from migrate.engine.batches import BATCH_JOBS, Batches
from migrate.jobs import Identity

ROOT = Path(__file__).parents[2]

IDENTITIES = st.builds(Identity, st.integers(0, 2**63 - 1), st.integers(0, BATCH_JOBS - 1))


# --- the text -------------------------------------------------------------------------------------------------------


@given(identity=IDENTITIES)
def test_an_identity_is_read_back_as_it_was_written(identity: Identity) -> None:
    assert Identity.parse(identity.text) == identity


@given(one=IDENTITIES, other=IDENTITIES)
def test_two_identities_have_two_texts(one: Identity, other: Identity) -> None:
    assert (one.text == other.text) == (one == other)


def test_the_text_is_sixteen_hex_digits_a_dash_and_the_seq() -> None:
    assert Identity(0xABC, 42).text == "0000000000000abc-42"
    assert Identity(2**63 - 1, 0).text == "7fffffffffffffff-0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "0000000000000001",
        "0000000000000001-",
        "-1",
        "1-1",
        "00000000000000001-1",
        "0000000000000001-1-1",
        "0000000000000001--1",
        "0000000000000001- 1",
        "0000000000000001-1\n",
        "0000000000000001-1.0",
        "0000000000000001-٣",
        "0000000000000001-²",
        "000000000000000g-1",
        # What int() takes for hexadecimal, and no identity is written as.
        "0x00000000000001-1",
        "0000000000000_01-1",
        "+000000000000001-1",
        " 000000000000001-1",
        "000000000000001\n-1",
        "00000000000000０1-1"[1:],
        # Another spelling of an identity would be another job to whoever compares texts.
        "00000000000000AB-1",
        # 64 bits, which no signed column holds.
        "8000000000000000-1",
        "0000000000000001-01",
    ],
)
def test_nothing_else_is_taken_for_an_identity(text: str) -> None:
    with pytest.raises(ValueError, match="not an identity"):
        Identity.parse(text)


@given(text=st.text(max_size=30) | st.from_regex(r"[0-9a-fA-Fx_+ ]{16}-\d{1,6}", fullmatch=True))
def test_what_is_read_is_written_the_same(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except ValueError:
        return
    assert identity.text == text


# --- never the same twice -------------------------------------------------------------------------------------------


def test_a_batch_counts_up_from_nought() -> None:
    given_out = Batches()
    taken = [given_out.take() for _ in range(100)]
    assert [identity.seq for identity in taken] == list(range(100))
    assert {identity.batch for identity in taken} == {given_out.batch}


def test_batches_are_random_and_fit_into_63_bits() -> None:
    drawn = [Batches().batch for _ in range(500)]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= batch < 2**63 for batch in drawn)
    assert max(drawn) > 2**60


def test_a_full_batch_is_followed_by_another() -> None:
    given_out = Batches()
    first = [given_out.take() for _ in range(BATCH_JOBS)]
    second = [given_out.take() for _ in range(3)]
    assert (first[0].batch, first[-1].seq) == (first[-1].batch, 65_535)
    assert second[0].batch != first[0].batch
    assert [identity.seq for identity in second] == [0, 1, 2]


def test_a_renewed_batch_begins_anew_under_another_number() -> None:
    given_out = Batches()
    first = given_out.take()
    given_out.renew()
    second = given_out.take()
    assert second.batch != first.batch
    assert second.seq == 0


@given(steps=st.lists(st.sampled_from(["take", "renew", "fill"]), max_size=30))
def test_no_identity_is_given_twice(steps: list[str]) -> None:
    one, other = Batches(), Batches()
    taken: list[Identity] = []
    for step in steps:
        for given_out in (one, other):
            if step == "take":
                taken.append(given_out.take())
            elif step == "renew":
                given_out.renew()
            else:
                given_out._next = BATCH_JOBS - 1
                taken += [given_out.take(), given_out.take()]
    # `fill` jumps ahead, and so could only hide a repetition within a batch that it never reaches.
    assert len(set(taken)) == len(taken)


#: A migrator that forks, and its child that forks again: each takes identities before and after.
FORKING = """
import os, sys
from migrate.engine.batches import Batches

given_out = Batches()

def take(who):
    for _ in range(3):
        os.write(1, f"{who} {given_out.take().text}\\n".encode())

take("parent")
if not os.fork():
    take("child")
    if not os.fork():
        take("grandchild")
        os._exit(0)
    os.wait()
    take("child")
    os._exit(0)
os.wait()
take("parent")
"""


def test_a_forked_process_gets_batches_of_its_own() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING], cwd=ROOT, capture_output=True, text=True, check=True
    )
    taken: dict[str, list[Identity]] = {}
    for line in result.stdout.splitlines():
        who, _, text = line.partition(" ")
        taken.setdefault(who, []).append(Identity.parse(text))
    batches_of = {who: {identity.batch for identity in identities} for who, identities in taken.items()}
    assert {who: len(held) for who, held in batches_of.items()} == {"parent": 1, "child": 1, "grandchild": 1}
    assert len(set.union(*batches_of.values())) == 3
    assert [identity.seq for identity in taken["parent"]] == list(range(6))
    assert [identity.seq for identity in taken["child"]] == list(range(6))


def test_a_ledger_bitmap_has_a_bit_for_each_seq_of_a_batch() -> None:
    script = (Path(batches.__file__).parents[1] / "resque" / "lua" / "handoff.lua").read_text(encoding="utf-8")
    assert f"local LAST_SEQ, BIG_CALL = {BATCH_JOBS - 1}," in script

"""Our Storable against Perl's own: what Perl freezes we read, what we freeze Perl thaws.

`python -m tests.interop.test_perl_storable` writes anew what the unit tests read where there is no Perl:
tests/data/storable/recorded.jsonl.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import Untranslatable
from migrate.qudo.serializers import PlainValue, Serializer, nfreeze
from tests.unit.serializers.decoding import json_of, same, value_of
from tests.unit.serializers.storable_cases import DATA, HOWS, RECORDED, Case, cases

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl isn't installed")

INTEGERS = st.integers(-(2**63), 2**63 - 1)

#: Floats that Perl's fifteen digits hold, so that nfreeze loses nothing; the largest would round to infinity.
#: Perl writes whole numbers from 1e15 on as a number or as text, as it likes.
SHORT_FLOATS = (
    st.floats(-1e300, 1e300)
    .map(lambda number: float(f"{number:.15g}"))
    .filter(lambda number: not (number.is_integer() and 1e15 <= abs(number) < 2**63))
)
ALL_FLOATS = st.floats(allow_nan=False, allow_infinity=False)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["0123", "1e5", "é", "鮎", "🐟", "a" * 255, "é" * 128, "鮎" * 90, "\0", "true", "-0", ""]
)


def trees(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5), max_leaves=20
    )


class Perl:
    """tests/data/storable/peer.pl on a pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["perl", DATA / "peer.pl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def thaw(self, data: bytes) -> PlainValue:
        value: PlainValue = self._ask(op="thaw", hex=data.hex())["value"]
        return value

    def freeze(self, how: str, value: PlainValue) -> bytes:
        return bytes.fromhex(self._ask(op="freeze", how=how, value=value)["hex"])

    def frozen(self, how: str, code: str) -> bytes:
        return bytes.fromhex(self._ask(op="perl", how=how, code=code)["hex"])

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "died" not in answer, answer
        return answer


@pytest.fixture(scope="module")
def perl() -> Iterator[Perl]:
    peer = Perl()
    yield peer
    peer.close()


def as_network(value: Any, *, true: PlainValue = True, false: PlainValue = False) -> PlainValue:
    """What is left of a value in network order: large integers and floats are text."""
    if value is True or value is False:
        return true if value else false
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 2**63:
            return as_network(int(value))
        text = f"{value:.15g}"
        return text if float(text) == value else repr(value)
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        return str(value)
    if isinstance(value, list):
        return [as_network(item, true=true, false=false) for item in value]
    if isinstance(value, dict):
        return {key: as_network(item, true=true, false=false) for key, item in value.items()}
    plain: PlainValue = value
    return plain


def as_text(value: Any) -> Any:
    """Numbers as text with Perl's fifteen digits: JSON::PP reads some large integers as strings."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else f"{value:.15g}"
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return {key: as_text(item) for key, item in value.items()}


@pytest.mark.parametrize(
    ("case", "how"), [pytest.param(case, how, id=f"{case.what}-{how}") for case in cases() for how in case.how]
)
def test_what_perl_freezes_is_read(perl: Perl, case: Case, how: str) -> None:
    data = perl.frozen(how, case.perl)
    if case.refused is not None:
        with pytest.raises(Untranslatable, match=case.refused):
            json_of(data, Serializer.STORABLE, bytes_mode=case.bytes, blessed=case.blessed)
        return
    value = value_of(data, Serializer.STORABLE, bytes_mode=case.bytes, blessed=case.blessed)
    assert same(value, case.expected)
    read = json_of(data, bytes_mode=case.bytes, blessed=case.blessed)
    assert read.serializer is Serializer.STORABLE
    assert set(read.findings) == case.expected_findings


@settings(deadline=None, max_examples=300)
@given(trees(st.none() | st.booleans() | INTEGERS | ALL_FLOATS | TEXTS))
def test_what_we_freeze_perl_thaws(perl: Perl, value: Any) -> None:
    true, false = perl.thaw(nfreeze([True, False]))  # type: ignore[misc, str-unpack]
    assert (true, false) in ((True, False), ("1", ""))
    assert same(perl.thaw(nfreeze(value)), as_network(value, true=true, false=false))


@settings(deadline=None, max_examples=150)
@given(trees(st.none() | st.booleans() | INTEGERS | SHORT_FLOATS | TEXTS), st.sampled_from(HOWS))
def test_what_perl_freezes_of_any_structure_is_read(perl: Perl, value: Any, how: str) -> None:
    read = value_of(perl.freeze(how, value), Serializer.STORABLE)
    assert as_text(read) == as_text(value)


@settings(deadline=None, max_examples=100)
@given(trees(st.none() | st.integers(-(2**31), 2**31 - 1) | TEXTS))
def test_nfreeze_writes_what_perl_writes(perl: Perl, value: Any) -> None:
    """Byte for byte, as far as the order of hash keys allows: Perl's own is random, the peer's canonical."""
    ours = nfreeze(value)
    theirs = perl.freeze("nfreeze", value)
    assert len(ours) == len(theirs)
    if not _has_large_hash(value):
        assert ours[2:] == theirs[2:]


def _has_large_hash(value: Any) -> bool:
    if isinstance(value, dict):
        return len(value) > 1 or any(map(_has_large_hash, value.values()))
    return isinstance(value, list) and any(map(_has_large_hash, value))


@settings(deadline=None)
@given(ALL_FLOATS)
def test_floats_keep_all_their_digits(perl: Perl, number: float) -> None:
    thawed = perl.thaw(nfreeze([number]))
    assert isinstance(thawed, list)
    (seen,) = thawed
    assert math.isclose(float(str(seen)), number, rel_tol=0, abs_tol=0)


def test_large_strings_and_many_items(perl: Perl) -> None:
    value: PlainValue = {"text": "鮎" * 100_000, "bytes": "a" * 300_000, "items": list(range(20_000))}
    assert perl.thaw(nfreeze(value)) == value
    assert value_of(perl.freeze("freeze", value)) == value


def test_perl_drops_what_only_a_weak_reference_holds(perl: Perl) -> None:
    """Why such data is refused: the bytes hold the value, Perl's worker doesn't see it."""
    code = "$main::x={a=>1}; my $y=[$main::x]; Scalar::Util::weaken($y->[0]); $y"
    assert perl.thaw(perl.frozen("nfreeze", code)) == [None]


def test_booleans_of_perl_itself(perl: Perl) -> None:
    """`!!1` in a structure: text up to Storable 3.26, a boolean from 3.27 on."""
    value = value_of(perl.frozen("nfreeze", "[!!1, !!0]"))
    assert value in (["1", ""], [True, False])


def _record() -> None:
    peer = Perl()
    with RECORDED.open("w") as out:
        for case in cases():
            for how in case.how:
                line = {"what": case.what, "how": how, "hex": peer.frozen(how, case.perl).hex()}
                out.write(json.dumps(line) + "\n")
    peer.close()


if __name__ == "__main__":
    _record()

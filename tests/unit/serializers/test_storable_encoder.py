"""What we freeze: bytes as nfreeze writes them (against Perl itself: tests/interop/test_perl_storable.py)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import Untranslatable
from migrate.qudo.serializers import PlainValue, Serializer, nfreeze
from tests.unit.serializers.decoding import same, value_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, "05"),
        (True, "0f"),
        (False, "10"),
        (0, "0880"),
        (-128, "0800"),
        (127, "08ff"),
        (128, "0900000080"),
        (-129, "09ffffff7f"),
        (2**31 - 1, "097fffffff"),
        (-(2**31), "0980000000"),
        (2**31, "0a0a" + b"2147483648".hex()),
        (-(2**31) - 1, "0a0b" + b"-2147483649".hex()),
        (2**70, "0a16" + b"1180591620717411303424".hex()),
        (1.5, "0a03" + b"1.5".hex()),
        (3.0, "0883"),
        (1e9, "093b9aca00"),
        (1e15, "0a10" + b"1000000000000000".hex()),
        (1e20, "0a05" + b"1e+20".hex()),
        (0.1, "0a03" + b"0.1".hex()),
        (0.1 + 0.2, "0a13" + b"0.30000000000000004".hex()),
        ("", "0a00"),
        ("0123", "0a0430313233"),
        ("é", "1702c3a9"),
        ("鮎", "1703e9ae8e"),
        ("a" * 255, "0aff" + b"a".hex() * 255),
        ("a" * 256, "0100000100" + b"a".hex() * 256),
        ("é" * 128, "1800000100" + "é".encode().hex() * 128),
        ([], "0200000000"),
        ({}, "0300000000"),
        ([[]], "0200000001" + "040200000000"),
        ({"a": [1]}, "0300000001" + "040200000001" + "0881" + "0000000161"),
        ({"é": 1}, "190000000001" + "0881" + "02" + "00000001e9"),
        ({"鮎": 1, "a": 2}, "190000000002" + "0881" + "01" + "00000003e9ae8e" + "0882" + "00" + "0000000161"),
    ],
)
def test_bytes_are_those_of_nfreeze(value: PlainValue, data: str) -> None:
    assert nfreeze(value).hex() == "050b" + data


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "infinity"),
        ([-float("inf")], "infinity"),
        (b"bytes", "type bytes"),
        ((1, 2), "type tuple"),
        ({1: 2}, "key of type int"),
        ({None: 2}, "key of type NoneType"),
        ("\ud800", "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        (object(), "type object"),
    ],
)
def test_what_storable_or_json_cannot_hold_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(Untranslatable, match=reason):
        nfreeze(value)


def test_depth_and_cycles() -> None:
    value: Any = []
    for _ in range(511):
        value = [value]
    assert nfreeze(value)
    with pytest.raises(Untranslatable, match="512 levels"):
        nfreeze([value])
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(Untranslatable, match="512 levels"):
        nfreeze(cycle)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | TEXTS,
        lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
        max_leaves=20,
    )
)
def test_what_we_freeze_we_read(value: Any) -> None:
    assert same(value_of(nfreeze(value), Serializer.STORABLE), value)


def test_equal_parts_of_a_value_are_written_one_by_one() -> None:
    shared = [1]
    assert nfreeze([shared, shared]) == nfreeze([[1], [1]])

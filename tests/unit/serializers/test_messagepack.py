"""MessagePack in the forms that Data::MessagePack has written over the years."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import Untranslatable
from migrate.qudo.serializers import BytesMode, Finding, PlainValue, Serializer
from migrate.qudo.serializers.messagepack import decode, second_opinion
from tests.unit.serializers.decoding import MAX_DEPTH, json_of, same, value_of

MESSAGEPACK = Serializer.MESSAGEPACK

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=15,
)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xc0", None),
        (b"\xc2", False),
        (b"\xc3", True),
        (b"\x00", 0),
        (b"\x7f", 127),
        (b"\xe0", -32),
        (b"\xff", -1),
        (b"\xcc\xff", 255),
        (b"\xcd\xff\xff", 65535),
        (b"\xce\xff\xff\xff\xff", 2**32 - 1),
        (b"\xcf" + b"\xff" * 8, 2**64 - 1),
        (b"\xd0\x80", -128),
        (b"\xd1\x80\x00", -32768),
        (b"\xd2\x80\x00\x00\x00", -(2**31)),
        (b"\xd3\x80" + b"\x00" * 7, -(2**63)),
        (b"\xca\x3f\xc0\x00\x00", 1.5),
        (b"\xca\x3d\xcc\xcc\xcd", 0.10000000149011612),
        (b"\xcb" + struct.pack(">d", 0.1), 0.1),
        (b"\xcb" + struct.pack(">d", 3.0), 3.0),
        (b"\xa0", ""),
        (b"\xa3\xe9\xae\x8e", "鮎"),
        (b"\xd9\x02hi", "hi"),
        (b"\xda\x00\x02hi", "hi"),
        (b"\xdb\x00\x00\x00\x02hi", "hi"),
        (b"\xc4\x02hi", "hi"),
        (b"\xc5\x00\x02hi", "hi"),
        (b"\xc6\x00\x00\x00\x02hi", "hi"),
        (b"\x90", []),
        (b"\x93\x01\xa1a\xc0", [1, "a", None]),
        (b"\xdc\x00\x01\x01", [1]),
        (b"\xdd\x00\x00\x00\x01\x01", [1]),
        (b"\x80", {}),
        (b"\x81\xa1a\x01", {"a": 1}),
        (b"\xde\x00\x01\xa1a\x01", {"a": 1}),
        (b"\xdf\x00\x00\x00\x01\xda\x00\x01a\x01", {"a": 1}),
        (b"\x81\xc4\x01a\x01", {"a": 1}),
        (b"\x84\x01\x0a\xff\x0b\xcd\x01\x00\x0c\xd0\x80\x0d", {"1": 10, "-1": 11, "256": 12, "-128": 13}),
        (b"\xa40123", "0123"),
    ],
)
def test_every_form_is_read(data: bytes, value: PlainValue) -> None:
    assert same(value_of(data, MESSAGEPACK), value)
    assert same(decode(data, BytesMode.REJECT, MAX_DEPTH).value, value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut off"),
        (b"\xa5hell", "cut off"),
        (b"\xd9", "cut off"),
        (b"\xcd\x01", "cut off"),
        (b"\x81\xa1a", "cut off"),
        (b"\x92\x01", "cut off"),
        (b"\xdf\xff\xff\xff\xff", "cut off"),
        (b"\xdd\xff\xff\xff\xff\x01", "cut off"),
        (b"\xdb\xff\xff\xff\xffa", "cut off"),
        (b"\x01\x02", "ends at byte 1, 1 more follow"),
        (b"\x81\xa1a\x01\n", "ends at byte 4, 1 more follow"),
        (b"\xc1", "0xc1, which is never used, at byte 0"),
        (b"\x91\xd4\x01\x02", "extension type at byte 1"),
        (b"\xc7\x02\x01ab", "extension type at byte 0"),
        (b"\xd6\xff\x00\x00\x00\x00", "extension type at byte 0"),
        (b"\x81\xc0\x01", "map key that is neither string nor integer at byte 1"),
        (b"\x81\xc3\x01", "map key"),
        (b"\x81\xca\x00\x00\x00\x00\x01", "map key"),
        (b"\x81\x90\x01", "map key"),
        (b"\x81\xd4\x01\x02\x01", "map key"),
        (b"\xca\x7f\xc0\x00\x00", "NaN or infinity\\) at byte 0"),
        (b"\x91\xcb\x7f\xf0" + b"\x00" * 6, "NaN or infinity\\) at byte 1"),
        (b"\xcb\xff\xf0" + b"\x00" * 6, "NaN or infinity"),
        (b"\xa1\xff", "aren't UTF-8 at byte 1"),
        (b"\xa3\xed\xa0\x80", "aren't UTF-8 at byte 1"),
        (b"\x81\xa1\xe9\x01", "aren't UTF-8 at byte 2"),
    ],
)
def test_what_json_cannot_hold_and_what_is_damaged_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Untranslatable, match=reason):
        json_of(data, MESSAGEPACK)
    with pytest.raises(Untranslatable, match=reason):
        value_of(data, MESSAGEPACK)


def test_byte_strings_follow_the_route() -> None:
    data = b"\x82\xa1\xff\xa2ok\xa1b\xc4\x02\xff\xfe"
    assert value_of(data, MESSAGEPACK, bytes_mode=BytesMode.LATIN1) == {"\xff": "ok", "b": "\xff\xfe"}
    assert value_of(data, MESSAGEPACK, bytes_mode=BytesMode.BASE64) == {"/w==": "ok", "b": "//4="}
    assert json_of(data, MESSAGEPACK, bytes_mode=BytesMode.BASE64).findings == (Finding.BASE64,)


def test_large_integers_are_found() -> None:
    assert json_of(b"\xcf" + b"\xff" * 8, MESSAGEPACK).text == b"18446744073709551615"
    assert json_of(b"\xcf" + b"\xff" * 8, MESSAGEPACK).findings == (Finding.BIG_INTEGER,)
    assert json_of(b"\xcf" + (2**53).to_bytes(8, "big"), MESSAGEPACK).findings == ()


def test_of_equal_keys_the_last_counts_as_in_perl() -> None:
    data = b"\x84\xa1a\x01\xa1b\x02\xa1a\x03\xc4\x01b\x04"
    assert value_of(data, MESSAGEPACK) == {"a": 3, "b": 4}
    assert json_of(data, MESSAGEPACK).findings == (Finding.DUPLICATE_KEYS,)
    assert value_of(b"\x83\xa11\x0a\x01\x0b\xa11\x0c", MESSAGEPACK) == {"1": 12}


def test_different_keys_that_become_the_same_text_are_refused() -> None:
    with pytest.raises(Untranslatable, match="the same text at byte 5"):
        json_of(b"\x82\xa2\xc3\xa9\x01\xa1\xe9\x02", MESSAGEPACK, bytes_mode=BytesMode.LATIN1)
    with pytest.raises(Untranslatable, match="the same text"):
        json_of(b"\x82\xa4/w==\x01\xa1\xff\x02", MESSAGEPACK, bytes_mode=BytesMode.BASE64)


@pytest.mark.parametrize("code", [b"\x91", b"\x81\xa1a"])
def test_depth(code: bytes) -> None:
    empty = b"\x90" if code == b"\x91" else b"\x80"
    assert value_of(code * 509 + empty, MESSAGEPACK, max_depth=510)
    for data in (code * 510 + empty, code * 100_000, code * 100_000 + empty):
        with pytest.raises(Untranslatable, match=r"nested deeper than 510 levels|cut off"):
            json_of(data, MESSAGEPACK, max_depth=510)


def test_announced_sizes_take_no_memory() -> None:
    data = b"\x9f" + b"\xdd\x7f\xff\xff\xff" * 15
    tracemalloc.start()
    with pytest.raises(Untranslatable):
        decode(data, BytesMode.REJECT, MAX_DEPTH)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@settings(deadline=None)
@given(VALUES)
def test_whatever_msgspec_writes_is_read_the_same(value: Any) -> None:
    data = msgspec.msgpack.encode(value)
    assert same(decode(data, BytesMode.REJECT, MAX_DEPTH).value, value)
    assert same(second_opinion(data, BytesMode.REJECT, MAX_DEPTH), value)
    assert same(value_of(data, MESSAGEPACK), value)


@settings(deadline=None)
@given(VALUES)
def test_the_old_form_is_read_the_same(value: Any) -> None:
    """Data::MessagePack before 1.0 had no str8 and no bin: every string was raw."""
    assert same(value_of(old_form(value), MESSAGEPACK), value)


def old_form(value: Any) -> bytes:
    if isinstance(value, str):
        raw = value.encode()
        return (bytes([0xA0 | len(raw)]) if len(raw) < 32 else b"\xda" + struct.pack(">H", len(raw))) + raw
    if isinstance(value, list):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(old_form, value))
    if isinstance(value, dict):
        items = b"".join(old_form(key) + old_form(item) for key, item in value.items())
        return b"\xde" + struct.pack(">H", len(value)) + items
    return msgspec.msgpack.encode(value)


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=40))
def test_both_readings_agree_on_any_bytes(data: bytes) -> None:
    try:
        own = decode(data, BytesMode.LATIN1, MAX_DEPTH).value
    except Untranslatable:
        return
    assert same(second_opinion(data, BytesMode.LATIN1, MAX_DEPTH), own)

"""Which serializer an arg is taken for, alone and among the other args of its func."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import Untranslatable
from migrate.qudo.serializers import BytesMode, Serializer, detect, detect_func, nfreeze
from tests.unit.serializers.decoding import json_of, value_of

AUTO, JSON, MESSAGEPACK, STORABLE, RAW = Serializer

HINTS = [None, *Serializer]
pack = msgspec.msgpack.encode

STRUCTURE: dict[str, Any] = {"user": 1, "name": "鮎", "list": [1, None, "x"]}


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize(
    ("arg", "kind"),
    [
        (b'{"a":1}', JSON),
        (b"[]", JSON),
        (b' \n[1, "x"]\n', JSON),
        (pack(STRUCTURE), MESSAGEPACK),
        (pack([1, 2, {"id": "0123456789"}]), MESSAGEPACK),
        (nfreeze(STRUCTURE), STORABLE),
        (nfreeze([]), STORABLE),
        (b"pst0" + nfreeze({}), STORABLE),
        (b"\x04\x0b\x0812345678\x04\x08\x08\x08\x03\x00\x00\x00\x00", STORABLE),
        (b"hello world", RAW),
        (b"", RAW),
        ("鮎の魚拓".encode(), RAW),
        (b"0123", RAW),
        (b"user=1;name=x", RAW),
        (b"a" * 1000, RAW),
        ("鮎の魚拓".encode("euc-jp"), RAW),
        (bytes(range(256)), RAW),
    ],
)
def test_what_leaves_no_doubt_is_found_whatever_the_func_usually_has(
    arg: bytes, kind: Serializer, hint: Serializer | None
) -> None:
    assert detect(arg, hint) is kind


@pytest.mark.parametrize(
    ("arg", "hint", "kind"),
    [
        # a scalar: JSON only among JSON
        (b'"text"', JSON, JSON),
        (b'"text"', RAW, RAW),
        (b'"text"', None, RAW),
        (b"12345", JSON, JSON),
        (b"12345", None, RAW),
        (b"null", JSON, JSON),
        (b"null", RAW, RAW),
        (b"text", JSON, RAW),
        # text that starts like JSON and isn't
        (b"[INFO] started", None, RAW),
        (b"[INFO] started", RAW, RAW),
        (b"{name}", STORABLE, RAW),
        (b'{"a":1', JSON, JSON),
        (b'{"a":"\xff"}', JSON, JSON),
        (b"\xef\xbb\xbf{}", None, RAW),
        (b"\xef\xbb\xbf{}", JSON, JSON),
        # MessagePack scalars
        (b"\x05", None, RAW),
        (b"\x05", MESSAGEPACK, MESSAGEPACK),
        (b"7", MESSAGEPACK, MESSAGEPACK),
        (b"7", RAW, RAW),
        (b"\xa5hello", None, MESSAGEPACK),
        (b"\xa5hello", MESSAGEPACK, MESSAGEPACK),
        (b"\xa5hello", RAW, RAW),
        (b"\xc0", MESSAGEPACK, MESSAGEPACK),
        (b"\xc0", None, RAW),
        (b"text", MESSAGEPACK, RAW),
        # damaged MessagePack among MessagePack is no text
        (b"\x82\xa1a\x01", MESSAGEPACK, MESSAGEPACK),
        (b"\x82\xa1a\x01", None, RAW),
        # two bytes of Shift_JIS that could be an array
        (b"\x91\x41", RAW, RAW),
        (b"\x91\x41", None, MESSAGEPACK),
        # bytes that start like Storable
        (b"\x05\x0b\x02\xff", None, STORABLE),
        (b"\x05\x0b\x02\xff", STORABLE, STORABLE),
        (b"\x05\x0b\x02\xff", RAW, RAW),
        (b"\x05\x7f\x02\xff", None, RAW),
        (b"\x05\x0b\x7f\xff", None, RAW),
    ],
)
def test_the_hint_decides_where_two_readings_are_possible(
    arg: bytes, hint: Serializer | None, kind: Serializer
) -> None:
    assert detect(arg, hint) is kind


@pytest.mark.parametrize("hint", HINTS)
def test_null_says_nothing(hint: Serializer | None) -> None:
    assert detect(None, hint) is (RAW if hint in (None, AUTO) else hint)
    assert json_of(None, hint=hint).text == b"null"


def test_damaged_args_are_not_passed_on_as_text() -> None:
    for arg, hint in ((b'{"a":1', JSON), (b"\x82\xa1a\x01", MESSAGEPACK), (nfreeze(STRUCTURE)[:-3], STORABLE)):
        with pytest.raises(Untranslatable):
            json_of(arg, hint=hint, bytes_mode=BytesMode.BASE64)


@pytest.mark.parametrize(
    ("arg", "forced"),
    [
        (b"hello", JSON),
        (b"hello", MESSAGEPACK),
        (b"hello", STORABLE),
        (b'{"a":1}', STORABLE),
        (b'{"a":1}', MESSAGEPACK),
        (nfreeze({}), JSON),
        (nfreeze({}), MESSAGEPACK),
        (nfreeze({"é": "é"}), RAW),
        (pack({"a": 1}), JSON),
        (pack({"a": 1}), STORABLE),
        (pack({"a": 1}), RAW),
    ],
)
def test_a_forced_serializer_that_does_not_fit_is_a_clear_error(arg: bytes, forced: Serializer) -> None:
    with pytest.raises(Untranslatable) as caught:
        json_of(arg, forced)
    assert len(caught.value.message) < 120


def test_func_of_one_kind() -> None:
    found = detect_func([b'{"a":1}', b"[]", None, b'{"b":2}'])
    assert found == (JSON, 1.0, 3, {JSON: 3})


def test_mixed_func() -> None:
    found = detect_func([pack(STRUCTURE)] * 6 + [b"hello"] * 3 + [b'{"a":1}'])
    assert found.serializer is MESSAGEPACK
    assert found.share == 0.6
    assert found.looked_at == 10
    assert found.counts == {MESSAGEPACK: 6, RAW: 3, JSON: 1}
    assert list(found.counts) == [MESSAGEPACK, RAW, JSON]


def test_func_of_raw_text_with_a_few_structures() -> None:
    found = detect_func([b"hello"] * 5 + [nfreeze(STRUCTURE), pack(STRUCTURE), b"[1]"])
    assert found.counts == {RAW: 5, STORABLE: 1, MESSAGEPACK: 1, JSON: 1}


@pytest.mark.parametrize("args", [[], [None], [None, None]])
def test_nothing_to_look_at(args: list[bytes | None]) -> None:
    assert detect_func(args) == (AUTO, 0.0, 0, {})
    assert json_of(b"[1]", hint=AUTO).serializer is JSON


def test_scalars_are_judged_by_what_most_args_are() -> None:
    assert detect_func([b'{"a":1}', b"12", b'"x"', b'{"a":2}']).counts == {JSON: 4}
    assert detect_func([b"12", b"13", b"null"]).serializer is RAW
    assert detect_func([b'"one"', b'"two"', b"3"]).counts == {JSON: 3}
    assert detect_func([b'"one"', b"two"]).serializer is RAW
    assert detect_func([b"\xa5hello", b"\xa5world", b"\x07"]).counts == {MESSAGEPACK: 3}


def test_any_iterable_will_do() -> None:
    assert detect_func(iter([b"[1]"])).serializer is JSON


@pytest.mark.parametrize("hint", HINTS)
@given(arg=st.binary(max_size=30) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(deadline=None)
def test_detect_says_what_to_json_reads(arg: bytes, hint: Serializer | None) -> None:
    kind = detect(arg, hint)
    assert kind is not AUTO
    try:
        assert json_of(arg, hint=hint, bytes_mode=BytesMode.LATIN1).serializer is kind
    except Untranslatable:
        with pytest.raises(Untranslatable):
            value_of(arg, hint=hint, bytes_mode=BytesMode.LATIN1)

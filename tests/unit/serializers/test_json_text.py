"""JSON args: passed on byte for byte when every reader can read them, refused with a reason when not."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import Untranslatable
from migrate.qudo.serializers import Finding, Serializer
from tests.unit.serializers.decoding import MAX_DEPTH, json_of, same, value_of

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b'{"a":1}',
        b' \t\r\n{"a" : [1, 2]}\n\n',
        b'["\\u9b8e", "\\ud83d\\udc1f", "\\/", "\\u0000"]',
        '["鮎", "🐟", "\u2028", "\x7f"]'.encode(),
        b'{"a":1,"a":2}',
        b"[1.0, -0, -0.0, 1e5, 1E+5, 0.1, 1e-400]",
        b'{"":{}}',
        b'["0123", "1e5", "9007199254740993"]',
    ],
)
def test_valid_json_passes_byte_for_byte(text: bytes) -> None:
    result = json_of(text)
    assert result.text == text
    assert result.serializer is Serializer.JSON
    assert same(value_of(text), json.loads(text))


@pytest.mark.parametrize("text", [b"null", b"true", b"0", b'"text"', b" 1 ", b"1.5", b'""'])
def test_scalars_are_json_where_the_route_says_so(text: bytes) -> None:
    assert json_of(text, Serializer.JSON).text == text
    assert same(value_of(text, Serializer.JSON), json.loads(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "truncated"),
        (b'{"a":1', "truncated"),
        (b"[1,]", "byte 3"),
        (b"{'a':1}", "byte 1"),
        (b'{"a":1}}', "trailing characters"),
        (b"[1]\x00", "trailing characters"),
        (b"[01]", "byte"),
        (b"[1.]", "byte"),
        (b"[+1]", "byte"),
        (b"[0x10]", "byte"),
        (b"[NaN]", "byte 1"),
        (b"[Infinity]", "byte 1"),
        (b"[-Infinity]", "byte 2"),
        (b"[nan]", "byte"),
        (b'["\x01"]', "byte 2"),
        (b'["line\n"]', "byte 6"),
        (b'["\\x"]', "byte"),
        (b'["\\ud800"]', "half a surrogate pair"),
        (b'["\\udc00"]', "half a surrogate pair"),
        (b'["\\ud800\\u0041"]', "half a surrogate pair"),
        (b'["\xff"]', "not UTF-8 at byte 2"),
        (b'["caf\xe9"]', "not UTF-8 at byte 5"),
        (b'["\xed\xa0\x80"]', "not UTF-8 at byte 2"),
        (b'["\xc0\xaf"]', "not UTF-8 at byte 2"),
        (b"\xef\xbb\xbf[1]", "byte order mark"),
        ("[1]".encode("utf-16"), "byte"),
    ],
)
def test_invalid_json_is_refused_with_its_place(text: bytes, reason: str) -> None:
    with pytest.raises(Untranslatable, match=f"not valid JSON.*{reason}") as caught:
        json_of(text, Serializer.JSON)
    assert "\n" not in caught.value.message
    with pytest.raises(Untranslatable):
        value_of(text, Serializer.JSON)


def test_reasons_show_no_data() -> None:
    for text in (b'{"password":"hunter2"', b'{"password":"hunter2"}x', b'{"password":hunter2}', b'["hunter2\xff"]'):
        with pytest.raises(Untranslatable) as caught:
            json_of(text, Serializer.JSON)
        assert "hunter2" not in caught.value.message
        assert "password" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        (b"[9007199254740992]", ()),
        (b"[-9007199254740992]", ()),
        (b"[9007199254740993]", (Finding.BIG_INTEGER,)),
        (b"[-9007199254740993]", (Finding.BIG_INTEGER,)),
        (b"[18446744073709551616]", (Finding.BIG_INTEGER,)),
        (b'{"id":123456789012345678901234567890}', (Finding.BIG_INTEGER,)),
        (b"[1" + b"0" * 307 + b"]", (Finding.BIG_INTEGER,)),
        (b'["12345678901234567890"]', ()),
        (b'{"12345678901234567890":1}', ()),
        (b"[0.333333333333333]", ()),
        (b"[0.30000000000000004]", ()),
        (b"[0.12345678901234567890]", (Finding.LONG_FLOAT,)),
        (b"[12345678901234567890.5, 9007199254740993]", (Finding.BIG_INTEGER, Finding.LONG_FLOAT)),
        (b"[1e308, 1e22, 1.5e300]", ()),
        (b'["550e8400-e29b-41d4-a716-446655440000", "1e400"]', ()),
    ],
)
def test_numbers_that_some_reader_rounds_are_found(text: bytes, findings: tuple[Finding, ...]) -> None:
    result = json_of(text)
    assert result.text == text
    assert result.findings == findings


def test_integers_keep_every_digit() -> None:
    assert value_of(b"[9007199254740993, 18446744073709551616, -1234567890123456789012]") == [
        9007199254740993,
        18446744073709551616,
        -1234567890123456789012,
    ]


@pytest.mark.parametrize(
    "number", [b"1e400", b"-1e400", b"1e+309", b"9" * 400, b"-" + b"9" * 400, b"9" * 5000, b"9" * 400 + b".5"]
)
def test_numbers_outside_a_double_are_refused(number: bytes) -> None:
    for text in (b"[" + number + b"]", b'{"a": ' + number + b"}"):
        with pytest.raises(Untranslatable, match="outside the range of a double"):
            json_of(text)
        with pytest.raises(Untranslatable, match="outside the range of a double"):
            value_of(text)


def test_of_a_key_that_stands_twice_the_last_counts_as_in_perl() -> None:
    assert value_of(b'{"a":1,"b":2,"a":3}') == {"a": 3, "b": 2}


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("limit", [1, 2, 98, 510])
def test_depth_is_that_of_the_value(opening: bytes, limit: int) -> None:
    closing = b"]" if opening == b"[" else b"}"
    inner = b"[]" if opening == b"[" else b"{}"
    fits = opening * (limit - 1) + inner + closing * (limit - 1)
    assert json_of(fits, max_depth=limit).text == fits
    with pytest.raises(Untranslatable, match=f"nested {limit + 1} levels deep, {limit} can be read"):
        json_of(opening + fits + closing, max_depth=limit)


def test_a_scalar_has_depth_zero() -> None:
    assert json_of(b'"a[b]{}"', Serializer.JSON, max_depth=0).text == b'"a[b]{}"'
    with pytest.raises(Untranslatable, match="nested 1 levels"):
        json_of(b"[]", max_depth=0)


def test_brackets_in_strings_and_side_by_side_are_no_depth() -> None:
    text = b'["' + b"[{" * 600 + b'\\"[[[\\\\",' + b",".join([b"[{}]"] * 600) + b"]"
    assert json_of(text, max_depth=3).text == text


def test_nothing_deeper_than_512_passes_whatever_the_dialect_allows() -> None:
    text = b"[" * 513 + b"]" * 513
    with pytest.raises(Untranslatable, match="513 levels deep, 512 can be read"):
        json_of(text, max_depth=1000)
    text = b"[" * 512 + b"]" * 512
    assert json_of(text, max_depth=1000).text == text


def test_looking_for_depth_takes_time_in_proportion() -> None:
    for ending in (b'"', b'"' + b'\\"' * 300_000, b'"' + b"\\" * 300_001, b'"' * 300_001, b'\\"' * 300_000):
        with pytest.raises(Untranslatable):
            json_of(b"[" * 600 + ending, Serializer.JSON)


def test_no_stack_is_left() -> None:
    """However deep the caller already is, the answer is an answer or Untranslatable."""

    def deeper(levels: int, text: bytes) -> bytes:
        return deeper(levels - 1, text) if levels else json_of(text).text

    for text in (b"[" * 500 + b"]" * 500, b"[" * 500 + b"9007199254740993" + b"]" * 500):
        assert json_of(text).text == text
        for levels in range(300, sys.getrecursionlimit() - 200, 20):
            with contextlib.suppress(Untranslatable):
                assert deeper(levels, text) == text


def test_hostile_depth_is_one_clear_error() -> None:
    for text in (b"[" * 1_000_000, b'{"a":' * 200_000, b"[" * 100_000 + b"]" * 100_000):
        with pytest.raises(Untranslatable, match="nested"):
            json_of(text)


@settings(deadline=None)
@given(JSON_VALUES, st.booleans(), st.booleans())
def test_whatever_python_writes_passes(value: Any, ascii_only: bool, spaced: bool) -> None:
    try:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=1 if spaced else None).encode()
    except UnicodeEncodeError:  # a lone surrogate can't be written otherwise than escaped
        return
    try:
        result = json_of(text, Serializer.JSON)
    except Untranslatable:
        assert "\\ud" in text.decode()
        return
    assert result.text == text
    assert same(value_of(text, Serializer.JSON), json.loads(text))
    assert (Finding.BIG_INTEGER in result.findings) == any(
        type(item) is int and abs(item) > 2**53 for item in leaves(value)
    )


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 400))
def test_every_number_outside_a_double_is_seen(whole: int, fraction: int, exponent: int) -> None:
    number = "1" * (whole + 1) + ("." + "1" * fraction if fraction else "") + (f"e{exponent}" if exponent else "")
    text = f'{{"a":{number}}}'.encode()
    if math.isinf(float(number)):
        with pytest.raises(Untranslatable):
            json_of(text)
    else:
        assert json_of(text).text == text


def leaves(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [value]


def test_a_large_arg_passes() -> None:
    text = json.dumps({"rows": [{"id": number, "text": "鮎" * 20} for number in range(5000)]}).encode()
    assert len(text) > 300_000
    assert json_of(text, max_depth=MAX_DEPTH).text is text

"""No serializer: text stays text, other bytes are the route's choice."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import Untranslatable
from migrate.qudo.serializers import BytesMode, Finding, Serializer
from tests.unit.serializers.decoding import json_of, value_of

EVERY_BYTE = bytes(range(256))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "12345",
        "0123",
        "null",
        "鮎の魚拓 🐟",
        "line1\nline2\t",
        "\0\x01\x1f\x7f",
        '"\\/',
        "\u2028\u2029",
        "\ufeffx",
    ],
)
def test_text_stays_text(text: str) -> None:
    result = json_of(text.encode(), Serializer.RAW)
    assert json.loads(result.text) == text
    assert result.findings == ()
    assert value_of(text.encode(), Serializer.RAW) == text


def test_json_text_of_a_raw_func_stays_a_string() -> None:
    assert value_of(b'{"a":1}', Serializer.RAW) == '{"a":1}'


def test_control_characters_are_escaped() -> None:
    assert json_of(b"\x00\x1f\n", Serializer.RAW).text == b'"\\u0000\\u001f\\n"'


def test_other_bytes_are_refused() -> None:
    with pytest.raises(Untranslatable, match="aren't UTF-8 at byte 128"):
        json_of(EVERY_BYTE, Serializer.RAW)


def test_other_bytes_as_latin1() -> None:
    result = json_of(EVERY_BYTE, Serializer.RAW, bytes_mode=BytesMode.LATIN1)
    assert json.loads(result.text) == "".join(map(chr, range(256)))
    assert result.findings == (Finding.LATIN1,)


def test_other_bytes_as_base64() -> None:
    result = json_of(EVERY_BYTE, Serializer.RAW, bytes_mode=BytesMode.BASE64)
    assert base64.b64decode(json.loads(result.text)) == EVERY_BYTE
    assert result.findings == (Finding.BASE64,)


@pytest.mark.parametrize("mode", list(BytesMode))
def test_text_is_text_under_every_mode(mode: BytesMode) -> None:
    assert value_of("鮎".encode(), Serializer.RAW, bytes_mode=mode) == "鮎"


@given(st.binary(max_size=50))
def test_latin1_and_base64_lose_nothing_of_other_bytes(data: bytes) -> None:
    latin1 = value_of(data, Serializer.RAW, bytes_mode=BytesMode.LATIN1)
    encoded = value_of(data, Serializer.RAW, bytes_mode=BytesMode.BASE64)
    assert isinstance(latin1, str)
    assert isinstance(encoded, str)
    try:
        assert latin1 == encoded == data.decode()
    except UnicodeDecodeError:
        assert latin1.encode("latin-1") == data
        assert base64.b64decode(encoded) == data

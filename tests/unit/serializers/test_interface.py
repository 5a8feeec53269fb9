"""The package as the rest of the project sees it."""

from __future__ import annotations

import inspect
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import Untranslatable
from migrate.qudo import serializers
from migrate.qudo.serializers import (
    BlessedMode,
    BytesMode,
    Detection,
    Finding,
    JsonValue,
    Serializer,
    nfreeze,
    to_json,
    to_value,
)
from tests.unit.serializers.decoding import json_of, value_of

FIDELITY = Path(__file__).parents[3] / "docs" / "fidelity.md"


def test_public_names() -> None:
    assert sorted(serializers.__all__) == [
        "BlessedMode",
        "BytesMode",
        "Detection",
        "Finding",
        "JsonValue",
        "PlainValue",
        "Serializer",
        "detect",
        "detect_func",
        "nfreeze",
        "to_json",
        "to_value",
    ]


def test_words_of_the_configuration() -> None:
    assert [str(kind) for kind in Serializer] == ["auto", "json", "messagepack", "storable", "raw"]
    assert [str(mode) for mode in BytesMode] == ["reject", "latin1", "base64"]
    assert [str(mode) for mode in BlessedMode] == ["strip", "reject"]


def test_fields() -> None:
    assert JsonValue.__struct_fields__ == ("text", "findings", "serializer")
    assert Detection._fields == ("serializer", "share", "looked_at", "counts")


def test_both_questions_take_the_same_arguments() -> None:
    assert inspect.signature(to_json).parameters == inspect.signature(to_value).parameters


@pytest.mark.parametrize("serializer", list(Serializer))
def test_null_is_null(serializer: Serializer) -> None:
    result = json_of(None, serializer)
    expected = Serializer.RAW if serializer is Serializer.AUTO else serializer
    assert result == JsonValue(b"null", (), expected)
    assert value_of(None, serializer) is None


@pytest.mark.parametrize("serializer", [Serializer.JSON, Serializer.MESSAGEPACK, Serializer.STORABLE])
def test_depth_means_the_same_for_all(serializer: Serializer) -> None:
    write = {Serializer.JSON: msgspec.json.encode, Serializer.MESSAGEPACK: msgspec.msgpack.encode}.get(
        serializer, nfreeze
    )
    for value, depth in (([], 1), ({}, 1), ([1, {"a": []}, 2], 3), ({"a": {"b": "[[["}}, 2), ("[[[", 0)):
        assert json_of(write(value), serializer, max_depth=depth).text == msgspec.json.encode(value)
        if depth:
            with pytest.raises(Untranslatable, match="nested"):
                json_of(write(value), serializer, max_depth=depth - 1)


def test_findings_come_in_one_order() -> None:
    data = nfreeze(["x", "y"]).replace(b"x", b"\xff")
    shared = b"\x05\x0b\x02\0\0\0\3\x0a\1\xff\x04\x11\1A\x02\0\0\0\0\x04\0\0\0\0\3"
    assert json_of(data, bytes_mode=BytesMode.LATIN1).findings == (Finding.LATIN1,)
    assert json_of(shared, bytes_mode=BytesMode.LATIN1).findings == (Finding.BLESSED, Finding.SHARED, Finding.LATIN1)


def test_the_finding_that_dialects_with_exact_integers_ignore() -> None:
    assert str(Finding.BIG_INTEGER) == "integer over 2**53"


@pytest.mark.parametrize("finding", list(Finding), ids=lambda finding: finding.name)
def test_every_finding_is_explained(finding: Finding) -> None:
    assert f"`{finding.name}`" in FIDELITY.read_text(encoding="utf-8")


@settings(deadline=None)
@given(st.data())
def test_no_reason_shows_data(data: st.DataObject) -> None:
    value = {"hunter2": ["hunter2", {"hunter2": "hunter2"}]}
    written = [msgspec.json.encode(value), msgspec.msgpack.encode(value), nfreeze(value)]
    arg = bytearray(data.draw(st.sampled_from(written)))
    arg[data.draw(st.integers(0, len(arg) - 1))] = data.draw(st.integers(0, 255))
    for serializer in Serializer:
        for ask in (json_of, value_of):
            try:
                ask(bytes(arg[: data.draw(st.integers(0, len(arg)))]), serializer)
            except Untranslatable as error:
                reason = error.message
            else:
                reason = ""
            assert "hunt" not in reason

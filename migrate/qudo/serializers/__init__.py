"""What Qudo's `arg` holds, as JSON. Pure: bytes in, values out, no I/O.

`to_json` makes the text that workers will get; `to_value` makes the value that they must see, by another path where
there is one, so that a comparison means something. docs/fidelity.md tells what every kind of value becomes.
"""

from __future__ import annotations

from migrate.qudo.serializers import json_text, messagepack, raw, storable
from migrate.qudo.serializers.detection import Detection, detect, detect_func
from migrate.qudo.serializers.json_text import NotJson
from migrate.qudo.serializers.kinds import (
    BlessedMode,
    BytesMode,
    Decoded,
    Finding,
    JsonValue,
    PlainValue,
    Serializer,
)
from migrate.qudo.serializers.storable import nfreeze

__all__ = [
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


_AUTO, _JSON = Serializer.AUTO, Serializer.JSON  # an enum's members cost 40 ns a look
_JSON_CONTAINER = (b"{", b"[")


def to_json(
    arg: bytes | None,
    serializer: Serializer,
    *,
    hint: Serializer | None,
    bytes_mode: BytesMode,
    blessed: BlessedMode,
    max_depth: int,
) -> JsonValue:
    """The arg as JSON text. A JSON arg is passed on byte for byte; None, SQL's NULL, is `null`.

    `hint` is what most args of the func are and only matters for AUTO; `max_depth` is the deepest nesting that the
    value itself may have ([] and {} are 1, a scalar 0), never more than 512. Raises Untranslatable with the reason.
    """
    if arg is None:
        return JsonValue(b"null", (), detect(None, hint) if serializer is _AUTO else serializer)
    if serializer is _AUTO:
        if arg.startswith(_JSON_CONTAINER):  # nearly every job of nearly every shop: don't look at it twice
            try:
                return JsonValue(arg, json_text.examine(arg, max_depth), _JSON)
            except NotJson:
                pass
        serializer = detect(arg, hint)
    if serializer is _JSON:
        return JsonValue(arg, json_text.examine(arg, max_depth), _JSON)
    value, findings = _decode(arg, serializer, bytes_mode, blessed, max_depth)
    return JsonValue(json_text.encode(value), findings, serializer)


def to_value(
    arg: bytes | None,
    serializer: Serializer,
    *,
    hint: Serializer | None,
    bytes_mode: BytesMode,
    blessed: BlessedMode,
    max_depth: int,
) -> PlainValue:
    """The value that a worker must see: integers exact whatever their size. Arguments and errors as in `to_json`."""
    if arg is None:
        return None
    if serializer is Serializer.AUTO:
        if arg[:1] in (b"{", b"[") and b"\\u" not in arg:  # `detect` would say JSON of all that can be read as such
            try:
                return json_text.decode(arg)
            except json_text.NotJson:
                pass
        serializer = detect(arg, hint)
    if serializer is Serializer.JSON:
        return json_text.decode(arg)
    if serializer is Serializer.MESSAGEPACK:
        return messagepack.second_opinion(arg, bytes_mode, max_depth)
    return _decode(arg, serializer, bytes_mode, blessed, max_depth).value


def _decode(arg: bytes, serializer: Serializer, bytes_mode: BytesMode, blessed: BlessedMode, max_depth: int) -> Decoded:
    if serializer is Serializer.MESSAGEPACK:
        return messagepack.decode(arg, bytes_mode, max_depth)
    if serializer is Serializer.STORABLE:
        return storable.decode(arg, bytes_mode, blessed, max_depth)
    return raw.decode(arg, bytes_mode)

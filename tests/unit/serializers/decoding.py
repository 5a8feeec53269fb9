"""Short ways to ask the serializers, with the defaults of a route and of the Perl dialect."""

from __future__ import annotations

import json

from migrate.qudo.serializers import (
    BlessedMode,
    BytesMode,
    JsonValue,
    PlainValue,
    Serializer,
    to_json,
    to_value,
)

#: The Perl dialect's 512 less the payload's own two levels.
MAX_DEPTH = 510


def json_of(
    arg: bytes | None,
    serializer: Serializer = Serializer.AUTO,
    *,
    hint: Serializer | None = None,
    bytes_mode: BytesMode = BytesMode.REJECT,
    blessed: BlessedMode = BlessedMode.STRIP,
    max_depth: int = MAX_DEPTH,
) -> JsonValue:
    return to_json(arg, serializer, hint=hint, bytes_mode=bytes_mode, blessed=blessed, max_depth=max_depth)


def value_of(
    arg: bytes | None,
    serializer: Serializer = Serializer.AUTO,
    *,
    hint: Serializer | None = None,
    bytes_mode: BytesMode = BytesMode.REJECT,
    blessed: BlessedMode = BlessedMode.STRIP,
    max_depth: int = MAX_DEPTH,
) -> PlainValue:
    """What both paths agree on: `to_value`, and the text of `to_json` read by Python."""
    options = {"hint": hint, "bytes_mode": bytes_mode, "blessed": blessed, "max_depth": max_depth}
    value = to_value(arg, serializer, **options)  # type: ignore[arg-type]
    text = to_json(arg, serializer, **options).text  # type: ignore[arg-type]
    assert same(json.loads(text), value)
    return value


def same(one: object, other: object) -> bool:
    """Equality that tells 1, 1.0, True and "1" apart; keys in any order, any depth."""
    pairs = [(one, other)]
    while pairs:
        one, other = pairs.pop()
        if type(one) is not type(other):
            return False
        if isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            pairs.extend(zip(one, other, strict=True))
        elif isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            pairs.extend((item, other[key]) for key, item in one.items())
        elif one != other:
            return False
    return True

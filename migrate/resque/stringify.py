"""JSON as JavaScript's `JSON.stringify` writes it. Pure.

node-resque takes a failure off its list by the text that it would write itself (`LREM failed 1 JSON.stringify(…)`), so
that only a failure in that very form can be requeued or removed there.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

#: The highest key that JavaScript takes for an array's index: such keys come first, in ascending order.
_HIGHEST_INDEX = 2**32 - 2
#: Powers of ten between which JavaScript writes a number without an exponent.
_FIRST_PLAIN, _LAST_PLAIN = -6, 21

_ESCAPED = re.compile('["\\\\\x00-\x1f\ud800-\udfff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class _Changed(Exception):
    """A value that JavaScript would not keep."""


def stringify(text: bytes) -> bytes | None:
    """The text that `JSON.stringify(JSON.parse(text))` gives; None where a value would not survive it.

    Those are integers that a double can't hold, numbers beyond its range, and negative zeros.
    """
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_fraction, object_pairs_hook=_Members)
        return "".join(_written(value)).encode()
    except (_Changed, RecursionError):
        return None


class _Number(str):
    """A number as JavaScript writes it."""

    __slots__ = ()


class _Members(dict[str, Any]):
    """An object's members in JavaScript's order. A name that comes twice keeps its place and has its last value."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        super().__init__(members)
        indexes = sorted((key for key in self if _is_index(key)), key=int)
        for key in [*indexes, *(key for key in self if not _is_index(key))] if indexes else ():
            self[key] = self.pop(key)


def _is_index(key: str) -> bool:
    plain = len(key) <= len(str(_HIGHEST_INDEX)) and key.isascii() and key.isdigit()
    return plain and str(int(key)) == key and int(key) <= _HIGHEST_INDEX


def _integer(text: str) -> _Number:
    written = _fraction(text)
    if Decimal(written) != int(text):
        raise _Changed
    return written


def _fraction(text: str) -> _Number:
    """`Number::toString` of ECMAScript: Python's repr has the same shortest digits, and other rules for exponents."""
    sign, digits, exponent = Decimal(repr(float(text))).as_tuple()
    if not isinstance(exponent, int):
        raise _Changed  # beyond a double's range
    shown = "".join(map(str, digits)).rstrip("0")
    if not shown:
        if sign:
            raise _Changed
        return _Number("0")
    point = len(digits) + exponent  # digits before the decimal point
    if len(shown) <= point <= _LAST_PLAIN:
        shown += "0" * (point - len(shown))
    elif 0 < point <= _LAST_PLAIN:
        shown = f"{shown[:point]}.{shown[point:]}"
    elif _FIRST_PLAIN < point <= 0:
        shown = "0." + "0" * -point + shown
    else:
        shown = f"{shown[0]}.{shown[1:]}".rstrip(".") + f"e{point - 1:+d}"
    return _Number("-" * sign + shown)


def _written(value: Any) -> list[str]:
    match value:
        case _Number():
            return [value]
        case str():
            return ['"', _ESCAPED.sub(_escape, value), '"']
        case dict():
            parts = [part for key, member in value.items() for part in (",", *_written(key), ":", *_written(member))]
            return ["{", *parts[1:], "}"]
        case list():
            parts = [part for member in value for part in (",", *_written(member))]
            return ["[", *parts[1:], "]"]
        case _:
            return [{None: "null", True: "true", False: "false"}[value]]


def _escape(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}"

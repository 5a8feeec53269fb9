"""JSON args: examined, then passed on byte for byte. Pure, and the hot path: every JSON job comes through `examine`.

Costs are kept down by asking cheap questions first: only a text with enough brackets can be too deep, and only one
with a long run of digits or a three-digit exponent can hold a number that some reader rounds or refuses.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from itertools import accumulate
from typing import NoReturn

import msgspec

from migrate.errors import Untranslatable
from migrate.qudo.serializers.kinds import Finding, PlainValue, ordered

#: Levels of nesting that can be read whatever the dialect allows: Perl's own limit, and safely below Python's
#: recursion limit, which msgspec and json both count their levels against.
DEEPEST = 512

#: Integers up to here are exact in a double, so in every JSON reader.
EXACT_INTEGER = 2**53

#: Digits of an integer that a double can surely hold.
_LONGEST_NUMBER = 300

#: Checks grammar, control characters and surrogate pairs, not UTF-8 and not the range of numbers; builds nothing.
_validate = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode

#: Digits become "0" and an exponent's letter "e": one pass in C that tells most texts clear, where a regex takes ten
#: times as long. What it can't tell are digits inside a string, such as a UUID's.
_SHAPE = bytes(48 if byte in b"0123456789" else 101 if byte in b"eE" else 32 for byte in range(256))
_LONG_NUMBER = b"0" * 16
_HUGE_EXPONENT = b"e000"

#: A string, up to the end where it isn't closed: so that no text makes the search start over and over.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class NotJson(Untranslatable):
    """The text isn't JSON at all, so it may be something else; what is JSON but refused is a plain Untranslatable."""


def examine(text: bytes, max_depth: int) -> tuple[Finding, ...]:
    """Make sure that every reader can read `text`; returns what a lead should know of it.

    Raises NotJson for what isn't JSON, Untranslatable for JSON that is too deep or holds a number outside a double.
    """
    if len(text) > 2 * max_depth or len(text) > 2 * DEEPEST:  # a level takes two brackets
        _check_depth(text, min(max_depth, DEEPEST))
    try:
        _validate(text)
        if not text.isascii():
            text.decode()
    except msgspec.DecodeError as error:
        raise NotJson(f"not valid JSON: {_cause(text, error)}") from None
    except UnicodeDecodeError as error:
        raise NotJson(f"not valid JSON: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _too_deep() from None
    shape = text.translate(_SHAPE, b"+")
    if shape.find(_LONG_NUMBER) < 0 and shape.find(_HUGE_EXPONENT) < 0:  # find takes half the time of "in"
        return ()
    try:
        return () if _has_usual_numbers(text) else _examine_numbers(text)
    except RecursionError:
        raise _too_deep() from None


def decode(text: bytes) -> PlainValue:
    """The value, read by Python's own json: shares nothing with `examine`, and keeps every digit of an integer.

    Raises Untranslatable for what isn't JSON or holds a number outside a double.
    """
    try:
        characters = text.decode()
        if len(characters) <= _LONGEST_NUMBER:  # nearly all: nothing in it needs `_integer`
            value: PlainValue
            try:
                value, end = _decode_first(characters)
            except json.JSONDecodeError:
                end = -1
            if end == len(characters):
                return value
        value = _decode_exactly(characters)
    except UnicodeDecodeError as error:
        raise NotJson(f"not valid JSON: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"not valid JSON: {_cause(text, None)}, near character {error.pos}") from None
    except RecursionError:
        raise _too_deep() from None
    return value


def encode(value: PlainValue) -> bytes:
    """Compact UTF-8 JSON; floats in the shortest form that reads back the same.

    The value must hold no NaN, no infinity and no surrogate. Raises Untranslatable when it is nested too deep.
    """
    try:
        return _encode(value)
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> Untranslatable:
    """The error for a depth within DEEPEST that the caller's own stack leaves no room for."""
    return Untranslatable("JSON nested deeper than can be read here")


def _check_depth(text: bytes, max_depth: int) -> None:
    if text.count(b"[") + text.count(b"{") <= max_depth:
        return
    brackets = _STRING.sub(b"", text).translate(None, _NOT_BRACKETS)
    deepest = max(accumulate(1 if byte in b"[{" else -1 for byte in brackets), default=0)
    if deepest > max_depth:
        raise Untranslatable(f"JSON nested {deepest} levels deep, {max_depth} can be read")


class _UnusualNumber(Exception):
    pass


def _notice(digits: str) -> None:
    if len(digits) >= 16 or "e" in digits or "E" in digits:
        raise _UnusualNumber


#: Made once: a decoder with hooks takes as long to make as a small text takes to read.
_notice_numbers = json.JSONDecoder(parse_int=_notice, parse_float=_notice).decode


def _has_usual_numbers(text: bytes) -> bool:
    try:
        _notice_numbers(text.decode())
    except _UnusualNumber:
        return False
    return True


def _examine_numbers(text: bytes) -> tuple[Finding, ...]:
    findings: set[Finding] = set()

    def integer(digits: str) -> None:
        if abs(_integer(digits)) > EXACT_INTEGER:
            findings.add(Finding.BIG_INTEGER)

    def fraction(digits: str) -> None:
        if Decimal(repr(_float(digits))) != Decimal(digits):
            findings.add(Finding.LONG_FLOAT)

    json.loads(text, parse_int=integer, parse_float=fraction)
    return ordered(findings)


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        _float(digits)  # an int of this size is fine for Python only: Perl, Ruby and Node read it as infinity
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise Untranslatable("a JSON number outside the range of a double")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"not valid JSON: {name}")


#: Made once, as above.
_decode_first = json.JSONDecoder(parse_float=_float, parse_constant=_refuse_constant).raw_decode
_decode_exactly = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant).decode


def _cause(text: bytes, error: Exception | None) -> str:
    """Why it isn't JSON. msgspec's own words name a byte and never the data."""
    if not text.strip():
        return "empty"
    if text.startswith(BYTE_ORDER_MARK):
        return "starts with a byte order mark"
    if error is None:
        return "malformed"
    cause = str(error).removeprefix("JSON is malformed: ")
    if _SURROGATE_ESCAPE.search(text):
        cause += " (among its escapes may be half a surrogate pair, which is no text)"
    return cause

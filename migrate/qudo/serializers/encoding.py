"""A Python value as the arg that a Perl app would have written. Pure: value in, bytes out.

Nothing is bent: what a serializer's Perl side could not have written, or what would arrive as something else, raises.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable

from migrate.errors import Untranslatable
from migrate.qudo.serializers.json_text import DEEPEST
from migrate.qudo.serializers.kinds import Serializer
from migrate.qudo.serializers.storable import nfreeze

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
#: Items of one level: more than Qudo's MEDIUMBLOB could hold.
_MOST_ITEMS = 2**23
_SCALARS = frozenset((str, int, float, bool, type(None)))


def encode(value: object, serializer: Serializer) -> bytes | None:
    """The bytes of `arg`; None is SQL's NULL, where the shop has no serializer.

    AUTO: JSON for a list or dict, else as RAW. Raises Untranslatable, which names the kind of value, never the value.
    """
    if serializer is Serializer.AUTO:
        serializer = Serializer.JSON if isinstance(value, (dict, list, tuple)) else Serializer.RAW
    return _ENCODERS[serializer](value)


def _json(value: object) -> bytes:
    _need_container(value, "Serialize::JSON")
    _check(value)
    try:
        return _to_json(value).encode()
    except UnicodeEncodeError:
        raise Untranslatable("text with half a surrogate pair") from None


def _storable(value: object) -> bytes:
    _need_container(value, "Serialize::Storable")
    _check(value)
    return nfreeze(_with_lists(value))


def _messagepack(value: object) -> bytes:
    _check(value, bytes_too=True)
    out = bytearray()
    _pack(value, out)
    return bytes(out)


def _raw(value: object) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value
    if type(value) in (str, int):
        try:
            return str(value).encode()
        except UnicodeEncodeError:
            raise Untranslatable("text with half a surrogate pair") from None
    raise Untranslatable(
        f"an arg of type {type(value).__name__}: without a serializer Qudo carries a string or an integer"
    )


_ENCODERS: dict[Serializer, Callable[[object], bytes | None]] = {
    Serializer.JSON: _json,
    Serializer.STORABLE: _storable,
    Serializer.MESSAGEPACK: _messagepack,
    Serializer.RAW: _raw,
}


def _need_container(value: object, hook: str) -> None:
    """A Perl worker dies on anything else: `decode_json` of older JSON::XS refuses it, `thaw` gives a reference."""
    if not isinstance(value, (dict, list, tuple)):
        raise Untranslatable(f"an arg of type {type(value).__name__}: {hook} carries a list or a dict")


def _check(value: object, *, bytes_too: bool = False) -> None:
    """Only what JSON has, with keys that are strings and numbers that are finite, nested no deeper than Perl reads."""
    level = [value]
    for _ in range(DEEPEST + 1):
        below: list[object] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                for key in item:  # type: ignore[attr-defined]
                    if type(key) is not str:
                        raise Untranslatable(f"a key of type {type(key).__name__}: keys are strings")
                below += item.values()  # type: ignore[attr-defined]
            elif kind is list or kind is tuple:
                below += item  # type: ignore[arg-type]
            elif kind not in _SCALARS and not (bytes_too and kind is bytes):
                raise Untranslatable(f"a value of type {kind.__name__}: jobs carry what JSON has")
            elif kind is float and not math.isfinite(item):  # type: ignore[arg-type]
                raise Untranslatable("a float that is NaN or infinity")
        if not below:
            return
        if len(below) > _MOST_ITEMS:  # what contains itself twice doubles with each level
            raise Untranslatable("a value too large for any job")
        level = below
    raise Untranslatable(f"a value nested deeper than {DEEPEST} levels")


def _with_lists(value: object) -> object:
    """Tuples as lists, which the Storable writer asks for."""
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


#: The old form, without str8 and bin, which every Data::MessagePack reads: first type byte of the long sizes.
_STRING, _ARRAY, _MAP = 0xDA, 0xDC, 0xDE


def _pack(value: object, out: bytearray) -> None:
    if value is None:
        out.append(0xC0)
    elif value is True or value is False:
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        _pack_integer(value, out)
    elif isinstance(value, float):
        out += struct.pack(">Bd", 0xCB, value)
    elif isinstance(value, (str, bytes)):
        _pack_string(value, out)
    elif isinstance(value, dict):
        _pack_length(len(value), out, 0x80, 15, _MAP)
        for key, item in value.items():
            _pack_string(key, out)
            _pack(item, out)
    elif isinstance(value, (list, tuple)):
        _pack_length(len(value), out, 0x90, 15, _ARRAY)
        for item in value:
            _pack(item, out)


def _pack_integer(value: int, out: bytearray) -> None:
    if 0 <= value < 128 or -32 <= value < 0:
        out += struct.pack(">b" if value < 0 else ">B", value)
    elif value >= 0:
        forms = ((2**8, ">BB", 0xCC), (2**16, ">BH", 0xCD), (2**32, ">BI", 0xCE), (2**64, ">BQ", 0xCF))
        out += _first_that_holds(value, forms)
    else:
        forms = ((2**7, ">Bb", 0xD0), (2**15, ">Bh", 0xD1), (2**31, ">Bi", 0xD2), (2**63, ">Bq", 0xD3))
        out += _first_that_holds(value, forms)


def _first_that_holds(value: int, forms: tuple[tuple[int, str, int], ...]) -> bytes:
    for limit, form, code in forms:
        if (value if value >= 0 else -value - 1) < limit:
            return struct.pack(form, code, value)
    raise Untranslatable("an integer of more than 64 bits: MessagePack has no such thing")


def _pack_string(value: str | bytes, out: bytearray) -> None:
    try:
        raw = value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:
        raise Untranslatable("text with half a surrogate pair") from None
    _pack_length(len(raw), out, 0xA0, 31, _STRING)
    out += raw


def _pack_length(length: int, out: bytearray, short: int, longest_short: int, code: int) -> None:
    if length <= longest_short:
        out.append(short | length)
    elif length < 2**16:
        out += struct.pack(">BH", code, length)
    else:
        out += struct.pack(">BI", code + 1, length)

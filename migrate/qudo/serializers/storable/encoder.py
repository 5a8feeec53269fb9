"""Plain Python data as Storable, so that Perl's `thaw` gives the same. Pure."""

from __future__ import annotations

import math
import struct

from migrate.errors import Untranslatable
from migrate.qudo.serializers.json_text import DEEPEST
from migrate.qudo.serializers.storable import codes

#: Network order, major 2, and the minor that Perl writes since 5.20; an older one accepts minors it doesn't know.
_HEADER = b"\x05\x0b"

_SHORT = 255  #: longest string whose length takes one byte
_pack_length = struct.Struct(">I").pack
_pack_integer = struct.Struct(">i").pack


def nfreeze(value: object) -> bytes:
    """What `Storable::nfreeze` would write of a reference to `value`.

    As nfreeze does, an integer outside a signed 32-bit range becomes its decimal text and a float its text, here with
    all the digits that it needs (Perl cuts at 15). True and False are Perl's own `!!1` and `!!0`: read-only in the
    worker's structure, as any constant of Perl is.

    Raises Untranslatable for anything but None, bool, int, float, str, list and dict with str keys; for NaN, infinity,
    surrogates, and nesting deeper than 512 (a structure that contains itself is that, too).
    """
    out = bytearray(_HEADER)
    pending: list[tuple[object, bytes, int]] = [(value, b"", 0)]
    while pending:
        item, after, depth = pending.pop()
        if isinstance(item, (list, dict)):
            if depth >= DEEPEST:
                raise Untranslatable(f"a value nested deeper than {DEEPEST} levels")
            if depth:
                out.append(codes.SX_REF)
            inside = _array(item, out) if isinstance(item, list) else _hash(item, out)
            # A container's key comes behind its last item, so it waits below its items.
            if after:
                pending.append((_Written(after), b"", 0))
            pending.extend((child, key, depth + 1) for child, key in reversed(inside))
        elif isinstance(item, _Written):
            out += item.data
        else:
            _scalar(item, out)
            out += after
    return bytes(out)


class _Written:
    """Bytes that only wait for their turn."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def _array(items: list[object], out: bytearray) -> list[tuple[object, bytes]]:
    out.append(codes.SX_ARRAY)
    out += _pack_length(len(items))
    return [(item, b"") for item in items]


def _hash(items: dict[object, object], out: bytearray) -> list[tuple[object, bytes]]:
    """Write the head; returns each value with the bytes of its key."""
    for key in items:
        if not isinstance(key, str):
            raise Untranslatable(f"a key of type {type(key).__name__}: Perl's hashes have strings")
    flagged = not all(key.isascii() for key in items if isinstance(key, str))
    out += bytes((codes.SX_FLAG_HASH, 0)) if flagged else bytes((codes.SX_HASH,))
    out += _pack_length(len(items))
    return [(value, _key(str(key), flagged)) for key, value in items.items()]


def _key(key: str, flagged: bool) -> bytes:
    if key.isascii():
        flags, raw = 0, key.encode()
    else:
        try:  # Perl keeps a key in one byte a character where it can, and remembers that it was text
            flags, raw = codes.KEY_WAS_UTF8, key.encode("latin-1")
        except UnicodeEncodeError:
            flags, raw = codes.KEY_UTF8, _utf8(key)
    return (bytes((flags,)) if flagged else b"") + _pack_length(len(raw)) + raw


def _scalar(value: object, out: bytearray) -> None:
    if value is None:
        out.append(codes.SX_UNDEF)
    elif value is True or value is False:
        out.append(codes.SX_SV_YES if value else codes.SX_SV_NO)
    elif isinstance(value, int):
        _integer(int(value), out)
    elif isinstance(value, float):
        _float(value, out)
    elif isinstance(value, str):
        _string(value, out)
    else:
        raise Untranslatable(f"a value of type {type(value).__name__}: JSON has no such thing")


def _integer(value: int, out: bytearray) -> None:
    if -128 <= value <= 127:
        out += bytes((codes.SX_BYTE, value + 128))
    elif -(2**31) <= value < 2**31:
        out.append(codes.SX_NETINT)
        out += _pack_integer(value)
    else:
        _string(str(value), out)


def _float(value: float, out: bytearray) -> None:
    if not math.isfinite(value):
        raise Untranslatable("a float that is NaN or infinity")
    if value.is_integer() and abs(value) < 2**63:
        _integer(int(value), out)  # Perl writes "an integer in disguise" as the integer
        return
    text = f"{value:.15g}"
    _string(text if float(text) == value else repr(value), out)


def _string(value: str, out: bytearray) -> None:
    raw = _utf8(value)
    short, long = (codes.SX_SCALAR, codes.SX_LSCALAR) if value.isascii() else (codes.SX_UTF8STR, codes.SX_LUTF8STR)
    if len(raw) <= _SHORT:
        out += bytes((short, len(raw)))
    else:
        out.append(long)
        out += _pack_length(len(raw))
    out += raw


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Untranslatable("text with a surrogate") from None

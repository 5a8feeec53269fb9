"""MessagePack as Data::MessagePack writes it, old form (raw for every string) and new (str and bin). Pure.

The decoder is our own because msgspec's fails as a whole on one string that isn't UTF-8 (every Perl byte string may be
that), can't tell NaN or a repeated key, and names no byte. Its reading serves as the second opinion that `to_value`
compares ours with.

Source of the format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec

from migrate.qudo.serializers.cursor import Cursor
from migrate.qudo.serializers.json_text import DEEPEST, EXACT_INTEGER
from migrate.qudo.serializers.kinds import BytesMode, Decoded, Finding, PlainValue, ordered
from migrate.qudo.serializers.strings import Keys, Strings

#: Type bytes that need more than their own bits: how their number or length is read.
_NUMBERS = {
    0xCA: struct.Struct(">f"),
    0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
#: Bytes of a length: bin; str8, and raw16 and raw32, later called str16 and str32; array; map.
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4} | {0xD9: 1, 0xDA: 2, 0xDB: 4} | {0xDC: 2, 0xDD: 4} | {0xDE: 2, 0xDF: 4}
_CONSTANTS: dict[int, bool | None] = {0xC0: None, 0xC2: False, 0xC3: True}
_EXTENSIONS = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))


def decode(data: bytes, bytes_mode: BytesMode, max_depth: int) -> Decoded:
    """Decode exactly one value that fills `data`.

    Raises Untranslatable, naming the byte, for anything that JSON or Perl can't hold and for damaged data. Memory stays
    in proportion to `data`: counts are checked against the bytes that are left before anything is made.
    """
    decoder = _Decoder(data, bytes_mode, min(max_depth, DEEPEST))
    value = decoder.value()
    decoder.finish()
    return Decoded(value, ordered(decoder.findings))


def second_opinion(data: bytes, bytes_mode: BytesMode, max_depth: int) -> PlainValue:
    """The value as msgspec reads it, our own reading where msgspec can't. Raises Untranslatable as `decode` does."""
    own = decode(data, bytes_mode, max_depth)
    if Finding.DUPLICATE_KEYS in own.findings:
        return own.value  # msgspec keeps 1 and "1" apart, and then their order is lost
    try:
        return _as_text(msgspec.msgpack.decode(data), Strings(bytes_mode, set()))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return own.value


def _as_text(value: Any, strings: Strings) -> PlainValue:
    """Bytes as text and keys as strings; everything else is what it is."""
    if isinstance(value, bytes):
        return strings.text(value, 0)
    if isinstance(value, list):
        return [_as_text(item, strings) for item in value]
    if isinstance(value, dict):
        return {str(_as_text(key, strings)): _as_text(item, strings) for key, item in value.items()}
    plain: PlainValue = value
    return plain


class _Container:
    """A map or array; its items are still to come."""

    __slots__ = ("items", "keys", "left")

    def __init__(self, left: int, keys: Keys | None) -> None:
        self.left = left
        self.keys = keys  # None: an array
        self.items: list[PlainValue] = []

    @property
    def value(self) -> PlainValue:
        return self.items if self.keys is None else self.keys.values


class _Decoder(Cursor):
    """Reads with a stack of its own: deep data must not meet Python's recursion limit."""

    name = "MessagePack"

    def __init__(self, data: bytes, bytes_mode: BytesMode, max_depth: int) -> None:
        super().__init__(data)
        self.findings: set[Finding] = set()
        self._strings = Strings(bytes_mode, self.findings)
        self._max_depth = max_depth
        self._stack: list[_Container] = []  # those that are not full yet

    def value(self) -> PlainValue:
        """Read one value, to its last item."""
        root = self._item()
        stack = self._stack
        while stack:
            parent = stack[-1]
            if not parent.left:
                stack.pop()
                continue
            parent.left -= 1
            if parent.keys is None:
                parent.items.append(self._item())
            else:
                offset = self.position
                text, identity = self._key()
                parent.keys.put(text, identity, self._item(), offset)
        return root

    def _item(self) -> PlainValue:
        """One scalar, or a container that is filled later, being the innermost of the stack."""
        code = self.byte()
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if 0xA0 <= code < 0xC0:
            return self._text(code & 0x1F)
        if code < 0xA0:
            return self._open(code & 0x0F, is_map=code < 0x90)
        if code in _NUMBERS:
            return self._number(code)
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code not in _LENGTH_BYTES:
            what = "extension type" if code in _EXTENSIONS else "type 0xc1, which is never used,"
            raise self.refused(what, self.position - 1)
        length = self._length(code)
        return self._open(length, is_map=code >= 0xDE) if code >= 0xDC else self._text(length)

    def _key(self) -> tuple[str, bytes]:
        """A map's key as text and as Perl's bytes. Perl writes strings; it makes an integer its decimal text."""
        offset = self.position
        code = self.byte()
        if 0xA0 <= code < 0xC0:
            length = code & 0x1F
        elif code in _LENGTH_BYTES and code < 0xDC:
            length = self._length(code)
        elif code < 0x80 or code >= 0xE0 or 0xCC <= code <= 0xD3:
            self.position = offset
            text = str(self._item())
            return text, text.encode()
        else:
            raise self.refused("map key that is neither string nor integer", offset)
        text = self._text(length)
        return text, self.data[self.position - length : self.position]

    def _number(self, code: int) -> int | float:
        reader = _NUMBERS[code]
        offset = self.position - 1
        number: int | float = reader.unpack(self.take(reader.size))[0]
        if isinstance(number, float):
            if not math.isfinite(number):
                raise self.refused("float that JSON can't hold (NaN or infinity)", offset)
        elif abs(number) > EXACT_INTEGER:
            self.findings.add(Finding.BIG_INTEGER)
        return number

    def _text(self, length: int) -> str:
        raw = self.take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return self._strings.text(raw, self.position - length)

    def _open(self, count: int, *, is_map: bool) -> PlainValue:
        self.expect(count, 2 if is_map else 1)
        if len(self._stack) >= self._max_depth:
            raise self.refused(f"nested deeper than {self._max_depth} levels", self.position)
        container = _Container(count, Keys(self.findings) if is_map else None)
        self._stack.append(container)
        return container.value

    def _length(self, code: int) -> int:
        return int.from_bytes(self.take(_LENGTH_BYTES[code]), "big")

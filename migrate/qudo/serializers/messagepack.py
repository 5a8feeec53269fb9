"""MessagePack as Data::MessagePack writes it, old form (raw for every string) and new (str and bin). Pure.

The decoder is our own because msgspec's fails as a whole on one string that isn't UTF-8 (every Perl byte string may be
that), can't tell NaN or a repeated key, and names no byte. Its reading serves as the second opinion that `to_value`
compares ours with.

Source of the format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import msgspec

from migrate.errors import Untranslatable
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
    if decoder.position != len(data):
        raise Untranslatable(f"MessagePack ends at byte {decoder.position}, {len(data) - decoder.position} more follow")
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


class _Open:
    """A container whose items are still to come."""

    __slots__ = ("items", "key", "keys", "left")

    def __init__(self, left: int, keys: Keys | None) -> None:
        self.left = left
        self.keys = keys  # None: an array
        self.items: list[PlainValue] = []
        self.key = _NO_KEY

    def put(self, value: PlainValue) -> None:
        self.left -= 1
        if self.keys is None:
            self.items.append(value)
        else:
            text, characters, offset = self.key
            self.keys.put(text, characters, value, offset)

    def closed(self) -> PlainValue:
        return self.items if self.keys is None else self.keys.values


class _Key(NamedTuple):
    text: str
    characters: str
    offset: int


_NO_KEY = _Key("", "", 0)


class _Decoder:
    """Reads values with a stack of its own: deep data must not meet Python's recursion limit."""

    def __init__(self, data: bytes, bytes_mode: BytesMode, max_depth: int) -> None:
        self.position = 0
        self.findings: set[Finding] = set()
        self._data = data
        self._max_depth = max_depth
        self._strings = Strings(bytes_mode, self.findings)

    def value(self) -> PlainValue:
        stack: list[_Open] = []
        while True:
            if stack and stack[-1].keys is not None:
                stack[-1].key = self._key()
            item = self._item()
            if isinstance(item, _Open):
                if len(stack) >= self._max_depth:
                    raise Untranslatable(
                        f"MessagePack nested deeper than {self._max_depth} levels at byte {self.position}"
                    )
                if item.left:
                    stack.append(item)
                    continue
                item = item.closed()
            while stack:
                stack[-1].put(item)
                if stack[-1].left:
                    break
                item = stack.pop().closed()
            else:
                return item

    def _item(self) -> PlainValue | _Open:
        """One scalar, or a container whose items follow."""
        code = self._byte()
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code in _NUMBERS:
            return self._number(code)
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code < 0x90 or code in (0xDE, 0xDF):
            return self._open(code & 0x0F if code < 0x90 else self._length(code), 2)
        if code < 0xA0 or code in (0xDC, 0xDD):
            return self._open(code & 0x0F if code < 0xA0 else self._length(code), 1)
        return self._string(code)[0]

    def _key(self) -> _Key:
        """A map's key. Perl writes strings; an integer is the key that Perl makes of it, its decimal text."""
        offset = self.position
        code = self._byte()
        if code < 0x80 or code >= 0xE0:
            text = str(code if code < 0x80 else code - 0x100)
            return _Key(text, text, offset)
        if code in _NUMBERS and code >= 0xCC:
            text = str(self._number(code))
            return _Key(text, text, offset)
        if 0xA0 <= code < 0xC0 or code in (0xD9, 0xDA, 0xDB, 0xC4, 0xC5, 0xC6):
            text, raw = self._string(code)
            return _Key(text, raw.decode("latin-1"), offset)
        raise Untranslatable(f"MessagePack map key that is neither string nor integer at byte {offset}")

    def _number(self, code: int) -> int | float:
        reader = _NUMBERS[code]
        offset = self.position - 1
        number: int | float = reader.unpack(self._take(reader.size))[0]
        if isinstance(number, float):
            if not math.isfinite(number):
                raise Untranslatable(f"MessagePack float that JSON can't hold (NaN or infinity) at byte {offset}")
        elif abs(number) > EXACT_INTEGER:
            self.findings.add(Finding.BIG_INTEGER)
        return number

    def _string(self, code: int) -> tuple[str, bytes]:
        if code in _EXTENSIONS:
            raise Untranslatable(f"MessagePack extension type at byte {self.position - 1}")
        if code == 0xC1:
            raise Untranslatable(f"MessagePack type 0xc1, which is never used, at byte {self.position - 1}")
        length = code & 0x1F if code < 0xC0 else self._length(code)
        offset = self.position
        raw = self._take(length)
        return self._strings.text(raw, offset), raw

    def _open(self, count: int, bytes_each: int) -> _Open:
        """Start a container; each of its items takes at least one byte, so a larger count is a lie."""
        if count * bytes_each > len(self._data) - self.position:
            raise self._truncated()
        return _Open(count, Keys(self.findings) if bytes_each == 2 else None)

    def _length(self, code: int) -> int:
        return int.from_bytes(self._take(_LENGTH_BYTES[code]), "big")

    def _byte(self) -> int:
        position = self.position
        if position >= len(self._data):
            raise self._truncated()
        self.position = position + 1
        return self._data[position]

    def _take(self, count: int) -> bytes:
        position = self.position
        self.position = position + count
        if self.position > len(self._data):
            raise self._truncated()
        return self._data[position : self.position]

    def _truncated(self) -> Untranslatable:
        return Untranslatable(f"MessagePack is cut off: more is announced than its {len(self._data)} bytes hold")

"""Storable's scalars: strings, numbers, undef and booleans. Pure. Source: retrieve_* in Storable.xs."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from migrate.qudo.serializers.cursor import Cursor
from migrate.qudo.serializers.json_text import EXACT_INTEGER
from migrate.qudo.serializers.kinds import BytesMode, Finding, PlainValue
from migrate.qudo.serializers.storable import codes
from migrate.qudo.serializers.storable.header import Header
from migrate.qudo.serializers.strings import Strings


class ScalarReader(Cursor):
    """Reads one scalar after another; the structure around them is the decoder's."""

    name = "Storable"

    def __init__(self, data: bytes, header: Header, bytes_mode: BytesMode) -> None:
        super().__init__(data, header.start)
        self.findings: set[Finding] = set()
        self.strings = Strings(bytes_mode, self.findings)
        self._header = header
        order = {"little": "<", "big": ">"}[header.order]
        self._unpack_length = struct.Struct(order + "I").unpack_from
        self._unpack_integer = struct.Struct(order + ("q" if header.integer_bytes == 8 else "i")).unpack
        self._unpack_double = struct.Struct(order + "d").unpack

    def length(self) -> int:
        """A length or count of four bytes. Perl's is signed; a negative one is more than any data holds."""
        position = self.position
        if position + 4 > self.size:
            raise self.cut_off()
        self.position = position + 4
        length: int = self._unpack_length(self.data, position)[0]
        return length

    def scalar(self, code: int, offset: int) -> PlainValue:
        """The scalar whose type byte `code` stood at `offset`. Raises Untranslatable for any other type."""
        read = READERS.get(code)
        if read is None:
            raise self.refused(codes.REFUSED.get(code, f"unknown type {code:#04x}"), offset)
        return read(self)

    def text(self, raw: bytes, offset: int) -> str:
        """A Perl byte string that starts at `offset`."""
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return self.strings.text(raw, offset)

    def characters(self, raw: bytes, offset: int) -> str:
        """A Perl character string that starts at `offset`. Perl's UTF-8 may hold what Unicode's may not."""
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            what = "text with a surrogate or a character beyond Unicode"
            raise self.refused(what, offset + error.start) from None

    def _text(self, length: int) -> str:
        raw = self.take(length)
        return self.text(raw, self.position - length)

    def _characters(self, length: int) -> str:
        raw = self.take(length)
        return self.characters(raw, self.position - length)

    def _small_integer(self) -> int:
        return self.byte() - 128

    def _network_integer(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def _native_integer(self) -> int:
        self._require_native()
        number: int = self._unpack_integer(self.take(self._header.integer_bytes))[0]
        if abs(number) > EXACT_INTEGER:
            self.findings.add(Finding.BIG_INTEGER)
        return number

    def _native_double(self) -> float:
        self._require_native()
        size = self._header.double_bytes
        if size != 8:
            raise self.refused(f"double of {size} bytes (Perl built with long doubles)", self.position - 1)
        number: float = self._unpack_double(self.take(8))[0]
        if not math.isfinite(number):
            raise self.refused("float that JSON can't hold (NaN or infinity)", self.position - 9)
        return number

    def _require_native(self) -> None:
        if self._header.network:
            raise self.refused("native number in network order", self.position - 1)

    def _version_string(self, source_length: int) -> str:
        """A `v1.2.3`: its source text, then the string of characters that every reader of it sees."""
        self.take(source_length)
        offset = self.position
        read = _STRING_READERS.get(self.byte())
        if read is None:
            raise self.refused("version string without a string", offset)
        self.findings.add(Finding.VERSION_STRING)
        return read(self)


_STRING_READERS: dict[int, Callable[[ScalarReader], str]] = {
    codes.SX_SCALAR: lambda reader: reader._text(reader.byte()),
    codes.SX_LSCALAR: lambda reader: reader._text(reader.length()),
    codes.SX_UTF8STR: lambda reader: reader._characters(reader.byte()),
    codes.SX_LUTF8STR: lambda reader: reader._characters(reader.length()),
}

#: Type byte -> what reads the rest of such a scalar.
READERS: dict[int, Callable[[ScalarReader], PlainValue]] = {
    **_STRING_READERS,
    codes.SX_BYTE: ScalarReader._small_integer,
    codes.SX_NETINT: ScalarReader._network_integer,
    codes.SX_INTEGER: ScalarReader._native_integer,
    codes.SX_DOUBLE: ScalarReader._native_double,
    codes.SX_VSTRING: lambda reader: reader._version_string(reader.byte()),
    codes.SX_LVSTRING: lambda reader: reader._version_string(reader.length()),
    codes.SX_UNDEF: lambda _: None,
    codes.SX_SV_UNDEF: lambda _: None,
    codes.SX_SVUNDEF_ELEM: lambda _: None,
    codes.SX_SV_YES: lambda _: True,
    codes.SX_SV_NO: lambda _: False,
    codes.SX_BOOLEAN_TRUE: lambda _: True,
    codes.SX_BOOLEAN_FALSE: lambda _: False,
}

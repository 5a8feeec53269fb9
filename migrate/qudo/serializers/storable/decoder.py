"""Storable as freeze, nfreeze, store and nstore write it, read without Perl. Pure.

Every value that Perl retrieves gets the next tag, containers before what is in them, and SX_OBJECT names a value by its
tag; so the order in which `_seen` grows must be exactly Perl's (SEEN in Storable.xs). Hostile data costs no more memory
than its own size, plus MAX_GROWTH for references that are shared.
"""

from __future__ import annotations

import math
import re
import struct

from migrate.errors import Untranslatable
from migrate.qudo.serializers.json_text import DEEPEST, EXACT_INTEGER
from migrate.qudo.serializers.kinds import BlessedMode, BytesMode, Decoded, Finding, PlainValue, ordered
from migrate.qudo.serializers.storable import codes, header
from migrate.qudo.serializers.strings import Keys, Strings

#: Bytes that copies of shared references may add, counted as in Storable: as much as the largest arg of a MEDIUMBLOB.
#: Ten arrays of ten references each to the next are 500 bytes that would write out as gigabytes.
MAX_GROWTH = 16 * 2**20

#: Classes whose objects are a reference to 1 or 0 and mean true or false to every JSON writer of Perl.
BOOLEAN_CLASSES = frozenset(
    (
        b"JSON::PP::Boolean",
        b"JSON::XS::Boolean",
        b"Types::Serialiser::Boolean",
        b"Types::Serialiser::BooleanBase",
        b"Cpanel::JSON::XS::Boolean",
        b"Data::MessagePack::Boolean",
        b"boolean",
    )
)

_CLASS_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*(?:(?:::|')[A-Za-z0-9_]+)*")


def decode(data: bytes, bytes_mode: BytesMode, blessed: BlessedMode, max_depth: int) -> Decoded:
    """The value behind the reference that was frozen, as Perl's JSON would show it.

    Raises Untranslatable, naming cause and byte, for damaged data and for what JSON can't hold: code, globs, tied
    things, regular expressions, cycles, references to scalars or references, objects with hooks of their own.
    """
    decoder = _Decoder(data, header.read(data), bytes_mode, blessed, min(max_depth, DEEPEST))
    value = decoder.root()
    if decoder.position != len(data):
        raise Untranslatable(f"Storable ends at byte {decoder.position}, {len(data) - decoder.position} more follow")
    return Decoded(value, ordered(decoder.findings))


class _Container:
    """An array or hash: on the stack while its items are read, in `_seen` for good."""

    __slots__ = ("flagged", "height", "items", "keys", "left", "open", "weight")

    def __init__(self, count: int, keys: Keys | None, flagged: bool) -> None:
        self.left = count
        self.keys = keys  # None: an array
        self.flagged = flagged
        self.items: list[PlainValue] = []
        self.weight = 1  # bytes in Storable, roughly, with what is shared counted each time
        self.height = 1  # levels of nesting, this one included
        self.open = True  # a reference to an open container is a cycle

    @property
    def value(self) -> PlainValue:
        return self.items if self.keys is None else self.keys.values


class _Reference:
    """What a reference points to, kept for the rare scalar that is itself seen twice."""

    __slots__ = ("target",)

    def __init__(self) -> None:
        self.target: _Container | bool | None = None


class _Decoder:
    def __init__(
        self, data: bytes, head: header.Header, bytes_mode: BytesMode, blessed: BlessedMode, max_depth: int
    ) -> None:
        self.position = head.start
        self.findings: set[Finding] = set()
        self._data = data
        self._head = head
        self._blessed = blessed
        self._max_depth = max_depth
        self._strings = Strings(bytes_mode, self.findings)
        self._seen: list[PlainValue | _Container | _Reference] = []
        self._classes: list[bytes] = []
        self._stack: list[_Container] = []
        integer = {"little": "<", "big": ">"}[head.order]
        self._size = struct.Struct(integer + "I")
        self._integer = struct.Struct(integer + ("q" if head.integer_bytes == 8 else "i"))
        self._double = struct.Struct(integer + "d")

    def root(self) -> PlainValue:
        """Read everything. freeze takes a reference and writes what it points to, so the root has no SX_REF."""
        item = self._referent(is_root=True)
        stack = self._stack
        while True:
            if isinstance(item, _Container) and item.open:
                if item.left:
                    stack.append(item)
                    item = self._item()
                    continue
                item.open = False
            while stack:
                self._put(item)
                if stack[-1].left:
                    break
                item = stack.pop()
                item.open = False
            else:
                return item.value if isinstance(item, _Container) else item
            item = self._item()

    def _put(self, item: PlainValue | _Container) -> None:
        """Give the innermost open container its next item; in a hash the key follows the value."""
        parent = self._stack[-1]
        parent.left -= 1
        if isinstance(item, _Container):
            parent.weight += item.weight
            parent.height = max(parent.height, item.height + 1)
            if parent.weight > len(self._data) + MAX_GROWTH:
                raise self._refused("shared references that grow beyond reason when written out", self.position)
            value = item.value
        else:
            parent.weight += 1 + len(item) if isinstance(item, str) else 1
            value = item
        if parent.keys is None:
            parent.items.append(value)
        else:
            self._key(parent, parent.keys, value)

    def _key(self, parent: _Container, keys: Keys, value: PlainValue) -> None:
        offset = self.position
        flags = self._byte() if parent.flagged else 0
        if flags & codes.KEY_IS_SCALAR:
            raise self._refused("hash key that is a value of its own", offset)
        raw = self._take(self._length())
        parent.weight += len(raw)
        if flags & codes.KEY_PLACEHOLDER:
            return
        if flags & codes.KEY_UTF8:
            text = characters = self._characters(raw, offset)
        elif flags & codes.KEY_WAS_UTF8:
            text = characters = raw.decode("latin-1")
        else:
            text, characters = self._strings.text(raw, offset), raw.decode("latin-1")
        keys.put(text, characters, value, offset)

    def _item(self) -> PlainValue | _Container:
        """The next item of a container: a scalar, or a reference to a container."""
        offset = self.position
        code = self._byte()
        if code in codes.REFERENCES:
            reference = _Reference()
            self._seen.append(reference)
            target = self._referent(is_root=False)
            if not isinstance(target, (_Container, bool)):
                raise self._refused("reference to a scalar", offset)
            reference.target = target
            return target
        if code == codes.SX_OBJECT:
            return self._seen_item(offset)
        if code in (codes.SX_BLESS, codes.SX_IX_BLESS):
            self._class(code, offset)  # an object that is seen without its reference: only a scalar's alias can be
            raise self._refused("object outside a reference", offset)
        return self._scalar(code, offset)

    def _referent(self, *, is_root: bool) -> PlainValue | _Container:
        """What a reference points to: a container that opens here, one seen before, or a boolean object."""
        offset = self.position
        code = self._byte()
        name: bytes | None = None
        if code in (codes.SX_BLESS, codes.SX_IX_BLESS):
            name = self._class(code, offset)
            offset = self.position
            code = self._byte()
        if code in (codes.SX_ARRAY, codes.SX_HASH, codes.SX_FLAG_HASH):
            if name is not None:
                self._strip(name, offset)
            return self._open(code, offset)
        if code in codes.REFERENCES:
            raise self._refused("reference to a reference", offset)
        if code == codes.SX_OBJECT:
            return self._seen_referent(offset)
        value = self._scalar(code, offset)
        if name in BOOLEAN_CLASSES and value in (0, 1, "0", "1", ""):
            self._seen[-1] = truth = value in (1, "1")
            return truth
        if name is not None:
            self._strip(name, offset)
        if not is_root:
            raise self._refused("reference to a scalar", offset)
        self.findings.add(Finding.SCALAR_REFERENCE)
        return value

    def _seen_referent(self, offset: int) -> PlainValue | _Container:
        target = self._tagged(offset)
        if isinstance(target, _Reference):
            raise self._refused("reference to a reference", offset)
        if not isinstance(target, (_Container, bool)):
            raise self._refused("reference to a scalar", offset)
        return self._share(target, offset)

    def _seen_item(self, offset: int) -> PlainValue | _Container:
        """A scalar that stands in two places; what it refers to, if it is a reference."""
        target = self._tagged(offset)
        if isinstance(target, _Reference):
            if target.target is None:
                raise self._refused("cycle", offset)
            return self._share(target.target, offset)
        if isinstance(target, _Container):
            raise self._refused("array or hash outside a reference", offset)
        return target

    def _share(self, target: PlainValue | _Container, offset: int) -> PlainValue | _Container:
        if isinstance(target, _Container):
            if target.open:
                raise self._refused("cycle: a value that contains itself", offset)
            if len(self._stack) + target.height > self._max_depth:
                raise self._refused(f"nested deeper than {self._max_depth} levels", offset)
            self.findings.add(Finding.SHARED)
        return target

    def _tagged(self, offset: int) -> PlainValue | _Container | _Reference:
        tag = int.from_bytes(self._take(4), "big")  # network order in native data too
        if tag >= len(self._seen):
            raise self._refused("reference to a value that isn't there", offset)
        return self._seen[tag]

    def _open(self, code: int, offset: int) -> _Container:
        if len(self._stack) >= self._max_depth:
            raise self._refused(f"nested deeper than {self._max_depth} levels", offset)
        if code == codes.SX_FLAG_HASH:
            self._byte()  # restricted or not: a lock on the hash, which JSON hasn't
        count = self._length()
        least = {codes.SX_ARRAY: 1, codes.SX_HASH: 5, codes.SX_FLAG_HASH: 6}[code]
        if count * least > len(self._data) - self.position:
            raise self._truncated()
        keys = None if code == codes.SX_ARRAY else Keys(self.findings)
        container = _Container(count, keys, flagged=code == codes.SX_FLAG_HASH)
        self._seen.append(container)
        return container

    def _scalar(self, code: int, offset: int) -> PlainValue:
        value: PlainValue
        if code == codes.SX_SCALAR:
            value = self._text(self._byte())
        elif code == codes.SX_BYTE:
            value = self._byte() - 128
        elif code == codes.SX_NETINT:
            value = int.from_bytes(self._take(4), "big", signed=True)
        elif code in codes.CONSTANTS:
            value = codes.CONSTANTS[code]
        elif code in (codes.SX_UTF8STR, codes.SX_LUTF8STR):
            length = self._byte() if code == codes.SX_UTF8STR else self._length()
            value = self._characters(self._take(length), self.position - length)
        elif code == codes.SX_LSCALAR:
            value = self._text(self._length())
        elif code in (codes.SX_INTEGER, codes.SX_DOUBLE):
            value = self._native(code, offset)
        elif code in (codes.SX_VSTRING, codes.SX_LVSTRING):
            return self._version_string(code, offset)
        else:
            raise self._unknown(code, offset)
        self._seen.append(value)
        return value

    def _text(self, length: int) -> str:
        offset = self.position
        return self._strings.text(self._take(length), offset)

    def _characters(self, raw: bytes, offset: int) -> str:
        """A character string. Perl's UTF-8 may hold what Unicode's may not."""
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            what = "text with a surrogate or a character beyond Unicode"
            raise self._refused(what, offset + error.start) from None

    def _native(self, code: int, offset: int) -> int | float:
        head = self._head
        if head.network:
            raise self._refused("native number in network order", offset)
        if code == codes.SX_INTEGER:
            number: int = self._integer.unpack(self._take(head.integer_bytes))[0]
            if abs(number) > EXACT_INTEGER:
                self.findings.add(Finding.BIG_INTEGER)
            return number
        if head.double_bytes != 8:
            raise self._refused(f"double of {head.double_bytes} bytes (Perl built with long doubles)", offset)
        double: float = self._double.unpack(self._take(8))[0]
        if not math.isfinite(double):
            raise self._refused("float that JSON can't hold (NaN or infinity)", offset)
        return double

    def _version_string(self, code: int, offset: int) -> PlainValue:
        """A `v1.2.3`: its source text, then the string of characters that every reader of it sees."""
        self._take(self._byte() if code == codes.SX_VSTRING else self._length())
        inner = self._byte()
        if inner not in (codes.SX_SCALAR, codes.SX_LSCALAR, codes.SX_UTF8STR, codes.SX_LUTF8STR):
            raise self._refused("version string without a string", offset)
        self.findings.add(Finding.VERSION_STRING)
        return self._scalar(inner, offset)

    def _class(self, code: int, offset: int) -> bytes:
        """The class of the object that follows; a name is numbered when it first appears."""
        number = self._byte()
        if number & 0x80:
            number = self._length()
        if code == codes.SX_BLESS:
            name = self._take(number)
            self._classes.append(name)
            return name
        if number >= len(self._classes):
            raise self._refused("object of a class that isn't there", offset)
        return self._classes[number]

    def _strip(self, name: bytes, offset: int) -> None:
        if self._blessed is BlessedMode.REJECT:
            raise self._refused(f"object of class {_shown(name)}", offset)
        self.findings.add(Finding.BLESSED)

    def _unknown(self, code: int, offset: int) -> Untranslatable:
        if code == codes.SX_HOOK:
            return self._refused(f"object {self._hook_class()}written by its own STORABLE_freeze", offset)
        if code in (codes.SX_ARRAY, codes.SX_HASH, codes.SX_FLAG_HASH):
            return self._refused("array or hash outside a reference", offset)
        if code in codes.REFUSED:
            return self._refused(codes.REFUSED[code], offset)
        return self._refused(f"unknown type {code:#04x}", offset)

    def _hook_class(self) -> str:
        """ "of class X ", where the name can be read without reading the objects that stand before it."""
        flags = self._byte()
        if flags & codes.HOOK_RECURSES:
            return ""
        number = self._length() if flags & codes.HOOK_LONG_CLASS else self._byte()
        if not flags & codes.HOOK_CLASS_INDEX:
            return f"of class {_shown(self._take(number))} "
        return f"of class {_shown(self._classes[number])} " if number < len(self._classes) else ""

    def _length(self) -> int:
        length: int = self._size.unpack(self._take(4))[0]
        return length

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
        return Untranslatable(f"Storable is cut off: more is announced than its {len(self._data)} bytes hold")

    def _refused(self, what: str, offset: int) -> Untranslatable:
        return Untranslatable(f"Storable: {what} at byte {offset}")


def _shown(name: bytes) -> str:
    """A class name is code, not data, so errors may name it; bytes that are no such name aren't shown."""
    return name.decode("ascii") if len(name) <= 200 and _CLASS_NAME.fullmatch(name) else "(not a Perl name)"

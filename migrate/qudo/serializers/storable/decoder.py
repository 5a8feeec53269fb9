"""Storable as freeze, nfreeze, store and nstore write it, read without Perl. Pure.

Every value that Perl retrieves gets the next tag, containers before what is in them, and SX_OBJECT names a value by its
tag; so the order in which `_seen` grows must be exactly Perl's (SEEN in Storable.xs). Hostile data costs no more memory
than its own size, plus MAX_GROWTH for references that are shared.
"""

from __future__ import annotations

import re

from migrate.errors import Untranslatable
from migrate.qudo.serializers.json_text import DEEPEST
from migrate.qudo.serializers.kinds import BlessedMode, BytesMode, Decoded, Finding, PlainValue, ordered
from migrate.qudo.serializers.storable import codes, header
from migrate.qudo.serializers.storable.codes import REFERENCES, SX_ARRAY, SX_FLAG_HASH, SX_HASH, SX_OBJECT
from migrate.qudo.serializers.storable.scalars import READERS, ScalarReader
from migrate.qudo.serializers.strings import Keys

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

_CONTAINERS = frozenset((SX_ARRAY, SX_HASH, SX_FLAG_HASH))
_BLESSED = frozenset((codes.SX_BLESS, codes.SX_IX_BLESS))

#: Fewest bytes that an item of each container takes: a value of one, a key's length of four, a key's flags of one.
_ITEM_BYTES = {SX_ARRAY: 1, SX_HASH: 5, SX_FLAG_HASH: 6}

_CLASS_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*(?:(?:::|')[A-Za-z0-9_]+)*")


def decode(data: bytes, bytes_mode: BytesMode, blessed: BlessedMode, max_depth: int) -> Decoded:
    """The value behind the reference that was frozen, as Perl's JSON would show it.

    Raises Untranslatable, naming cause and byte, for damaged data and for what JSON can't hold: code, tied things,
    regular expressions, cycles, references to scalars or references, objects with hooks of their own.
    """
    decoder = _Decoder(data, header.read(data), bytes_mode, blessed, min(max_depth, DEEPEST))
    value = decoder.value()
    decoder.finish()
    return Decoded(value, ordered(decoder.findings))


class _Container:
    """An array or hash: on the stack while its items are read, in `_seen` for good."""

    __slots__ = ("copied", "flagged", "height", "items", "keys", "left", "open", "start", "weight")

    def __init__(self, count: int, keys: Keys | None, flagged: bool, start: int) -> None:
        self.left = count
        self.keys = keys  # None: an array
        self.flagged = flagged
        self.items: list[PlainValue] = []
        self.start = start
        self.copied = 0  # bytes that shared values add to those that are there
        self.weight = 0  # bytes with what is shared counted each time, once it is closed
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


class _Decoder(ScalarReader):
    """Reads with a stack of its own: deep data must not meet Python's recursion limit."""

    def __init__(
        self, data: bytes, head: header.Header, bytes_mode: BytesMode, blessed: BlessedMode, max_depth: int
    ) -> None:
        super().__init__(data, head, bytes_mode)
        self._blessed = blessed
        self._max_depth = max_depth
        self._seen: list[PlainValue | _Container | _Reference] = []
        self._classes: list[bytes] = []
        self._stack: list[_Container] = []
        self._weak: dict[_Container, int] = {}  # held by weak references only, so far: offset of the first

    def value(self) -> PlainValue:
        """Read everything and return the value. Perl drops what only weak references hold as soon as it has read it."""
        value = self._root()
        for offset in self._weak.values():
            raise self.refused("weak reference to what nothing else refers to", offset)
        return value

    def _root(self) -> PlainValue:
        """Read to the end. freeze takes a reference and writes what it points to, so the root has no SX_REF."""
        root = self._referent(is_root=True)
        if not isinstance(root, _Container):
            return root
        stack = self._stack
        stack.append(root)
        while True:
            parent = stack[-1]
            if parent.left:
                parent.left -= 1
                item = self._item()
                if not isinstance(item, _Container):
                    value = item
                elif item.open:
                    stack.append(item)
                    continue
                else:
                    value = item.value
            else:
                self._close(stack.pop())
                value = parent.value
                if not stack:
                    return value
                parent = stack[-1]
            if parent.keys is None:
                parent.items.append(value)
            else:  # in a hash the key follows the value
                self._key(parent.keys, value, flagged=parent.flagged)

    def _close(self, container: _Container) -> None:
        container.open = False
        container.weight = self.position - container.start + container.copied
        if self._stack:
            parent = self._stack[-1]
            parent.height = max(parent.height, container.height + 1)
            self._copy(parent, container.copied)

    def _copy(self, parent: _Container, weight: int) -> None:
        """Account for `weight` more bytes of copies in `parent`."""
        parent.copied += weight
        if parent.copied > MAX_GROWTH:
            raise self.refused("shared references that grow beyond reason when written out", self.position)

    def _key(self, keys: Keys, value: PlainValue, *, flagged: bool) -> None:
        offset = self.position
        flags = self.byte() if flagged else 0
        raw = self.take(self.length())
        if flags & codes.KEY_IS_SCALAR:
            raise self.refused("hash key that is a value of its own", offset)
        if flags & codes.KEY_PLACEHOLDER:
            return
        start = self.position - len(raw)
        if flags & codes.KEY_UTF8:
            text = self.characters(raw, start)
            keys.put(text, text, value, offset)
        elif flags & codes.KEY_WAS_UTF8:
            keys.put(raw.decode("latin-1"), raw, value, offset)
        else:
            keys.put(self.text(raw, start), raw, value, offset)

    def _item(self) -> PlainValue | _Container:
        """The next item of a container: a scalar, or a reference to a container."""
        offset = self.position
        code = self.byte()
        read = READERS.get(code)
        if read is not None:
            value = read(self)
            self._seen.append(value)
            return value
        if code in REFERENCES:
            return self._reference(code, offset)
        if code == SX_OBJECT:
            return self._seen_item(offset)
        if code in _CONTAINERS or code in _BLESSED:
            raise self.refused("array, hash or object outside a reference", offset)
        if code == codes.SX_HOOK:
            raise self._hook(offset)
        return self.scalar(code, offset)

    def _reference(self, code: int, offset: int) -> _Container | bool:
        reference = _Reference()
        self._seen.append(reference)
        known = len(self._seen)
        target = self._referent(is_root=False)
        if not isinstance(target, (_Container, bool)):
            raise self.refused("reference to a scalar", offset)
        reference.target = target
        if isinstance(target, _Container):
            if code not in codes.WEAK:
                self._weak.pop(target, None)
            elif len(self._seen) > known:
                self._weak[target] = offset
        return target

    def _referent(self, *, is_root: bool) -> PlainValue | _Container:
        """What a reference points to: a container that opens here, one seen before, or a boolean object."""
        offset = self.position
        code = self.byte()
        name: bytes | None = None
        if code in _BLESSED:
            name = self._class(code, offset)
            offset = self.position
            code = self.byte()
        if code in _CONTAINERS:
            if name is not None:
                self._strip(name, offset)
            return self._open(code, offset)
        if code in REFERENCES:
            raise self.refused("reference to a reference", offset)
        if code == SX_OBJECT:
            return self._seen_referent(offset)
        if code == codes.SX_HOOK:
            raise self._hook(offset)
        value = self.scalar(code, offset)
        if name in BOOLEAN_CLASSES and value in (0, 1, "0", "1", ""):
            truth = value in (1, "1")
            self._seen.append(truth)
            return truth
        if not is_root:
            raise self.refused("reference to a scalar", offset)
        if name is not None:
            self._strip(name, offset)
        self.findings.add(Finding.SCALAR_REFERENCE)
        return value

    def _open(self, code: int, offset: int) -> _Container:
        if len(self._stack) >= self._max_depth:
            raise self.refused(f"nested deeper than {self._max_depth} levels", offset)
        if code == SX_FLAG_HASH:
            self.byte()  # restricted or not: a lock on the hash, which JSON hasn't
        count = self.length()
        self.expect(count, _ITEM_BYTES[code])
        keys = None if code == SX_ARRAY else Keys(self.findings)
        container = _Container(count, keys, code == SX_FLAG_HASH, offset)
        self._seen.append(container)
        return container

    def _seen_referent(self, offset: int) -> _Container | bool:
        target = self._tagged(offset)
        if isinstance(target, _Reference):
            raise self.refused("reference to a reference", offset)
        if not isinstance(target, (_Container, bool)):
            raise self.refused("reference to a scalar", offset)
        return self._share(target, offset)

    def _seen_item(self, offset: int) -> PlainValue | _Container:
        """A scalar that stands in two places; what it refers to, if it is a reference."""
        target = self._tagged(offset)
        if isinstance(target, _Container):
            raise self.refused("array or hash outside a reference", offset)
        if not isinstance(target, _Reference):
            if isinstance(target, str):
                self._copy(self._stack[-1], len(target))
            return target
        if target.target is None:
            raise self.refused("cycle, a value that contains itself,", offset)
        return self._share(target.target, offset)

    def _share(self, target: _Container | bool, offset: int) -> _Container | bool:
        if isinstance(target, _Container):
            if target.open:
                raise self.refused("cycle, a value that contains itself,", offset)
            if len(self._stack) + target.height > self._max_depth:
                raise self.refused(f"nested deeper than {self._max_depth} levels", offset)
            self._copy(self._stack[-1], target.weight)
            self.findings.add(Finding.SHARED)
        return target

    def _tagged(self, offset: int) -> PlainValue | _Container | _Reference:
        tag = int.from_bytes(self.take(4), "big")  # network order in native data too
        if tag >= len(self._seen):
            raise self.refused("reference to a value that isn't there", offset)
        return self._seen[tag]

    def _class(self, code: int, offset: int) -> bytes:
        """The class of the object that follows; a name is numbered when it first appears."""
        number = self.byte()
        if number & 0x80:
            number = self.length()
        if code == codes.SX_BLESS:
            name = self.take(number)
            self._classes.append(name)
            return name
        if number >= len(self._classes):
            raise self.refused("object of a class that isn't there", offset)
        return self._classes[number]

    def _strip(self, name: bytes, offset: int) -> None:
        if self._blessed is BlessedMode.REJECT:
            raise self.refused(f"object of class {_shown(name)}", offset)
        self.findings.add(Finding.BLESSED)

    def _hook(self, offset: int) -> Untranslatable:
        """The error for an object with a hook, with its class where that stands before the objects it refers to."""
        flags = self.byte()
        what = "object written by its own STORABLE_freeze"
        if not flags & codes.HOOK_RECURSES:
            number = self.length() if flags & codes.HOOK_LONG_CLASS else self.byte()
            if not flags & codes.HOOK_CLASS_INDEX:
                what = f"{what}, of class {_shown(self.take(number))},"
            elif number < len(self._classes):
                what = f"{what}, of class {_shown(self._classes[number])},"
        return self.refused(what, offset)


def _shown(name: bytes) -> str:
    """A class name is code, not data, so errors may name it; bytes that are no such name aren't shown."""
    return name.decode("ascii") if len(name) <= 200 and _CLASS_NAME.fullmatch(name) else "(not a Perl name)"

"""Storable's type bytes, and what each refused one is called. Source: dist/Storable/Storable.xs in perl5."""

from __future__ import annotations

SX_OBJECT = 0  #: seen before: the tag of an earlier value follows
SX_LSCALAR = 1  #: byte string with a 4-byte length
SX_ARRAY = 2
SX_HASH = 3
SX_REF = 4
SX_UNDEF = 5
SX_INTEGER = 6  #: native integer, only in native order
SX_DOUBLE = 7  #: native double, only in native order
SX_BYTE = 8  #: one byte, the value plus 128
SX_NETINT = 9  #: 32 bits, big endian in either order
SX_SCALAR = 10  #: byte string with a 1-byte length
SX_TIED_ARRAY = 11
SX_TIED_HASH = 12
SX_TIED_SCALAR = 13
SX_SV_UNDEF = 14  #: Perl's one immortal undef
SX_SV_YES = 15  #: Perl's immortal true, `!!1`
SX_SV_NO = 16  #: Perl's immortal false, `!!0`
SX_BLESS = 17  #: class name, then the object
SX_IX_BLESS = 18  #: number of a class named before, then the object
SX_HOOK = 19  #: written by the class's own STORABLE_freeze
SX_OVERLOAD = 20  #: SX_REF to an object with overloading
SX_TIED_KEY = 21
SX_TIED_IDX = 22
SX_UTF8STR = 23  #: character string with a 1-byte length
SX_LUTF8STR = 24  #: character string with a 4-byte length
SX_FLAG_HASH = 25  #: hash whose keys carry flags
SX_CODE = 26
SX_WEAKREF = 27
SX_WEAKOVERLOAD = 28
SX_VSTRING = 29  #: source text of a version string with a 1-byte length, then the string itself
SX_LVSTRING = 30
SX_SVUNDEF_ELEM = 31  #: array element that is the immortal undef
SX_REGEXP = 32
SX_LOBJECT = 33  #: string, array or hash of more than 2 GiB
SX_BOOLEAN_TRUE = 34  #: since Storable 3.27
SX_BOOLEAN_FALSE = 35

#: A type byte above this is no Storable that we know of.
LAST = SX_BOOLEAN_FALSE

REFERENCES = frozenset((SX_REF, SX_OVERLOAD, SX_WEAKREF, SX_WEAKOVERLOAD))
WEAK = frozenset((SX_WEAKREF, SX_WEAKOVERLOAD))

#: What JSON has no place for.
REFUSED = {
    SX_TIED_ARRAY: "tied array",
    SX_TIED_HASH: "tied hash",
    SX_TIED_SCALAR: "tied scalar",
    SX_TIED_KEY: "element of a tied hash",
    SX_TIED_IDX: "element of a tied array",
    SX_CODE: "code reference",
    SX_REGEXP: "regular expression",
    SX_LOBJECT: "object of more than 2 GiB",
}

#: Flags of a key in SX_FLAG_HASH.
KEY_UTF8 = 0x01  #: the key's bytes are UTF-8 of its characters
KEY_WAS_UTF8 = 0x02  #: a character string whose characters all fit into a byte: one byte is one character
KEY_IS_SCALAR = 0x08  #: the key is a value of its own; Perl has never written it
KEY_PLACEHOLDER = 0x10  #: a restricted hash allows this key but doesn't have it

#: Flags of SX_HOOK that tell where its class name stands.
HOOK_LONG_CLASS = 0x04
HOOK_CLASS_INDEX = 0x20
HOOK_RECURSES = 0x40

"""The first bytes of Storable data: version, byte order, sizes. Pure. Source: magic_check in Storable.xs."""

from __future__ import annotations

from typing import Literal, NamedTuple

from migrate.errors import Untranslatable
from migrate.qudo.serializers.storable.codes import LAST

#: What `store` and `nstore` write in front; `freeze` and `nfreeze` don't.
FILE_MAGIC = b"pst0"

MAJOR = 2

#: Newest minor that is taken for Storable without being told so. Perl 5.36 writes 11; 12 is the newest there is.
NEWEST_LIKELY_MINOR = 15

#: Perl's BYTEORDER string, one digit a byte of an IV, and what it says.
_ORDERS: dict[bytes, Literal["little", "big"]] = {
    b"1234": "little",
    b"12345678": "little",
    b"4321": "big",
    b"87654321": "big",
}


class Header(NamedTuple):
    """How to read what follows."""

    start: int  #: offset of the first value
    order: Literal["little", "big"]  #: of lengths; and of native integers and doubles
    network: bool
    integer_bytes: int  #: size of a native integer
    double_bytes: int  #: size of a native double


def looks_like(data: bytes) -> bool:
    """Whether `data` starts as Storable does, by its header and the first type byte."""
    if data.startswith(FILE_MAGIC):
        return True
    if len(data) < 3 or data[0] >> 1 != MAJOR or data[1] > NEWEST_LIKELY_MINOR:
        return False
    if data[0] & 1:
        return data[2] <= LAST
    return data[3 : 3 + data[2]] in _ORDERS


def read(data: bytes) -> Header:
    """Read the header. Raises Untranslatable when it isn't one, or is one that Perl 5 of today wouldn't read."""
    at = len(FILE_MAGIC) if data.startswith(FILE_MAGIC) else 0
    if len(data) < at + 2:
        raise Untranslatable("not Storable: too short for its header")
    major, network = data[at] >> 1, bool(data[at] & 1)
    if major != MAJOR:
        raise Untranslatable(f"not Storable, or of major version {major}: only {MAJOR} is read")
    minor = data[at + 1]
    at += 2
    if network:
        return Header(at, "big", network=True, integer_bytes=0, double_bytes=0)
    return _read_native(data, at, minor)


def _read_native(data: bytes, at: int, minor: int) -> Header:
    """Native order names its machine: byte order, then sizeof int, long, pointer and, since minor 2, double."""
    length = data[at] if at < len(data) else 0
    digits = data[at + 1 : at + 1 + length]
    order = _ORDERS.get(digits)
    sizes = data[at + 1 + length : at + 1 + length + (4 if minor >= 2 else 3)]
    if order is None:
        raise Untranslatable(f"not Storable, or of an unknown byte order, at byte {at}")
    if len(sizes) < (4 if minor >= 2 else 3):
        raise Untranslatable("Storable cut off in its header")
    if sizes[0] != 4:
        raise Untranslatable(f"Storable of a machine whose int has {sizes[0]} bytes: only 4 are read")
    double_bytes = sizes[3] if minor >= 2 else 8
    return Header(at + 1 + length + len(sizes), order, False, len(digits), double_bytes)

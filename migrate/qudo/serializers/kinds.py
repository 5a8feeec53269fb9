"""The words that serializers share: kinds, modes, findings, and the two results. Pure data."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, TypeAlias

import msgspec

#: What a worker gets out of an arg, as Python sees it: containers hold the same kinds of value.
PlainValue: TypeAlias = "bool | int | float | str | list[PlainValue] | dict[str, PlainValue] | None"


class Serializer(StrEnum):
    """What wrote an arg. The row doesn't say; AUTO looks at the bytes."""

    AUTO = "auto"
    JSON = "json"
    MESSAGEPACK = "messagepack"
    STORABLE = "storable"
    RAW = "raw"  #: no serializer: the scalar that the app passed


class BytesMode(StrEnum):
    """What becomes of a Perl byte string that isn't UTF-8; JSON holds text only."""

    REJECT = "reject"  #: the job is untranslatable
    LATIN1 = "latin1"  #: each byte becomes the character of that number, as Perl itself sees it
    BASE64 = "base64"  #: standard alphabet, padded, no line breaks


class BlessedMode(StrEnum):
    """What becomes of a Perl object in Storable data."""

    STRIP = "strip"  #: its hash or array is kept, its class is not
    REJECT = "reject"  #: the job is untranslatable


class Finding(StrEnum):
    """What a lead should know of a translated job: names, never values. Sorted as listed here."""

    BIG_INTEGER = "integer over 2**53"
    LONG_FLOAT = "number with more digits than a double keeps"
    BLESSED = "Perl object stripped to its data"
    SCALAR_REFERENCE = "reference to a scalar replaced by the scalar"
    SHARED = "shared reference written out as copies"
    VERSION_STRING = "version string kept as its characters"
    DUPLICATE_KEYS = "key written twice, the last one counts"
    LATIN1 = "bytes that aren't UTF-8 became Latin-1 text"
    BASE64 = "bytes that aren't UTF-8 became base64 text"


class JsonValue(msgspec.Struct, frozen=True, gc=False):
    """One arg as JSON."""

    text: bytes  #: UTF-8 JSON of the value; an arg that was JSON is the very bytes that Qudo held
    findings: tuple[Finding, ...]
    serializer: Serializer  #: what the arg was read as; never AUTO


class Decoded(NamedTuple):
    """One arg as a Python value, and what a lead should know of it."""

    value: PlainValue
    findings: tuple[Finding, ...]


def ordered(findings: set[Finding]) -> tuple[Finding, ...]:
    """The findings in the order of the enum, so that equal jobs report equally."""
    return tuple(finding for finding in Finding if finding in findings) if findings else ()

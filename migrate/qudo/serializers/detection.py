"""Which serializer wrote an arg. Pure.

Most bytes leave no doubt: Storable starts with a header, JSON parses, a MessagePack map parses to its last byte and
isn't UTF-8. Where two readings are possible, the hint decides: what most of the func's jobs are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from migrate.errors import Untranslatable
from migrate.qudo.serializers import json_text, messagepack, storable
from migrate.qudo.serializers.json_text import BYTE_ORDER_MARK, DEEPEST, NotJson
from migrate.qudo.serializers.kinds import BlessedMode, BytesMode, Serializer

#: MessagePack shorter than this is no proof: two bytes of Shift_JIS can be an array of one number.
_SHORTEST_PROOF = 8

_JSON_SPACE = b" \t\r\n"


class Detection(NamedTuple):
    """What the args of a func look like."""

    serializer: Serializer  #: what most of them are; AUTO when none says anything
    share: float  #: of those looked at, how many are of that kind; 0.0 to 1.0
    looked_at: int  #: args that say something: not NULL
    counts: Mapping[Serializer, int]  #: by kind, most frequent first


def detect(arg: bytes | None, hint: Serializer | None = None) -> Serializer:
    """What one arg is; `hint`, what most args of its func are, decides where two readings are possible.

    Never AUTO. NULL says nothing: it is what the hint says, else RAW.
    """
    if hint is Serializer.AUTO:
        hint = None
    if arg is None:
        return hint or Serializer.RAW
    if storable.looks_like(arg) and (hint is not Serializer.RAW or _is_storable(arg)):
        return Serializer.STORABLE
    start = arg.removeprefix(BYTE_ORDER_MARK).lstrip(_JSON_SPACE)[:1]
    if start in (b"{", b"[") or hint is Serializer.JSON:
        if is_json(arg):
            return Serializer.JSON
        if start in (b"{", b"[") and hint is Serializer.JSON:
            return Serializer.JSON  # damaged: reading it will say how
    if _is_messagepack(arg, hint):
        return Serializer.MESSAGEPACK
    return Serializer.RAW


def detect_func(args: Iterable[bytes | None]) -> Detection:
    """What most of a func's args are, from a sample of them. Copes with an empty sample and with a mixed one."""
    known = [arg for arg in args if arg is not None]
    if not known:
        return Detection(Serializer.AUTO, 0.0, 0, {})
    usual = _most(Counter(detect(arg) for arg in known))
    if usual is Serializer.RAW and _are_json_scalars(known):
        usual = Serializer.JSON
    counts = Counter(detect(arg, usual) for arg in known)
    usual = _most(counts)
    return Detection(usual, counts[usual] / len(known), len(known), dict(counts.most_common()))


def is_json(arg: bytes) -> bool:
    """Whether `arg` is JSON, scalars included; a value that is refused for depth or size of a number is JSON too."""
    try:
        json_text.examine(arg, DEEPEST)
    except NotJson:
        return False
    except Untranslatable:
        return True
    return True


def _most(counts: Counter[Serializer]) -> Serializer:
    """The most frequent kind; of equals the one that is harder to meet by chance, in the order of the enum."""
    return max(counts, key=lambda kind: (counts[kind], -list(Serializer).index(kind)))


def _are_json_scalars(args: list[bytes]) -> bool:
    """Quoted strings among nothing but JSON: JSON::XS 4 writes a plain string so, and no app quotes its raw text."""
    return all(map(is_json, args)) and any(arg.lstrip(_JSON_SPACE)[:1] == b'"' for arg in args)


def _is_storable(arg: bytes) -> bool:
    try:
        storable.decode(arg, BytesMode.LATIN1, BlessedMode.STRIP, DEEPEST)
    except Untranslatable:
        return False
    return True


def _is_messagepack(arg: bytes, hint: Serializer | None) -> bool:
    if not arg:
        return False
    if hint is Serializer.MESSAGEPACK:
        if _starts_messagepack_container(arg[0]) and not _is_text(arg):
            return True  # damaged or not: reading it will say how
        return _reads_as_messagepack(arg, BytesMode.LATIN1)
    if _is_text(arg):
        return False
    if hint is Serializer.RAW:
        likely = len(arg) >= _SHORTEST_PROOF and _starts_messagepack_container(arg[0])
        return likely and _reads_as_messagepack(arg, BytesMode.REJECT)
    if _starts_messagepack_container(arg[0]):
        return _reads_as_messagepack(arg, BytesMode.LATIN1)
    return _starts_messagepack_string(arg[0]) and _reads_as_messagepack(arg, BytesMode.REJECT)


def _starts_messagepack_container(first: int) -> bool:
    return 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF


def _starts_messagepack_string(first: int) -> bool:
    return 0xA0 <= first <= 0xBF or 0xD9 <= first <= 0xDB


def _reads_as_messagepack(arg: bytes, bytes_mode: BytesMode) -> bool:
    try:
        messagepack.decode(arg, bytes_mode, DEEPEST)
    except Untranslatable:
        return False
    return True


def _is_text(arg: bytes) -> bool:
    try:
        arg.decode()
    except UnicodeDecodeError:
        return False
    return True

"""Perl strings and hash keys as text. Pure.

A Perl string is characters; whether they are text or bytes only the app knows. Apps put UTF-8 into byte strings far
more often than anything else, so bytes that are valid UTF-8 are read as that, and the rest is for the route to decide.
"""

from __future__ import annotations

import base64

from migrate.errors import Untranslatable
from migrate.qudo.serializers.kinds import BytesMode, Finding, PlainValue


class Strings:
    """Turns the byte strings of one arg into text and remembers what it did in `findings`."""

    __slots__ = ("_findings", "_mode")

    def __init__(self, mode: BytesMode, findings: set[Finding]) -> None:
        self._mode = mode
        self._findings = findings

    def text(self, raw: bytes, offset: int) -> str:
        """The text of a byte string that starts at `offset`. Raises Untranslatable under BytesMode.REJECT."""
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            at = offset + error.start
        if self._mode is BytesMode.LATIN1:
            self._findings.add(Finding.LATIN1)
            return raw.decode("latin-1")
        if self._mode is BytesMode.BASE64:
            self._findings.add(Finding.BASE64)
            return base64.b64encode(raw).decode("ascii")
        raise Untranslatable(f"bytes that aren't UTF-8 at byte {at} (the route's bytes key can allow them)")


class Keys:
    """The keys of one map on their way into a dict: equal keys replace each other, different ones must stay apart.

    Perl keeps the last value of a key that is written twice, and so do we. But two keys that Perl tells apart can
    become the same text (`é` as a character and as two UTF-8 bytes); then one value would vanish, so that is refused.
    """

    __slots__ = ("_findings", "_identities", "values")

    def __init__(self, findings: set[Finding]) -> None:
        self.values: dict[str, PlainValue] = {}
        self._findings = findings
        self._identities: dict[str, bytes | str] | None = None  # text -> its key, where that isn't the text's UTF-8

    def put(self, text: str, identity: bytes | str, value: PlainValue, offset: int) -> None:
        """Set `text` to `value`. `identity` is the key as Perl compares it: its bytes, or its text when it has
        characters that are no bytes. Raises Untranslatable on a collision.
        """
        plain = text.encode()
        identities = self._identities
        if text in self.values:
            held = plain if identities is None else identities.get(text, plain)
            if held != identity:
                raise Untranslatable(f"two different hash keys become the same text at byte {offset}")
            self._findings.add(Finding.DUPLICATE_KEYS)
        if identity != plain:
            if identities is None:
                identities = self._identities = {}
            identities[text] = identity
        self.values[text] = value

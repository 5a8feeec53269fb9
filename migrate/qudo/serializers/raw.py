"""No serializer: the arg is the scalar that the app passed, text or bytes. Pure."""

from __future__ import annotations

from migrate.qudo.serializers.kinds import BytesMode, Decoded, Finding, ordered
from migrate.qudo.serializers.strings import Strings


def decode(arg: bytes, bytes_mode: BytesMode) -> Decoded:
    """The arg as one string, never a number: `0123` and `12345` stay text.

    Raises Untranslatable for bytes that aren't UTF-8 under BytesMode.REJECT.
    """
    findings: set[Finding] = set()
    text = Strings(bytes_mode, findings).text(arg, 0)
    return Decoded(text, ordered(findings))

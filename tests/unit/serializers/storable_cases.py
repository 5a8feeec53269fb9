"""tests/data/storable: what Perl expressions are once frozen, and the bytes that Perl 5.36 wrote of them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from migrate.qudo.serializers import BlessedMode, BytesMode, Finding, PlainValue

DATA = Path(__file__).parents[2] / "data" / "storable"
RECORDED = DATA / "recorded.jsonl"

HOWS = ("freeze", "nfreeze", "store", "nstore")


class Case(msgspec.Struct, frozen=True):
    """One Perl expression and what its reference, frozen, must be read as."""

    what: str
    perl: str
    value: msgspec.Raw = msgspec.Raw()
    findings: tuple[str, ...] = ()
    refused: str | None = None  #: a part of the reason
    how: tuple[str, ...] = HOWS
    bytes: BytesMode = BytesMode.REJECT
    blessed: BlessedMode = BlessedMode.STRIP

    @property
    def expected(self) -> PlainValue:
        value: PlainValue = json.loads(bytes_of(self.value))
        return value

    @property
    def expected_findings(self) -> set[Finding]:
        return {Finding[name] for name in self.findings}


class Recording(msgspec.Struct, frozen=True):
    """What one of Perl's functions wrote of a case."""

    what: str
    how: str
    hex: str


def bytes_of(raw: msgspec.Raw) -> bytes:
    return bytes(raw)


def cases() -> list[Case]:
    lines = (DATA / "cases.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Case) for line in lines]


def recordings() -> list[Recording]:
    return [msgspec.json.decode(line, type=Recording) for line in RECORDED.read_bytes().splitlines()]

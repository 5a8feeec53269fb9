"""Args that the real Qudo and Perl wrote, and what their workers saw.

tests/data/args/qudo.jsonl is taken from the dumps in tests/data/qudo (the args are hex); tests/data/storable/*.jsonl
hold what Perl 5.36 froze, see storable_cases.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from migrate.errors import Untranslatable
from migrate.qudo.serializers import BytesMode, Serializer, detect, detect_func
from tests.unit.serializers.decoding import json_of, same, value_of
from tests.unit.serializers.storable_cases import Recording, cases, recordings

QUDO_ARGS = Path(__file__).parents[2] / "data" / "args" / "qudo.jsonl"


class QudoArg(msgspec.Struct, frozen=True):
    db: str
    id: int
    func: str
    serializer: Serializer
    arg: str | None  #: hex
    raw: str | None = None  #: for serializer raw: the bytes that the app passed, hex
    value: Any = None  #: for the others: the value that the app passed

    @property
    def bytes(self) -> bytes | None:
        return None if self.arg is None else bytes.fromhex(self.arg)


def qudo_args() -> list[QudoArg]:
    return [msgspec.json.decode(line, type=QudoArg) for line in QUDO_ARGS.read_bytes().splitlines()]


def as_text(value: Any) -> Any:
    """Storable keeps no difference between a large integer or a float and its text."""
    if isinstance(value, dict):
        return {key: as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_text(item) for item in value]
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value) if type(value) is int else value


def expected(row: QudoArg) -> Any:
    if row.serializer is not Serializer.RAW:
        return row.value
    if row.raw is None:
        return None
    data = bytes.fromhex(row.raw)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


@pytest.mark.parametrize("row", qudo_args(), ids=lambda row: f"{row.db}{row.id}")
@pytest.mark.parametrize("forced", [False, True], ids=["auto", "forced"])
def test_args_of_the_real_qudo(row: QudoArg, forced: bool) -> None:
    serializer = row.serializer if forced else Serializer.AUTO
    value = value_of(row.bytes, serializer, bytes_mode=BytesMode.LATIN1)
    if row.serializer is Serializer.STORABLE:
        assert as_text(value) == as_text(expected(row))
    else:
        assert same(value, expected(row))


@pytest.mark.parametrize(
    "row", [row for row in qudo_args() if row.serializer is Serializer.JSON], ids=lambda row: row.id
)
def test_json_of_the_real_qudo_passes_byte_for_byte(row: QudoArg) -> None:
    assert json_of(row.bytes).text == row.bytes


def test_serializers_of_the_real_qudo_are_found() -> None:
    by_func: dict[str, list[QudoArg]] = {}
    for row in qudo_args():
        by_func.setdefault(row.func, []).append(row)
    for rows in by_func.values():
        found = detect_func(row.bytes for row in rows)
        assert found.serializer is rows[0].serializer
        assert found.share == 1.0
        assert found.looked_at == sum(row.arg is not None for row in rows)


CASES = {case.what: case for case in cases()}


@pytest.mark.parametrize("recording", recordings(), ids=lambda recording: f"{recording.what}-{recording.how}")
def test_storable_as_perl_wrote_it(recording: Recording) -> None:
    case = CASES[recording.what]
    data = bytes.fromhex(recording.hex)
    if case.refused is not None:
        with pytest.raises(Untranslatable, match=case.refused) as caught:
            json_of(data, bytes_mode=case.bytes, blessed=case.blessed)
        assert "\n" not in caught.value.message
        return
    assert same(value_of(data, bytes_mode=case.bytes, blessed=case.blessed), case.expected)
    read = json_of(data, bytes_mode=case.bytes, blessed=case.blessed)
    assert set(read.findings) == case.expected_findings
    assert json.loads(read.text) == case.expected


def test_every_recording_is_found_to_be_storable() -> None:
    assert {detect(bytes.fromhex(recording.hex)) for recording in recordings()} == {Serializer.STORABLE}


def test_every_case_is_recorded() -> None:
    assert {recording.what for recording in recordings()} == set(CASES)

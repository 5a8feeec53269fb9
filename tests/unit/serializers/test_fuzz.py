"""Any bytes at all: a value or Untranslatable, nothing else, in bounded time and memory."""

from __future__ import annotations

import json
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import Untranslatable
from migrate.qudo.serializers import BlessedMode, BytesMode, Serializer, detect_func, to_json, to_value
from tests.unit.serializers.decoding import MAX_DEPTH, same
from tests.unit.serializers.storable_cases import recordings
from tests.unit.serializers.test_recorded_args import qudo_args

#: Args that are whole, from Perl and from Qudo, short enough to be damaged in telling ways.
WHOLE = sorted(
    {bytes.fromhex(recording.hex) for recording in recordings() if len(recording.hex) < 1000}
    | {row.bytes for row in qudo_args() if row.bytes is not None}
    | {msgspec.msgpack.encode(row.value) for row in qudo_args() if row.value is not None},
    key=lambda arg: (len(arg), arg),
)

MODES = st.sampled_from(BytesMode)
HINTS = st.none() | st.sampled_from(Serializer)


def ask(arg: bytes, serializer: Serializer, hint: Serializer | None, mode: BytesMode) -> None:
    """Both questions, which must agree; an answer is JSON."""
    text, reason = None, ""
    tracemalloc.start()
    try:
        text = to_json(arg, serializer, hint=hint, bytes_mode=mode, blessed=BlessedMode.STRIP, max_depth=MAX_DEPTH).text
    except Untranslatable as error:
        reason = error.message
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in reason
    assert len(reason) < 300
    assert peak < 1_000_000 + 200 * len(arg)
    try:
        value = to_value(arg, serializer, hint=hint, bytes_mode=mode, blessed=BlessedMode.STRIP, max_depth=MAX_DEPTH)
    except Untranslatable:
        assert text is None
    else:
        assert text is not None
        assert same(json.loads(text), value)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(Serializer), HINTS, MODES)
def test_random_bytes(arg: bytes, serializer: Serializer, hint: Serializer | None, mode: BytesMode) -> None:
    ask(arg, serializer, hint, mode)


@settings(deadline=None, max_examples=500)
@given(
    st.binary(max_size=100), st.sampled_from([b"\x05\x0b", b"\x04\x0b\x0812345678\x04\x08\x08\x08", b"pst0\x05\x0b"])
)
def test_random_bytes_behind_a_storable_header(body: bytes, header: bytes) -> None:
    ask(header + body, Serializer.STORABLE, None, BytesMode.LATIN1)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from([bytes([code]) for code in range(36)] + [b"\0\0\0\1", b"\0\0\0\2", b"k"]), max_size=60))
def test_random_storable_types(codes: list[bytes]) -> None:
    ask(b"\x05\x0b" + b"".join(codes), Serializer.STORABLE, None, BytesMode.LATIN1)


@settings(deadline=None, max_examples=500)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from(Serializer),
    MODES,
)
def test_args_with_some_bytes_changed(
    arg: bytes, changes: list[tuple[int, int]], serializer: Serializer, mode: BytesMode
) -> None:
    damaged = bytearray(arg)
    for position, byte in changes:
        if damaged:
            damaged[position % len(damaged)] = byte
    ask(bytes(damaged), serializer, None, mode)


@pytest.mark.parametrize("serializer", list(Serializer))
def test_args_cut_off_anywhere(serializer: Serializer) -> None:
    for arg in WHOLE[:: len(WHOLE) // 40]:
        for end in range(len(arg)):
            ask(arg[:end], serializer, None, BytesMode.LATIN1)


@settings(deadline=None)
@given(st.sampled_from(WHOLE), st.binary(min_size=1, max_size=5), st.integers(0, 10_000))
def test_args_with_bytes_put_in(arg: bytes, extra: bytes, position: int) -> None:
    at = position % (len(arg) + 1)
    ask(arg[:at] + extra + arg[at:], Serializer.AUTO, None, BytesMode.LATIN1)


@settings(deadline=None)
@given(st.lists(st.none() | st.binary(max_size=20) | st.sampled_from(WHOLE), max_size=20))
def test_detection_of_any_func(args: list[bytes | None]) -> None:
    found = detect_func(args)
    assert found.looked_at == sum(arg is not None for arg in args) == sum(found.counts.values())
    assert 0.0 <= found.share <= 1.0
    if found.looked_at:
        assert found.counts[found.serializer] == max(found.counts.values())
        assert found.share == found.counts[found.serializer] / found.looked_at

"""Storable byte by byte: other machines' headers, tags, damaged and hostile data (Perl's own: test_recorded_args)."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from migrate.errors import Untranslatable
from migrate.qudo.serializers import BlessedMode, BytesMode, Finding, PlainValue, Serializer, detect
from tests.unit.serializers.decoding import json_of, same, value_of

NETWORK = b"\x05\x0b"
LITTLE_64 = b"\x04\x0b\x0812345678\x04\x08\x08\x08"
LITTLE_32 = b"\x04\x0b\x041234\x04\x04\x04\x08"
BIG_64 = b"\x04\x0b\x0887654321\x04\x08\x08\x08"
BIG_32 = b"\x04\x0b\x044321\x04\x04\x04\x08"


def array(*items: bytes, order: str = ">") -> bytes:
    return b"\x02" + struct.pack(order + "I", len(items)) + b"".join(items)


def reference(item: bytes) -> bytes:
    return b"\x04" + item


def seen(tag: int) -> bytes:
    return b"\x00" + struct.pack(">I", tag)


def text(value: bytes) -> bytes:
    return b"\x0a" + bytes([len(value)]) + value


@pytest.mark.parametrize(
    ("header", "order", "integer"),
    [(LITTLE_64, "<", "q"), (BIG_64, ">", "q"), (LITTLE_32, "<", "i"), (BIG_32, ">", "i")],
    ids=["little 64", "big 64", "little 32", "big 32"],
)
@pytest.mark.parametrize("magic", [b"", b"pst0"], ids=["memory", "file"])
def test_native_order_of_every_machine(header: bytes, order: str, integer: str, magic: bytes) -> None:
    number = -(2**62) - 1 if integer == "q" else -(2**31)
    body = array(
        b"\x06" + struct.pack(order + integer, number),
        b"\x07" + struct.pack(order + "d", 0.1),
        b"\x09" + struct.pack(">i", -500),
        b"\x01" + struct.pack(order + "I", 300) + b"a" * 300,
        reference(b"\x03" + struct.pack(order + "I", 1) + b"\x08\x81" + struct.pack(order + "I", 1) + b"k"),
        order=order,
    )
    data = magic + header + body
    assert detect(data) is Serializer.STORABLE
    assert same(value_of(data, Serializer.STORABLE), [number, 0.1, -500, "a" * 300, {"k": 1}])


@pytest.mark.parametrize("minor", range(13))
def test_every_minor_version(minor: int) -> None:
    assert value_of(bytes([5, minor]) + array(b"\x08\x81")) == [1]
    sizes = b"\x04\x08\x08\x08" if minor >= 2 else b"\x04\x08\x08"
    native = bytes([4, minor]) + b"\x0812345678" + sizes + array(b"\x08\x81", order="<")
    assert value_of(native) == [1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too short"),
        (b"\x05", "too short"),
        (b"pst0", "too short"),
        (b"pst0\x05", "too short"),
        (b"\x03\x00\x02", "major version 1"),
        (b"\x07\x00\x02", "major version 3"),
        (b'{"a":1}', "not Storable"),
        (b"\x04\x0b", "byte order"),
        (b"\x04\x0b\x0812345", "byte order"),
        (b"\x04\x0b\x0887654321\x04", "cut off in its header"),
        (b"\x04\x0b\x0812345678\x08\x08\x08\x08\x05", "int has 8 bytes"),
        (b"\x04\x0b\x0812345678\x04\x08\x08\x10" + array(b"\x07" + b"\0" * 16, order="<"), "double of 16 bytes"),
        (NETWORK, "cut off"),
        (NETWORK + array(b"\x08\x81")[:-1], "cut off"),
        (NETWORK + b"\x02\xff\xff\xff\xff\x05", "cut off"),
        (NETWORK + b"\x02\x00\x00\x00\x05\x05", "cut off"),
        (NETWORK + b"\x03\x00\x00\x00\x02\x05\x00\x00\x00\x01k", "cut off"),
        (NETWORK + b"\x03\x00\x00\x00\x01\x05\xff\xff\xff\xff", "cut off"),
        (NETWORK + array(b"\x0a\x05abc"), "cut off"),
        (NETWORK + array(b"\x01\x7f\xff\xff\xffabc"), "cut off"),
        (NETWORK + array(b"\x09\x00\x00"), "cut off"),
        (NETWORK + array() + b"\x00", "ends at byte 7, 1 more follow"),
        (NETWORK + array(b"\x06" + b"\0" * 8), "native number in network order at byte 7"),
        (NETWORK + array(b"\x07" + b"\0" * 8), "native number in network order at byte 7"),
        (NETWORK + array(b"\x24"), "unknown type 0x24 at byte 7"),
        (NETWORK + array(b"\xff"), "unknown type 0xff at byte 7"),
        (NETWORK + array(b"\x21"), "more than 2 GiB at byte 7"),
        (NETWORK + b"\x21", "more than 2 GiB at byte 2"),
        (NETWORK + array(b"\x1a"), "code reference at byte 7"),
        (NETWORK + array(reference(b"\x20")), "regular expression at byte 8"),
        (NETWORK + array(b"\x15"), "element of a tied hash at byte 7"),
        (NETWORK + array(b"\x16"), "element of a tied array at byte 7"),
        (NETWORK + array(array()), "outside a reference at byte 7"),
        (NETWORK + array(b"\x11\x01A" + array()), "outside a reference at byte 7"),
        (NETWORK + array(seen(5)), "isn't there at byte 7"),
        (NETWORK + array(reference(seen(9))), "isn't there at byte 8"),
        (NETWORK + array(seen(0)), "outside a reference at byte 7"),
        (NETWORK + array(reference(seen(0))), "cycle.* at byte 8"),
        (NETWORK + array(reference(seen(1))), "reference to a reference at byte 8"),
        (NETWORK + array(b"\x08\x80", reference(seen(1))), "reference to a scalar at byte 10"),
        (NETWORK + b"\x12\x00" + array(), "class that isn't there at byte 2"),
        (NETWORK + b"\x19\x00\x00\x00\x00\x01\x05\x08" + b"\0" * 5, "key that is a value of its own"),
        (NETWORK + array(b"\x1d\x02v1\x08\x80"), "version string without a string"),
        (NETWORK + b"\x13\x02\x08Bad::Cls", "STORABLE_freeze, of class Bad::Cls, at byte 2"),
        (NETWORK + b"\x13\x02\x05a\nb c", "of class \\(not a Perl name\\), at byte 2"),
        (NETWORK + b"\x13\x06\x00\x00\x00\x03A::" + b"\0" * 5, "not a Perl name"),
        (NETWORK + b"\x13\x42", "STORABLE_freeze at byte 2"),
    ],
)
def test_damaged_and_hostile_data_is_refused_with_its_place(data: bytes, reason: str) -> None:
    with pytest.raises(Untranslatable, match=reason) as caught:
        json_of(data, Serializer.STORABLE)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("item", "value"),
    [
        (b"\x05", None),
        (b"\x0e", None),
        (b"\x1f", None),
        (b"\x0f", True),
        (b"\x10", False),
        (b"\x22", True),
        (b"\x23", False),
        (b"\x08\x00", -128),
        (b"\x08\xff", 127),
        (b"\x0a\x00", ""),
        (b"\x17\x03\xe9\xae\x8e", "鮎"),
        (b"\x18\x00\x00\x00\x03\xe9\xae\x8e", "鮎"),
        (b"\x01\x00\x00\x00\x02hi", "hi"),
        (b"\x1e\x00\x00\x00\x04v1.2\x0a\x02\x01\x02", "\x01\x02"),
    ],
)
def test_every_scalar_takes_one_tag(item: bytes, value: PlainValue) -> None:
    """The shared array is the fourth value: 0 the root, 1 the scalar, 2 the reference, 3 the array."""
    data = NETWORK + array(item, reference(array(b"\x08\x87")), reference(seen(3)))
    assert same(value_of(data), [value, [7], [7]])


@pytest.mark.parametrize("code", [b"\x04", b"\x14", b"\x1b", b"\x1c"])
def test_every_reference_takes_one_tag(code: bytes) -> None:
    data = NETWORK + array(
        reference(array()), code + seen(2), text(b"x"), reference(array(b"\x08\x87")), seen(4), code + seen(6)
    )
    assert value_of(data) == [[], [], "x", [7], "x", [7]]


def test_hash_values_come_before_their_keys_and_placeholders_count() -> None:
    hash_ = (
        b"\x19\x80\x00\x00\x00\x02" + b"\x0e\x10\x00\x00\x00\x04gone" + reference(array()) + b"\x00\x00\x00\x00\x01k"
    )
    data = NETWORK + array(reference(hash_), reference(seen(5)))
    assert value_of(data) == [{"k": []}, []]


def test_keys_in_all_three_encodings() -> None:
    def entry(flags: int, key: bytes) -> bytes:
        return b"\x08\x81" + bytes([flags]) + struct.pack(">I", len(key)) + key

    data = NETWORK + b"\x19\x00\x00\x00\x00\x03" + entry(0, b"a") + entry(1, "鮎".encode()) + entry(2, b"\xe9")
    assert value_of(data) == {"a": 1, "鮎": 1, "é": 1}
    twice = NETWORK + b"\x19\x00\x00\x00\x00\x02" + entry(2, b"\xe9") + entry(0, "é".encode())
    with pytest.raises(Untranslatable, match="the same text at byte"):
        json_of(twice)
    broken = NETWORK + b"\x19\x00\x00\x00\x00\x01" + entry(1, b"\xed\xa0\x80")
    with pytest.raises(Untranslatable, match="surrogate or a character beyond Unicode"):
        json_of(broken, bytes_mode=BytesMode.LATIN1)


def test_of_a_key_that_stands_twice_the_last_counts_as_in_perl() -> None:
    entry = b"\x08%c\x00\x00\x00\x01k"
    data = NETWORK + b"\x03\x00\x00\x00\x02" + entry % 129 + entry % 130
    assert value_of(data) == {"k": 2}
    assert json_of(data).findings == (Finding.DUPLICATE_KEYS,)


def test_class_names_long_and_by_number() -> None:
    long_name = b"\x11\x80" + struct.pack(">I", 200) + b"L" * 200
    data = NETWORK + array(
        reference(long_name + array()),
        reference(b"\x12\x00" + array()),
        reference(b"\x12\x80\x00\x00\x00\x00" + array()),
    )
    assert value_of(data) == [[], [], []]
    with pytest.raises(Untranslatable, match=r"object of class L{200} at byte"):
        json_of(data, blessed=BlessedMode.REJECT)
    unreadable = NETWORK + b"\x11\x07rm -rf/" + array()
    with pytest.raises(Untranslatable, match=r"object of class \(not a Perl name\)"):
        json_of(unreadable, blessed=BlessedMode.REJECT)


@pytest.mark.parametrize(
    ("inner", "value"),
    [
        (b"\x08\x81", True),
        (b"\x08\x80", False),
        (text(b"1"), True),
        (text(b"0"), False),
        (text(b""), False),
        (b"\x0f", True),
    ],
)
@pytest.mark.parametrize("name", [b"JSON::PP::Boolean", b"Types::Serialiser::Boolean", b"boolean"])
def test_boolean_classes(name: bytes, inner: bytes, value: bool) -> None:
    blessed = b"\x11" + bytes([len(name)]) + name + inner
    assert value_of(NETWORK + blessed) is value
    data = NETWORK + array(b"\x14" + blessed, b"\x14" + seen(2))
    assert value_of(data, blessed=BlessedMode.REJECT) == [value, value]
    assert json_of(data).findings == ()


def test_a_boolean_class_with_anything_else_is_an_object() -> None:
    blessed = b"\x11\x11JSON::PP::Boolean" + b"\x08\x85"
    with pytest.raises(Untranslatable, match="reference to a scalar"):
        json_of(NETWORK + array(reference(blessed)))


def nested(levels: int) -> bytes:
    return NETWORK + b"\x02\x00\x00\x00\x01\x04" * (levels - 1) + array()


def test_depth() -> None:
    assert json_of(nested(510)).text == b"[" * 510 + b"]" * 510
    assert json_of(nested(1), max_depth=1).text == b"[]"
    for levels, limit in ((511, 510), (2, 1), (1, 0), (513, 1000)):
        with pytest.raises(Untranslatable, match=f"nested deeper than {min(limit, 512)} levels"):
            json_of(nested(levels), max_depth=limit)
    with pytest.raises(Untranslatable, match="nested deeper than 510"):
        json_of(NETWORK + b"\x02\x00\x00\x00\x01\x04" * 200_000)


def test_shared_references_count_for_depth() -> None:
    """A shared array of depth 3 under two more levels."""
    inner = array(reference(array(reference(array()))))
    data = NETWORK + array(reference(inner), reference(array(reference(array(reference(seen(2)))))))
    assert value_of(data, max_depth=6) == [[[[]]], [[[[[]]]]]]
    with pytest.raises(Untranslatable, match="nested deeper than 5 levels"):
        json_of(data, max_depth=5)


def test_a_billion_laughs_are_refused_in_time_and_memory() -> None:
    body = b"\x02\x00\x00\x00\x02\x04" * 60 + array(text(b"lol"))
    for level in reversed(range(60)):  # tags: array 0, reference 1, array 2, reference 3, …
        body += b"\x04" + seen(2 * (level + 1))
    tracemalloc.start()
    with pytest.raises(Untranslatable, match="grow beyond reason"):
        json_of(NETWORK + body)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_long_string_that_stands_in_many_places_is_bounded_too() -> None:
    long_text = b"\x01" + struct.pack(">I", 100_000) + b"a" * 100_000
    few = NETWORK + array(long_text, *[seen(1)] * 10)
    assert value_of(few) == ["a" * 100_000] * 11
    many = NETWORK + array(long_text, *[seen(1)] * 1000)
    with pytest.raises(Untranslatable, match="grow beyond reason"):
        json_of(many)


def test_shared_data_may_be_copied_up_to_the_bound() -> None:
    row = array(*[b"\x08\x81"] * 1000)
    data = NETWORK + array(reference(row), *[reference(seen(2))] * 1000)
    assert value_of(data) == [[1] * 1000] * 1001


def test_announced_sizes_take_no_memory() -> None:
    data = NETWORK + b"\x02\x7f\xff\xff\xff" + b"\x05" * 100
    tracemalloc.start()
    with pytest.raises(Untranslatable, match="cut off"):
        json_of(data)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()

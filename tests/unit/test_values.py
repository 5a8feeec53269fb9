"""Comparing two values as a worker would see them: stricter than `==`, and without showing any of them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.verify.values import difference

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
NUMBERS = st.integers(-3, 3) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(["1", "0123", "", "true", "null", "1.0"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=10
)


@pytest.mark.parametrize(
    ("expected", "found", "detail"),
    [
        (1, 1.0, "the value: integer became number"),
        (1, True, "the value: integer became boolean"),
        (0, False, "the value: integer became boolean"),
        (1, "1", "the value: integer became string"),
        ("0123", 123, "the value: string became integer"),
        (None, "", "the value: null became string"),
        (None, 0, "the value: null became integer"),
        (None, False, "the value: null became boolean"),
        ({}, [], "the value: object became array"),
        ({}, None, "the value: object became null"),
        ("a", "b", "the value: another string"),
        ("é", "e\u0301", "the value: another string"),
        ("a", "a\0", "the value: another string"),
        (9007199254740993, 9007199254740992, "the value: another integer"),
        (0.1, 0.10000000000000002, "the value: another number"),
        (0.0, -0.0, "the value: another number"),
        (True, False, "the value: another boolean"),
        ([1, 2], [1], "the value: 2 items became 1"),
        ([1, 2], [2, 1], "[1]: another integer"),
        ([None, [1, {"a": ["x"]}]], [None, [1, {"a": ["y"]}]], "[1][1].a[0]: another string"),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, ".a: other keys"),
        ({"a": 1}, {"a": 1, "b": None}, "the value: other keys"),
        ({"a": 1, "b": [1.5]}, {"b": ["1.5"], "a": 1}, ".b[0]: number became string"),
    ],
)
def test_a_difference_is_told_by_its_place_and_kind(expected: object, found: object, detail: str) -> None:
    assert difference(expected, found) == detail


@pytest.mark.parametrize("value", [None, True, 0, -1, 2**70, 1.5, -0.0, "", "鮎", [], {}, [[], {}], {"": [None]}])
def test_a_value_is_the_same_as_its_copy(value: object) -> None:
    assert difference(value, json.loads(json.dumps(value))) is None


def test_the_order_of_keys_makes_no_difference() -> None:
    assert difference({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}) is None


def test_values_nested_deeper_than_pythons_stack_are_compared() -> None:
    deep: object = []
    other: object = [0]
    for _ in range(10_000):
        deep, other = [deep], [other]
    assert difference(deep, deep) is None
    assert str(difference(deep, other)).endswith("[0]: 0 items became 1")


@given(one=VALUES, other=VALUES)
def test_two_values_differ_exactly_when_their_json_does(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (difference(one, other) is None) == same
    assert (difference(other, one) is None) == same


@given(value=VALUES, key=TEXTS, place=st.integers(0, 2))
def test_one_changed_place_is_found_wherever_it_is(value: object, key: str, place: int) -> None:
    for expected, found in (
        ([1, 2, 3], [8 if index == place else index + 1 for index in range(3)]),
        ({"other": [], key: 1}, {"other": [], key: "1"}),
    ):
        assert difference([value, expected], [value, found]) is not None


@given(one=VALUES, other=VALUES)
def test_no_value_is_ever_shown(one: object, other: object) -> None:
    def secret(value: object) -> object:
        """The same shape, every text and number in it one that no message has by chance; keys stay."""
        if isinstance(value, dict):
            return {f"k{place}": secret(item) for place, item in enumerate(value.values())}
        if isinstance(value, list):
            return [secret(item) for item in value]
        if isinstance(value, str):
            return f"secret-{value}"
        return value if isinstance(value, bool) or value is None else 987654321 + len(str(value))

    detail = difference(secret(one), secret(other))
    if detail is not None:
        assert "secret" not in detail
        assert re.search(r"98765\d", detail) is None

"""Comparing what a Resque worker gets with what the Qudo app passed, value for value."""

from __future__ import annotations

from collections.abc import Iterator

#: Integers outside of this are decimal strings in Storable.
_STORABLE_INTEGERS = range(-(2**31), 2**31)


def unlike(expected: object, found: object, *, storable: bool = False) -> list[str]:
    """Where `found` differs, as paths with both values; 1, 1.0, true and "1" are four values.

    `storable`: what Storable holds as text counts as that: floats, and integers over 32 bits.
    """
    return list(_unlike(expected, found, "arg", storable))


def _unlike(expected: object, found: object, path: str, storable: bool) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            yield f"{path}: keys {sorted(expected)} became {sorted(found)}"
        for key in expected.keys() & found.keys():
            yield from _unlike(expected[key], found[key], f"{path}.{key}", storable)
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{path}: {len(expected)} items became {len(found)}"
        for place, (left, right) in enumerate(zip(expected, found, strict=False)):
            yield from _unlike(left, right, f"{path}[{place}]", storable)
    elif storable and _is_text_in_storable(expected) and isinstance(found, str):
        if float(str(expected)) != float(found):
            yield f"{path}: {expected!r} became {found!r}"
    elif type(expected) is not type(found) or expected != found:
        yield f"{path}: {expected!r} became {found!r}"


def _is_text_in_storable(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and value not in _STORABLE_INTEGERS)

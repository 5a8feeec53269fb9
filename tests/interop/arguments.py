"""Arguments that get lost easily on their way, as an app passes them and as its serializer writes them."""

from __future__ import annotations

import json

#: By name; what Perl, Python and JavaScript can all hold.
ARGUMENTS: dict[str, object] = {
    "strings that look like numbers": ["0123", "1e5", "9007199254740993", "-0", "", " "],
    "text": {"鮎": "🐟", "é": "e\u0301", "\u2028": "\u2029\ufeff", "</script>": "\"\\/'"},
    "control characters": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "nothing": [None, {}, [], "", {"": None}, [[]], [{}]],
    "truth": [True, False, "true", 1, 0],
    "integers": [0, -1, 2**31, -(2**31) - 1, 2**32, 2**53, -(2**53)],
    "fractions": [0.1, -0.5, 1e-7, 1.5e300, 5e-324, 1.7976931348623157e308, 0.30000000000000004],
    "names that mean something": {"__proto__": {"a": 1}, "constructor": 1, "length": 0, "toString": "x", "class": "y"},
    "deep": json.loads("[" * 90 + '{"a":[1]}' + "]" * 90),
    "large": {"text": "鮎" * 100_000, "items": list(range(5000))},
    "null": None,
    "a string": "plain",
}


def written(value: object) -> bytes:
    """JSON as JSON::XS writes it: compact, no escapes where none are needed."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def differences(expected: object, found: object, path: str = "arg") -> list[str]:
    """Where two values differ, where numbers are all of one kind, as in JavaScript."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return [each for key in expected for each in differences(expected[key], found[key], f"{path}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            each
            for place, pair in enumerate(zip(expected, found, strict=True))
            for each in differences(*pair, f"{path}[{place}]")
        ]
    if _is_number(expected) and _is_number(found):
        return [] if expected == found else [f"{path}: {expected!r} became {found!r}"]
    same = type(expected) is type(found) and expected == found
    return [] if same else [f"{path}: {expected!r} became {found!r}"]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

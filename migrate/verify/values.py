"""Comparing two decoded values as a worker would see them. Pure.

Stricter than Python's own `==`: 1, 1.0, True and "1" are four values.
"""

from __future__ import annotations


def difference(expected: object, found: object) -> str | None:
    """Where two values of JSON differ, as a path and the kind of difference; None when they are the same.

    Never shows the values themselves: they are job data.
    """
    stack: list[tuple[str, object, object]] = [("", expected, found)]
    while stack:
        path, left, right = stack.pop()
        if type(left) is not type(right):
            return f"{path or 'the value'}: {_kind(left)} became {_kind(right)}"
        if isinstance(left, dict) and isinstance(right, dict):
            if left.keys() != right.keys():
                return f"{path or 'the value'}: other keys"
            stack += [(f"{path}.{key}", value, right[key]) for key, value in left.items()]
        elif isinstance(left, list) and isinstance(right, list):
            if len(left) != len(right):
                return f"{path or 'the value'}: {len(left)} items became {len(right)}"
            stack += [(f"{path}[{i}]", value, right[i]) for i, value in enumerate(left)]
        elif left != right or (isinstance(left, float) and str(left) != str(right)):  # 0.0 == -0.0
            return f"{path or 'the value'}: another {_kind(left)}"
    return None


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)

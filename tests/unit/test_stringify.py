"""JSON as JavaScript writes it; `tests/interop/test_node_resque.py` holds it against Node itself."""

from __future__ import annotations

import pytest

from migrate.resque.stringify import stringify


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{"a": 1, "b" : [ ]}', '{"a":1,"b":[]}'),
        ("[1.0, 1e5, -2.50, 100, 0.1000]", "[1,100000,-2.5,100,0.1]"),
        ("[1e20, 1e21, 1.5e300]", "[100000000000000000000,1e+21,1.5e+300]"),
        ("[123456789012345680000]", "[123456789012345680000]"),
        ("[0.000001, 0.0000001, 1.25e-7, 5e-324]", "[0.000001,1e-7,1.25e-7,5e-324]"),
        ("[9007199254740992, 0, 0.0]", "[9007199254740992,0,0]"),
        (r'["鮎", "\u9b8e", "\/", "\u2028", "\u007f"]', '["鮎","鮎","/","\u2028","\x7f"]'),
        (r'["\u0000\u001F\b\t\n\f\r\"\\"]', r'["\u0000\u001f\b\t\n\f\r\"\\"]'),
        (r'["\uD83D\uDE00", "\uD83D"]', '["😀","\\ud83d"]'),
        ('{"b":1,"10":2,"2":3,"02":4,"4294967294":5,"4294967295":6}',
         '{"2":3,"10":2,"4294967294":5,"b":1,"02":4,"4294967295":6}'),
        ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        ("[null,true,false,{}]", "[null,true,false,{}]"),
    ],
)  # fmt: skip
def test_it_writes_what_javascript_would(text: str, written: str) -> None:
    assert stringify(text.encode()) == written.encode()


@pytest.mark.parametrize("text", ["[9007199254740993]", "[1152921504606846976]", "[1e400]", "[-0]", "[-0.0]"])
def test_it_changes_no_value(text: str) -> None:
    assert stringify(text.encode()) is None


def test_deep_nesting_is_left_alone() -> None:
    assert stringify(b"[" * 100_000 + b"]" * 100_000) is None

"""docs/configuration.md tells every key, with the default that the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from migrate.config import Failures, Route, SourceConfig, TargetConfig

PAGE = Path(__file__).parents[2].joinpath("docs/configuration.md").read_text()


@pytest.mark.parametrize(
    ("heading", "struct"),
    [("[target]", TargetConfig), ("[[source]]", SourceConfig), ("[[route]]", Route), ("[failures]", Failures)],
)
def test_it_tells_each_key_and_its_default(heading: str, struct: type[msgspec.Struct]) -> None:
    table = PAGE.partition(f"**`{heading}`**")[2].partition("**`")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| *(.*?) *\|", table, re.MULTILINE))
    assert told == {field.encode_name: _default(field.default) for field in msgspec.structs.fields(struct)}


def _default(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return ""
    if value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"

"""The Lua scripts: one file each, which states its keys, arguments, result and what is atomic."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def source(name: str) -> str:
    """The text of `<name>.lua`."""
    return (resources.files(__name__) / f"{name}.lua").read_text(encoding="utf-8")

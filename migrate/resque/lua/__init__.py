"""The Lua scripts: one file each, which states its keys, arguments, result and what is atomic."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def source(*names: str) -> str:
    """The text of `<name>.lua`, behind that of the files that it needs before it."""
    folder = resources.files(__name__)
    return "\n".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in names)

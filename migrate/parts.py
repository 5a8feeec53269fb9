"""Any number of things, some at a time: what one statement, one call or one transaction may hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

_Each = TypeVar("_Each")


def in_parts(these: Iterable[_Each], most: int) -> Iterator[list[_Each]]:
    """All of these in their order, at most so many at a time; taken as the parts are asked for."""
    iterator = iter(these)
    while part := list(islice(iterator, most)):
        yield part

"""Waiting for a condition with a deadline: the only way in which tests wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two looks, at first and at most.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.002, 0.05


class TooLate(AssertionError):
    """The deadline passed before the condition held."""


def wait_until(condition: Callable[[], T], timeout_seconds: float = 30.0, what: str = "") -> T:
    """Ask until `condition()` is true and return what it returned. Raises TooLate, naming `what`."""
    deadline = time.monotonic() + timeout_seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise TooLate(f"not within {timeout_seconds:g} s: {what or condition}")
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

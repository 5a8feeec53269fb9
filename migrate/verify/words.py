"""The words of a verification, one meaning each; design and docs/verify.md explain them. Pure."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import msgspec


class Jobs(msgspec.Struct, frozen=True):
    """Jobs by state: each job counts in one of the first thirteen; the integers behind count beside them."""

    in_flight: int = 0
    untranslatable: int = 0
    kept: int = 0
    waiting: int = 0
    not_moved: int = 0
    not_handed_off: int = 0
    returning: int = 0
    working: int = 0
    queued: int = 0
    delayed: int = 0
    failed: int = 0
    consumed: int = 0
    missing: int = 0
    handed_off: int = 0  #: working, queued, delayed, failed, consumed and missing together
    duplicated: int = 0  #: further copies
    mismatched: int = 0
    foreign: int = 0
    native: int = 0
    imported: int = 0
    purged: int = 0
    returned: int = 0

    @classmethod
    def of(cls, counts: Counter[str]) -> Jobs:
        """From counts by word; what was handed off is summed up."""
        return cls(**{**counts, "handed_off": sum(counts[word] for word in HANDED_OFF)})

    @property
    def all(self) -> int:
        """The jobs: each is in one state."""
        return sum(int(getattr(self, word)) for word in STATES)


#: The states in which a job that was handed off can be, and all states.
HANDED_OFF = ("working", "queued", "delayed", "failed", "consumed", "missing")
STATES = ("in_flight", "untranslatable", "kept", "waiting", "not_moved", "not_handed_off", "returning", *HANDED_OFF)
#: What makes the verdict "differences".
DIFFERENCES = ("missing", "duplicated", "mismatched")
#: What is counted beside the states.
BESIDE = ("duplicated", "mismatched", "foreign", "native", "imported", "purged", "returned")


class Kind(StrEnum):
    """What a finding is about."""

    MISSING = "missing"
    DUPLICATED = "duplicated"
    MISMATCHED = "mismatched"
    FOREIGN = "foreign"
    UNTRANSLATABLE = "untranslatable"
    ORDER = "order"  #: stands behind younger jobs of its batch
    ALIKE = "alike"  #: a row of `job` is it in all but the id
    UNEXPLAINED = "unexplained"  #: more jobs are gone than workers have counted

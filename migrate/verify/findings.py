"""What a person should look at, one line a job: a bounded list, everything counted. Pure; safe for several threads."""

from __future__ import annotations

import threading
from collections import Counter

import msgspec

from migrate.verify.words import Kind

#: Findings of each kind that a report lists; further ones are only counted.
CAP = 1000


class Finding(msgspec.Struct, frozen=True):
    """One thing worth a look. `detail` says where it differs, never what the values are, unless that was asked for."""

    kind: Kind
    source: str | None
    id: int | None  #: Qudo's job id
    outbox: str | None  #: the identity
    func: str | None
    detail: str


class Findings:
    """The findings of one verification."""

    def __init__(self, cap: int = CAP) -> None:
        self._cap = cap
        self._lock = threading.Lock()
        self._listed: dict[Kind, list[Finding]] = {kind: [] for kind in Kind}
        self.counts: Counter[Kind] = Counter()

    def add(
        self,
        kind: Kind,
        detail: str,
        *,
        source: str | None = None,
        id: int | None = None,
        outbox: str | None = None,
        func: str | None = None,
    ) -> None:
        """Count it, and list it as long as the list of its kind is short."""
        with self._lock:
            self.counts[kind] += 1
            if len(self._listed[kind]) < self._cap:
                self._listed[kind].append(Finding(kind, source, id, outbox, func, detail))

    def has_room(self, kind: Kind) -> bool:
        """Whether another finding of this kind would be listed."""
        return len(self._listed[kind]) < self._cap

    @property
    def listed(self) -> list[Finding]:
        """All that are listed, by kind, source and id."""
        return [
            each
            for kind in Kind
            for each in sorted(
                self._listed[kind], key=lambda each: (each.source or "", each.id or 0, each.outbox or "", each.detail)
            )
        ]

    @property
    def left_out(self) -> int:
        """How many are counted only."""
        return self.counts.total() - sum(map(len, self._listed.values()))

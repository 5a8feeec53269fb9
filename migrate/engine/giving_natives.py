"""Ends the return of jobs that were born in Resque: into `job`, their uniqkeys free in Redis, then forgotten there.

Behind the same fence as the others; what is cut short, the next rollback ends.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from migrate.engine.natives import Natives
from migrate.failpoints import reach
from migrate.jobs import Identity
from migrate.qudo import returning_native
from migrate.qudo.returning_native import GivenNatives, NativeRow
from migrate.qudo.source import Source
from migrate.resque import taking, unique_keys
from migrate.resque.target import Target
from migrate.resque.unique_keys import spellings

Patiently = Callable[[Callable[[], GivenNatives]], GivenNatives]


class GivingNatives:
    """Of one source."""

    def __init__(
        self, source: Source, target: Target, natives: Natives, counts: Counter[str], patiently: Patiently
    ) -> None:
        """`counts`: jobs, by the words of the result; `patiently` repeats what loses a lock."""
        self._source = source
        self._target = target
        self._natives = natives
        self._counts = counts
        self._patiently = patiently

    def chunk(self, identities: Sequence[Identity]) -> list[Identity]:
        """Return some jobs; those that are in `job` now, their uniqkeys free in Redis."""
        rows = self._natives.on_their_way(identities)
        reach("native.read")
        done = self._given([row for row, _ in rows])
        self._release((row, func) for row, func in rows if row.identity in done)
        reach("native.released")
        self._counts["returned_native"] += len(done)
        return sorted(done)

    def _given(self, rows: Sequence[NativeRow]) -> set[Identity]:
        """Those that are in `job`; where a uniqkey collides, part by part."""
        if not rows:
            return set()
        given = self._patiently(lambda: returning_native.give_back(self._source, rows, self._ask))
        if not given.collided:
            return given.returned
        left = [row for row in rows if row.identity not in given.returned]
        if len(left) == 1:
            self._counts["collided_native"] += 1
            return given.returned
        middle = len(left) // 2
        return given.returned | self._given(left[:middle]) | self._given(left[middle:])

    def _ask(self, identities: Collection[Identity]) -> set[Identity]:
        return {identity for identity, _, _ in taking.natives(self._target, self._source.name, list(identities))}

    def _release(self, returned: Iterable[tuple[NativeRow, str]]) -> None:
        """From now on `job` guards their keys."""
        keys: dict[str, list[str]] = defaultdict(list)
        holders: dict[str, set[str]] = defaultdict(set)
        for row, func in returned:
            if row.job.uniqkey is not None:
                keys[func] += spellings(row.job.uniqkey.decode())
                holders[func].add(row.identity.text)
        for func, of_func in keys.items():
            unique_keys.release_of(self._target, func, of_func, holders[func])

"""Jobs that were handed off and have no outbox row any more: purged, or returned to Qudo by a rollback. Reads only.

A rollback sets a job's bit in `taken` in the script that takes it, and deletes its row once it is in `job`. So who has
no row and was taken has returned, whatever crashed in between, and no counter can disagree.
"""

from __future__ import annotations

from collections.abc import Iterable

from migrate.identities import Identities
from migrate.qudo import returning
from migrate.qudo.source import Source
from migrate.resque import taking
from migrate.resque.target import Target

#: Batches whose bitmaps one round trip reads: 8 KiB each at most.
_BATCHES_PER_READ = 200


def bit(seq: int) -> int:
    """A seq's bit in the bitmaps as integers: as wide as a batch can be, Redis's first bit the highest."""
    return 1 << (65535 - seq)


def as_integer(bitmap: bytes) -> int:
    """A bitmap of Redis's."""
    return int.from_bytes(bitmap.ljust(8192, b"\0"), "big")


class Gone:
    """The rows that one source's outbox doesn't have."""

    def __init__(self, source: Source, target: Target) -> None:
        self._source = source
        self._target = target
        self._absent: dict[int, int] = {}  #: batch -> handed off, without a row; not yet told apart
        self._returned: dict[int, int] = {}  #: batch -> without a row, and taken by a rollback
        self.purged = 0
        self.orphans = 0  #: a purge has deleted their rows while a rollback took them: the next one puts them back

    def add(self, batch: int, absent: int) -> None:
        """Handed off jobs of one batch whose rows are not there, as a bitmap. Call it after the rows were read."""
        if absent:
            self._absent[batch] = absent
            if len(self._absent) >= _BATCHES_PER_READ:
                self._tell_apart()

    def _tell_apart(self) -> None:
        absent, self._absent = self._absent, {}
        for batch, taken in taken_bits(self._target, absent).items():
            returned = absent[batch] & taken
            if returned:
                self._returned[batch] = returned
            self.purged += (absent[batch] & ~taken).bit_count()

    def settle(self) -> None:
        """All batches were added: find those that a rollback has taken and not returned."""
        self._tell_apart()
        if not self._returned:
            return
        # A note in the source is dropped only once Redis has forgotten its job. So who is on its way before and after
        # the notes were read, and has none, had not returned when they were read.
        before = self._on_their_way()
        if not before:
            return
        with self._source.reading() as connection:
            noted = returning.notes(connection)
        after = self._on_their_way()
        for identity in before:
            if identity in after and identity not in noted:
                self._returned[identity.batch] &= ~bit(identity.seq)
                self.orphans += 1

    def _on_their_way(self) -> Identities:
        on_their_way = taking.returning(self._target, self._source.name)
        return Identities(each for each in on_their_way if self._returned.get(each.batch, 0) & bit(each.seq))

    @property
    def returned(self) -> int:
        """Jobs that rollbacks have put back into `job`."""
        return sum(bits.bit_count() for bits in self._returned.values())


def taken_bits(target: Target, batches: Iterable[int]) -> dict[int, int]:
    """Which jobs of these batches a rollback has taken, as it is now."""
    listed = sorted(batches)
    found: dict[int, int] = {}
    for start in range(0, len(listed), _BATCHES_PER_READ):
        part = taking.taken(target, listed[start : start + _BATCHES_PER_READ])
        found.update((batch, as_integer(bitmap)) for batch, bitmap in part.items())
    return found

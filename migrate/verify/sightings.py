"""What one look at Resque has seen, in memory that a million jobs leave small: 8 bytes for each identity. Pure.

A word holds, for one identity: 59 bits of its job's number, whether it was seen more than once, whether its outbox row
has been met, and its place.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping

from migrate.jobs import Identity
from migrate.resque.looking import Place

#: The last seq that a batch may have (see lua/handoff.lua): a larger one is nobody's.
LAST_SEQ = 65535

#: A place's code is its number here, from 1 on; 0: nowhere.
PLACES = (Place.DELAYED, Place.QUEUED, Place.WORKING, Place.FAILED)
PLACE_CODES: Mapping[Place, int] = {place: code for code, place in enumerate(PLACES, start=1)}

PLACE = 0b111
SEVERAL = 0b1000
VISITED = 0b10000


class Batch:
    """The identities of one batch."""

    __slots__ = ("number", "source", "words")

    def __init__(self, number: int, source: str) -> None:
        self.number = number
        self.source = source
        self.words = array("Q")

    def word(self, seq: int) -> int:
        """The word of an identity; 0: not seen."""
        return self.words[seq] if seq < len(self.words) else 0

    def put(self, seq: int, word: int) -> None:
        """Set the word of an identity."""
        words = self.words
        if seq >= len(words):
            room = min(LAST_SEQ + 1, max(seq + 1, 2 * len(words)))
            words.extend([0] * (room - len(words)))
        words[seq] = word

    @property
    def unfound(self) -> Iterator[int]:
        """The seqs that must be somewhere and were seen nowhere."""
        return (seq for seq, word in enumerate(self.words) if word & (PLACE | VISITED) == VISITED)

    @property
    def unvisited(self) -> Iterator[int]:
        """The seqs that were seen, and have no row in the outbox."""
        return (seq for seq, word in enumerate(self.words) if word & PLACE and not word & VISITED)


class Sightings:
    """The identities that one look at Resque has met."""

    def __init__(self) -> None:
        self.batches: dict[str, Batch] = {}  #: by the hex digits that identities begin with
        self.copies: Counter[Identity] = Counter()  #: how often each was seen, of those that were seen several times
        self.late: dict[Identity, str] = {}  #: those that stand behind younger ones of their batch; and in which queue
        self.late_count = 0

    def batch(self, number: int, source: str) -> Batch:
        """The batch, made when first met."""
        name = f"{number:016x}"
        found = self.batches.get(name)
        if found is None:
            found = self.batches[name] = Batch(number, source)
        return found

    def see(self, batch: Batch, seq: int, number: int, code: int) -> None:
        """Note a sighting at the place of this code; the furthest on a job's way counts."""
        word = number | code
        words = batch.words
        if seq >= len(words):
            batch.put(seq, word)
            return
        if words[seq] & PLACE:
            identity = Identity(batch.number, seq)
            self.copies[identity] = max(1, self.copies[identity]) + 1
            word |= SEVERAL
        words[seq] = word


def describe(place: Place, where: str) -> str:
    """A place for people."""
    match place:
        case Place.DELAYED:
            return f"delayed until second {where}"
        case Place.QUEUED:
            return f"in queue {where}"
        case Place.WORKING:
            return f"at work in {where}"
        case Place.FAILED:
            return "among the failures"

"""Sets of identities of any size: a bit for each, so that millions of jobs on their way fit into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from migrate.jobs import Identity


class Identities:
    """A set of identities: up to 8 KiB for each batch, whose seqs are at most 65,535."""

    def __init__(self, these: Iterable[Identity] = ()) -> None:
        self._bits: dict[int, bytearray] = {}  #: by batch; a seq's byte is `seq // 8`
        self._count = 0
        self.update(these)

    def add(self, identity: Identity) -> None:
        """Put it in, if it isn't there yet."""
        batch, seq = identity
        place, bit = seq >> 3, 1 << (seq & 7)
        bits = self._bits.setdefault(batch, bytearray())
        if place >= len(bits):
            bits.extend(bytes(place + 1 - len(bits)))
        if not bits[place] & bit:
            bits[place] |= bit
            self._count += 1

    def update(self, these: Iterable[Identity]) -> None:
        """Put all of these in."""
        for identity in these:
            self.add(identity)

    def discard(self, identity: Identity) -> None:
        """Take it out, if it is there."""
        if identity in self:
            batch, seq = identity
            self._bits[batch][seq >> 3] &= ~(1 << (seq & 7))
            self._count -= 1

    def __contains__(self, identity: Identity) -> bool:
        batch, seq = identity
        bits = self._bits.get(batch, b"")
        return seq >> 3 < len(bits) and bool(bits[seq >> 3] & 1 << (seq & 7))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Identity]:
        """By batch and seq."""
        for batch, seqs in self.by_batch():
            for seq in seqs:
                yield Identity(batch, seq)

    def by_batch(self) -> Iterator[tuple[int, list[int]]]:
        """The seqs of each batch that has any; both ascending."""
        for batch in sorted(self._bits):
            bits = self._bits[batch]
            seqs = [place << 3 | n for place, byte in enumerate(bits) if byte for n in range(8) if byte & 1 << n]
            if seqs:
                yield batch, seqs


class Told:
    """A word for each of many identities."""

    def __init__(self) -> None:
        self._by_word: dict[str, Identities] = {}

    def tell(self, identity: Identity, word: str) -> None:
        """This word, and no other."""
        for other, told in self._by_word.items():
            if other != word:
                told.discard(identity)
        self._by_word.setdefault(word, Identities()).add(identity)

    def is_told(self, identity: Identity, word: str) -> bool:
        """Whether it is this word."""
        return word in self._by_word and identity in self._by_word[word]

    def counts(self) -> Counter[str]:
        """How many have each word."""
        return Counter({word: len(told) for word, told in self._by_word.items()})

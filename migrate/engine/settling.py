"""What one drain has begun and not yet seen end: so that its counts stay exact when an answer is lost.

Pure bookkeeping. Nothing is decided by it: what crosses is decided by the chunk records and the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from migrate.engine.choosing import Prepared
from migrate.engine.results import Tally
from migrate.qudo.outbox import Chunk


class Settling:
    """Counts moves and hand-offs of one drain into its tally, each job once."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._moving: dict[tuple[int, int], Sequence[Prepared]] = {}  #: by batch and lowest seq
        self._pushing: set[tuple[int, int]] = set()  #: batch and lowest seq of what is pushed

    def move_begins(self, chunk: Sequence[Prepared]) -> None:
        """A move of these candidates is about to be sent."""
        self._moving[_key(chunk)] = chunk

    def moved(self, chunk: Sequence[Prepared], seqs: Collection[int]) -> list[Prepared]:
        """The move was answered: these seqs left `job`. Returns them; their push counts as begun."""
        del self._moving[_key(chunk)]
        return self._count(chunk, seqs)

    def _count(self, chunk: Sequence[Prepared], seqs: Collection[int]) -> list[Prepared]:
        gone = [each for each in chunk if each.candidate.seq in seqs]
        self._tally.count_moved((each.func, each.job.queue) for each in gone)
        for each in gone:
            for finding in each.findings:
                self._tally.findings[each.func, finding] += 1
        if gone:
            self._pushing.add(_key(gone))
        return gone

    def pushed(self, gone: Sequence[Prepared], held_back: int) -> None:
        """All of a chunk is in Resque but so many jobs, whoever pushed it: an answer may have been lost before."""
        self._pushing.discard(_key(gone))
        self._tally.handed_off += len(gone) - held_back

    def recovered(self, record: Chunk, pushed: int, held_back: int, read_seqs: Callable[[], Collection[int]]) -> None:
        """Recovery met this chunk and pushed so many of its jobs: count it as this drain's own where it is.

        `read_seqs` reads which seqs the chunk holds; asked only for a move of ours whose answer was lost.
        """
        for key, chunk in list(self._moving.items()):
            if key[0] == record.batch and key[1] <= record.first_seq <= chunk[-1].candidate.seq:
                del self._moving[key]
                self._count(chunk, read_seqs())
        # Where Qudo took back the first rows (MyISAM), the record begins before what is left of the chunk.
        own = {
            (batch, seq)
            for batch, seq in self._pushing
            if batch == record.batch and record.first_seq <= seq <= record.last_seq
        }
        self._pushing -= own
        self._tally.handed_off += record.jobs - held_back if own else pushed


def _key(chunk: Sequence[Prepared]) -> tuple[int, int]:
    return chunk[0].job.identity.batch, chunk[0].candidate.seq

"""Counts of a drain stay exact whatever answers are lost: each job counts once as moved, once as handed off."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from migrate.engine.choosing import Prepared
from migrate.engine.results import Tally
from migrate.engine.settling import Settling
from migrate.jobs import Identity, ResqueJob
from migrate.qudo.moving import Candidate, chunk_of
from migrate.qudo.outbox import Chunk
from migrate.qudo.reading import row_of
from migrate.qudo.serializers import Finding

OTHER_BATCH = 999


def prepared(batch: int, seq: int) -> Prepared:
    row = row_of(f"2 {seq + 1} 0 1 0 0 0 0 N", b"{}")
    job = ResqueJob(Identity(batch, seq), f"queue_{seq % 2}", b"{}", func=f"Func::{seq % 2}")
    findings = (Finding.BIG_INTEGER,) if seq % 3 == 0 else ()
    return Prepared(Candidate(row, seq, 1, unique=False), job, f"Func::{seq % 2}", findings, b"{}")


def chunk(batch: int, seqs: Sequence[int]) -> list[Prepared]:
    return [prepared(batch, seq) for seq in seqs]


def never() -> set[int]:
    raise AssertionError("nobody needs to read the outbox")


# --- one answer lost ------------------------------------------------------------------------------------------------


def test_a_job_that_moves_and_is_pushed_counts_once_as_each() -> None:
    tally = Tally()
    settling = Settling(tally)
    candidates = chunk(1, range(6))
    settling.move_begins(candidates)
    gone = settling.moved(candidates, {0, 1, 2, 5})
    assert [each.candidate.seq for each in gone] == [0, 1, 2, 5]
    assert (tally.moved_total, tally.handed_off) == (4, 0)
    settling.pushed(gone, 0)
    assert (tally.moved_total, tally.handed_off) == (4, 4)
    assert {(each.func, each.queue): each.moved for each in tally.funcs()} == {
        ("Func::0", "queue_0"): 2,
        ("Func::1", "queue_1"): 2,
    }
    assert tally.findings == {("Func::0", Finding.BIG_INTEGER): 1}
    settling.recovered(chunk_of(1, [0, 1, 2, 5]), 0, 0, never)
    assert (tally.moved_total, tally.handed_off) == (4, 4)


def test_a_move_whose_answer_was_lost_counts_once_recovery_meets_it() -> None:
    tally = Tally()
    settling = Settling(tally)
    settling.move_begins(chunk(1, range(6)))
    settling.recovered(chunk_of(1, [1, 2, 4]), 3, 0, lambda: {1, 2, 4})
    assert (tally.moved_total, tally.handed_off) == (3, 3)
    settling.recovered(chunk_of(1, [1, 2, 4]), 0, 0, never)
    assert (tally.moved_total, tally.handed_off) == (3, 3)


def test_a_move_that_never_happened_counts_nothing() -> None:
    tally = Tally()
    settling = Settling(tally)
    settling.move_begins(chunk(1, range(6)))
    settling.recovered(chunk_of(OTHER_BATCH, range(6)), 2, 0, never)
    assert (tally.moved_total, tally.handed_off) == (0, 2)


def test_a_push_whose_answer_was_lost_counts_all_its_jobs_whoever_pushed_them() -> None:
    for pushed_by_recovery in (0, 2, 4):
        tally = Tally()
        settling = Settling(tally)
        candidates = chunk(1, range(4))
        settling.move_begins(candidates)
        settling.moved(candidates, range(4))
        settling.recovered(chunk_of(1, range(4)), pushed_by_recovery, 0, never)
        assert (tally.moved_total, tally.handed_off) == (4, 4)


def test_jobs_of_another_migrator_count_only_as_far_as_this_one_pushed_them() -> None:
    tally = Tally()
    settling = Settling(tally)
    settling.recovered(chunk_of(OTHER_BATCH, range(10)), 3, 0, never)
    settling.recovered(chunk_of(OTHER_BATCH, range(10, 20)), 0, 0, never)
    assert (tally.moved_total, tally.handed_off) == (0, 3)


def test_jobs_that_a_pause_holds_back_count_once_they_are_pushed() -> None:
    tally = Tally()
    settling = Settling(tally)
    candidates = chunk(1, range(5))
    settling.move_begins(candidates)
    settling.pushed(settling.moved(candidates, range(5)), 2)
    assert (tally.moved_total, tally.handed_off) == (5, 3)
    settling.recovered(chunk_of(1, range(5)), 0, 2, never)
    assert (tally.moved_total, tally.handed_off) == (5, 3)
    settling.recovered(chunk_of(1, range(5)), 2, 0, never)
    assert (tally.moved_total, tally.handed_off) == (5, 5)


def test_a_chunk_that_lost_its_first_row_to_qudo_is_still_ones_own() -> None:
    """MyISAM: the record stands under the first copy's seq, also when Qudo took that row back."""
    tally = Tally()
    settling = Settling(tally)
    candidates = chunk(1, range(4))
    settling.move_begins(candidates)
    settling.moved(candidates, {2, 3})
    settling.recovered(Chunk(1, 0, 3, 2, chunk_of(1, [0]).state), 0, 0, never)
    assert (tally.moved_total, tally.handed_off) == (2, 2)


# --- any answers lost -----------------------------------------------------------------------------------------------


class Fate(Enum):
    """What becomes of a request."""

    ANSWERED = "answered"
    DONE_AND_LOST = "done, and the answer lost"
    NEVER_DONE = "never done"


class Round(NamedTuple):
    """One chunk of a drain; after a fault recovery begins, and is itself interrupted so often."""

    rows: int
    stay: int  # how many of the rows changed before they could move
    from_the_front: bool  # those are the first ones
    record_begins_with_them: bool  # MyISAM: the record's range was made before
    move: Fate
    push: Fate
    pushed: int  # of a push that was lost: so many had their bit
    foreign: int  # jobs of another migrator's chunk that appears meanwhile
    foreign_pushed: int
    interruptions: int


ROUNDS = st.builds(
    Round,
    rows=st.integers(1, 6),
    stay=st.integers(0, 6),
    from_the_front=st.booleans(),
    record_begins_with_them=st.booleans(),
    move=st.sampled_from(Fate),
    push=st.sampled_from(Fate),
    pushed=st.integers(0, 6),
    foreign=st.integers(0, 3),
    foreign_pushed=st.integers(0, 3),
    interruptions=st.integers(0, 2),
)


class Drain:
    """The outbox and the ledger as sets, and one drain that counts by `Settling`; jobs with odd seqs may be paused."""

    def __init__(self, *, paused: bool) -> None:
        self._paused = paused
        self.tally = Tally()
        self.settling = Settling(self.tally)
        self.records: dict[Chunk, set[int]] = {}
        self.bits: set[Identity] = set()
        self.own: set[Identity] = set()
        self.foreign_pushed = 0
        self._numbers = itertools.count(1)
        self._batch, self._next = 0, 0

    def round(self, plan: Round) -> None:
        self._foreign_chunk(plan)
        chunk_in_hand = chunk(self._batch, range(self._next, self._next + plan.rows))
        self._next += plan.rows
        self.settling.move_begins(chunk_in_hand)
        if not self._move(plan, chunk_in_hand):
            self._after_fault(plan)

    def _move(self, plan: Round, chunk_in_hand: list[Prepared]) -> bool:
        """Whether all was answered."""
        seqs = [each.candidate.seq for each in chunk_in_hand]
        gone = set(seqs[plan.stay :] if plan.from_the_front else seqs[: max(0, len(seqs) - plan.stay)])
        if plan.move is not Fate.NEVER_DONE and gone:
            record = chunk_of(self._batch, sorted(gone))
            if plan.record_begins_with_them:
                record = record._replace(first_seq=seqs[0], last_seq=seqs[-1])
            self.records[record] = gone
            self.own |= {Identity(self._batch, seq) for seq in gone}
        if plan.move is not Fate.ANSWERED:
            return False
        left = self.settling.moved(chunk_in_hand, gone)
        if not left:
            return True
        if plan.push is not Fate.NEVER_DONE:
            answered = plan.push is Fate.ANSWERED
            free = [each.job.identity for each in left if not self.is_paused(each.job.identity)]
            self.bits.update(free[: None if answered else plan.pushed])
        if plan.push is not Fate.ANSWERED:
            return False
        self.settling.pushed(left, sum(self.is_paused(each.job.identity) for each in left))
        return True

    def is_paused(self, identity: Identity) -> bool:
        return self._paused and identity.seq % 2 == 1

    def _foreign_chunk(self, plan: Round) -> None:
        if plan.foreign:
            batch = 1000 + next(self._numbers)
            seqs = set(range(plan.foreign))
            self.records[chunk_of(batch, sorted(seqs))] = seqs
            self.bits |= {Identity(batch, seq) for seq in range(min(plan.foreign, plan.foreign_pushed))}

    def _after_fault(self, plan: Round) -> None:
        self._batch, self._next = next(self._numbers), 0
        for interruption in range(plan.interruptions):
            self.recover(len(self.records) * (interruption + 1) // 3)
        self.recover()

    def recover(self, loses_answer_at: int | None = None) -> None:
        for place, (record, seqs) in enumerate(self.records.items()):
            lacking = {Identity(record.batch, seq) for seq in seqs} - self.bits
            held_back = {identity for identity in lacking if self.is_paused(identity)}
            self.bits |= lacking - held_back
            if place == loses_answer_at:
                return
            self.settling.recovered(record, len(lacking - held_back), len(held_back), seqs.copy)
            if record.batch >= 1000:
                self.foreign_pushed += len(lacking - held_back)


@given(rounds=st.lists(ROUNDS, max_size=8), paused=st.booleans())
@example(rounds=[Round(3, 1, True, True, Fate.ANSWERED, Fate.DONE_AND_LOST, 2, 0, 0, 0)], paused=False)
@example(rounds=[Round(3, 1, True, True, Fate.DONE_AND_LOST, Fate.ANSWERED, 2, 2, 1, 2)], paused=True)
def test_counts_are_exact_whatever_answers_are_lost(rounds: list[Round], paused: bool) -> None:
    drain = Drain(paused=paused)
    for plan in rounds:
        drain.round(plan)
    drain.recover()
    delivered = sum(not drain.is_paused(identity) for identity in drain.own)
    assert drain.tally.moved_total == len(drain.own)
    assert drain.tally.handed_off == delivered + drain.foreign_pushed
    drain.recover()
    assert drain.tally.handed_off == delivered + drain.foreign_pushed
    assert sum(each.moved for each in drain.tally.funcs()) == len(drain.own)
    assert sum(drain.tally.findings.values()) == sum(identity.seq % 3 == 0 for identity in drain.own)

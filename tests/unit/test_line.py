"""Chunks in a line: whatever fails, they move and are pushed in their order, and nothing passes a chunk that failed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.engine.line import MOST_MOVES, Line
from migrate.errors import Contention, Unavailable
from migrate.qudo.turns import Turn

#: Seconds after which a test that waits has failed.
PATIENCE = 10.0


class Step(NamedTuple):
    """One chunk of a plan."""

    overlaps: bool
    fails: str = ""  #: before_record, before_commit, after_commit, push; "": it doesn't


class Server:
    """What moves and pushes do to it, in their order; the order in which threads get on is left to them."""

    def __init__(self, plan: Sequence[Step]) -> None:
        self.plan = plan
        self.events: list[tuple[str, int]] = []
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()

    def _note(self, what: str, number: int, step: int = 0) -> None:
        with self._lock:
            self.events.append((what, number))
            self.under_way += step
            self.most_under_way = max(self.most_under_way, self.under_way)

    def move(self, number: int, turn: Turn) -> int:
        self._note("begun", number, 1)
        try:
            self._fail_at("before_record", number)
            self._note("recorded", number)
            turn.recorded()
            self._fail_at("before_commit", number)
            turn.before_commit()
            self._note("committed", number)
            self._fail_at("after_commit", number)  # a lost answer
        finally:
            self._note("ended", number, -1)
        return number

    def push(self, number: int) -> None:
        self._fail_at("push", number)
        self._note("pushed", number)

    def _fail_at(self, place: str, number: int) -> None:
        if self.plan[number].fails == place:
            raise Unavailable(f"{place} {number}")

    def of(self, what: str) -> list[int]:
        return [number for kind, number in self.events if kind == what]

    def run(self) -> None:
        with Line(self.move, self.push) as line:
            for number, step in enumerate(self.plan):
                line.make_room(overlaps=step.overlaps)
                line.enter(number, overlaps=step.overlaps)
            line.settle()


plans = st.lists(st.builds(Step, overlaps=st.booleans()), max_size=8)
faults = st.sampled_from(["before_record", "before_commit", "after_commit", "push"])


@given(plan=plans)
@settings(max_examples=50, deadline=None)
def test_all_chunks_move_and_are_pushed_in_their_order(plan: list[Step]) -> None:
    server = Server(plan)
    server.run()
    order = list(range(len(plan)))
    for what in ("begun", "recorded", "committed", "pushed"):
        assert server.of(what) == order
    for number, step in enumerate(plan[1:], start=1):
        if not (step.overlaps and plan[number - 1].overlaps):
            assert server.events.index(("begun", number)) > server.events.index(("ended", number - 1))
    assert server.most_under_way <= MOST_MOVES


@given(plan=plans.filter(bool), data=st.data())
@settings(max_examples=100, deadline=None)
def test_nothing_passes_a_chunk_that_failed(plan: list[Step], data: st.DataObject) -> None:
    faulty = data.draw(st.integers(0, len(plan) - 1))
    fault = data.draw(faults)
    plan[faulty] = plan[faulty]._replace(fails=fault)
    server = Server(plan)
    with pytest.raises(Unavailable, match=f"{fault} {faulty}"):
        server.run()
    moved = list(range(faulty + (fault in ("after_commit", "push"))))
    if fault == "push":  # it was away by then: what has moved meanwhile waits in the outbox
        assert server.of("committed")[: len(moved)] == moved
        assert server.of("committed") == list(range(len(server.of("committed"))))
    else:
        assert server.of("committed") == moved
    assert server.of("pushed") == list(range(faulty))


def test_two_moves_are_under_way_at_a_time() -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    def move(_chunk: int, turn: Turn) -> int:
        turn.recorded()
        both.wait()
        turn.before_commit()
        return 0

    with Line(move, lambda _moved: None) as line:
        for number in (0, 1):
            line.make_room(overlaps=True)
            line.enter(number, overlaps=True)
        line.settle()


def test_a_move_that_was_let_down_says_so() -> None:
    first = Turn()
    second = Turn(first)
    first.ended()
    second.begin()
    with pytest.raises(Contention):
        second.before_commit()
    assert second.let_down
    assert not first.let_down

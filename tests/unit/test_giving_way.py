"""How much of the time a run works beside others on the same server, in a world with a clock of its own."""

from __future__ import annotations

import random

import pytest

from migrate.engine.giving_way import ALLOWED_LOSS, GiveWay

CHUNK_SECONDS = 0.06
#: What the world does before it is judged, and while.
LEARNING_SECONDS, JUDGED_SECONDS = 20, 120


class World:
    """Others' statements a second, without the run and beside it; how long each lasted."""

    def __init__(self, alone: float, beside: float) -> None:
        self._rates = {"rest": alone, "work": beside}
        self._random = random.Random(1)
        self._statements = 0.0
        self.now = 0.0
        self.spent = {"rest": 0.0, "work": 0.0}

    def others(self) -> int:
        return int(self._statements)

    def clock(self) -> float:
        return self.now

    def passes(self, what: str, seconds: float) -> None:
        """A span of work or rest, with the noise that chance brings."""
        mean = self._rates[what] * seconds
        self._statements += max(0.0, self._random.gauss(mean, mean**0.5))
        self.now += seconds
        self.spent[what] += seconds


def share_at_work(alone: float, beside: float) -> float:
    """Share of the time that a run spends at work in such a world, once it knows it."""
    world = World(alone, beside)
    limit = GiveWay(world.others, world.clock)
    for seconds in (LEARNING_SECONDS, JUDGED_SECONDS):
        world.spent = {"rest": 0.0, "work": 0.0}
        until = world.now + seconds
        while world.now < until:
            wait = limit.judge([])
            world.passes("rest" if wait else "work", wait.seconds if wait else CHUNK_SECONDS)
    return world.spent["work"] / (world.spent["work"] + world.spent["rest"])


@pytest.mark.parametrize("beside", [6500, 5000, 2000, 100])
def test_others_lose_no_more_than_is_allowed(beside: float) -> None:
    share = share_at_work(8000, beside)
    assert share * (1 - beside / 8000) < ALLOWED_LOSS * 1.3
    assert share * (1 - beside / 8000) > ALLOWED_LOSS * 0.6, "and it doesn't idle"


@pytest.mark.parametrize(("alone", "beside"), [(0, 0), (8000, 8000), (5000, 5500), (3, 2)])
def test_a_server_whose_others_lose_nothing_is_used(alone: float, beside: float) -> None:
    """Also where there are none, or too few to tell a loss from chance."""
    assert share_at_work(alone, beside) > 0.85


def test_time_in_which_something_else_held_the_run_back_is_no_work() -> None:
    """Else others would seem to lose nothing by it."""
    world = World(8000, 4000)
    limit = GiveWay(world.others, world.clock)
    while world.now < 60:
        wait = limit.judge([])
        world.passes("rest" if wait else "work", wait.seconds if wait else CHUNK_SECONDS)
        if not wait:
            world.passes("rest", 2.0)  # a queue is full
    world.spent = {"rest": 0.0, "work": 0.0}
    until = world.now + 60
    while world.now < until:
        wait = limit.judge([])
        world.passes("rest" if wait else "work", wait.seconds if wait else CHUNK_SECONDS)
    assert 0.05 < world.spent["work"] / 60 < 0.15

"""How long a run waits for a server that fails: growing pauses, up to `--retry-for`, said once, ended by a stop."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.engine.patience import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Patience
from migrate.engine.stopping import Stop
from migrate.errors import Contention, Interrupted, Loading, Unavailable

AWAY = Unavailable("target redis://h: can't be reached")
DEADLOCK = Contention("source main: deadlock")


class FakeStop(Stop):
    """A clock and a stop in one: waiting lets time pass, and notes how much."""

    def __init__(self, stops_at: float = float("inf")) -> None:
        super().__init__()
        self.now = 1000.0
        self.pauses: list[float] = []
        self._stops_at = self.now + stops_at

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now = min(self.now + seconds, self._stops_at)
        if self.now >= self._stops_at:
            self.request()
        return self.requested


def patience(stop: FakeStop, retry_for: float = 300.0, said: list[str] | None = None) -> Patience:
    return Patience(retry_for, stop, ([] if said is None else said).append, lambda: stop.now)


def exhaust(waiting: Patience, error: Unavailable = AWAY) -> None:
    """Fail again and again, up to the end."""
    for _ in range(10_000):
        waiting.failed(error)


def test_pauses_grow_up_to_the_longest() -> None:
    stop = FakeStop()
    waiting = patience(stop)
    for _ in range(10):
        waiting.failed(AWAY)
    longest = [min(FIRST_PAUSE_SECONDS * 2**number, LONGEST_PAUSE_SECONDS) for number in range(10)]
    assert longest[-1] == LONGEST_PAUSE_SECONDS
    assert all(0.7 * limit <= pause <= limit for pause, limit in zip(stop.pauses, longest, strict=True))


def test_two_migrators_do_not_come_back_at_the_same_instants() -> None:
    one, other = FakeStop(), FakeStop()
    for stop in (one, other):
        waiting = patience(stop)
        for _ in range(8):
            waiting.failed(AWAY)
    assert one.pauses != other.pauses


@pytest.mark.parametrize("error", [AWAY, DEADLOCK, Loading("it is loading its data")])
@pytest.mark.parametrize("retry_for", [0.0, 0.05, 1.0, 300.0])
def test_the_error_is_raised_once_the_time_is_over_and_not_much_later(error: Unavailable, retry_for: float) -> None:
    stop = FakeStop()
    with pytest.raises(type(error)) as caught:
        exhaust(patience(stop, retry_for), error)
    assert caught.value is error
    assert retry_for <= stop.now - 1000.0 <= retry_for + 0.1


def test_retry_for_nought_raises_at_once() -> None:
    stop = FakeStop()
    with pytest.raises(Unavailable):
        patience(stop, 0.0).failed(AWAY)
    assert stop.pauses == []


def test_the_time_counts_from_the_first_failure_in_a_row() -> None:
    stop = FakeStop()
    waiting = patience(stop, retry_for=10.0)
    for _ in range(20):
        waiting.failed(AWAY)
        stop.now += 9.0
        waiting.succeeded()
        stop.now += 100.0
    assert stop.now > 2000.0
    assert all(pause <= FIRST_PAUSE_SECONDS for pause in stop.pauses)


def test_what_takes_long_between_two_failures_counts_as_well() -> None:
    stop = FakeStop()
    waiting = patience(stop, retry_for=10.0)
    waiting.failed(AWAY)
    stop.now += 10.0
    with pytest.raises(Unavailable):
        waiting.failed(AWAY)


def test_the_last_pause_ends_when_the_time_does() -> None:
    stop = FakeStop()
    waiting = patience(stop, retry_for=30.0)
    for _ in range(5):
        waiting.failed(AWAY)
    stop.now = 1000.0 + 29.9
    waiting.failed(AWAY)
    assert stop.pauses[-1] <= 0.11 + 1e-9


def test_the_reason_and_the_time_left_are_said_and_that_it_goes_on() -> None:
    stop, said = FakeStop(), list[str]()
    waiting = patience(stop, said=said)
    waiting.succeeded()
    assert said == []
    waiting.failed(AWAY)
    stop.now = 1100.0
    waiting.failed(AWAY)
    waiting.succeeded()
    waiting.succeeded()
    assert said == [f"{AWAY.message}; waiting, 300 s left", f"{AWAY.message}; waiting, 200 s left", ""]


def test_a_deadlock_is_tried_again_without_a_word() -> None:
    stop, said = FakeStop(), list[str]()
    waiting = patience(stop, said=said)
    waiting.failed(DEADLOCK)
    assert said == []
    assert len(stop.pauses) == 1


def test_a_stop_ends_the_waiting_and_keeps_the_cause() -> None:
    stop = FakeStop(stops_at=5.0)
    with pytest.raises(Interrupted) as caught:
        exhaust(patience(stop))
    assert caught.value.__cause__ is AWAY
    assert stop.now == 1005.0


@given(
    retry_for=st.floats(0.0, 1000.0),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0.0, 100.0)), max_size=60),
)
def test_it_gives_up_exactly_when_nothing_has_worked_for_that_long(
    retry_for: float, steps: list[tuple[bool, float]]
) -> None:
    stop = FakeStop()
    waiting = patience(stop, retry_for)
    failing_since: float | None = None
    for works, seconds in steps:
        if works:
            waiting.succeeded()
            failing_since = None
        else:
            since = failing_since = stop.now if failing_since is None else failing_since
            if stop.now - since >= retry_for:
                with pytest.raises(Unavailable):
                    waiting.failed(AWAY)
                return
            waiting.failed(AWAY)
        stop.now += seconds
    assert all(0.0 <= pause <= LONGEST_PAUSE_SECONDS for pause in stop.pauses)


def test_many_short_failures_of_two_servers_do_not_add_up() -> None:
    stop = FakeStop()
    waiting = patience(stop, retry_for=1.0)
    for error in itertools.islice(itertools.cycle([AWAY, DEADLOCK]), 50):
        waiting.failed(error)
        waiting.succeeded()
    assert len(stop.pauses) == 50

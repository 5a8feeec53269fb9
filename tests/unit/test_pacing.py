"""How many rows a move carries: more while moves are quick, fewer at once when one was slow, never past the cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.engine.pacing import DEFAULT_CAP, FEWEST_ROWS, FIRST_ROWS, SMALL_CAP, TARGET_SECONDS, ChunkSize


@pytest.mark.parametrize(
    ("cap", "first"),
    [(DEFAULT_CAP, FIRST_ROWS), (SMALL_CAP, SMALL_CAP), (FIRST_ROWS, FIRST_ROWS), (7, 7), (1, 1), (0, 1), (-5, 1)],
)
def test_it_begins_small_and_never_above_the_cap(cap: int, first: int) -> None:
    assert ChunkSize(cap).rows == first


def test_quick_moves_let_it_grow_up_to_the_cap() -> None:
    size = ChunkSize(2000)
    sizes = []
    while size.rows < 2000:
        sizes.append(size.rows)
        size.took(size.rows, 0.001)
    assert sizes == [500, 625, 781, 976, 1220, 1525, 1906]
    size.took(2000, 0.0)
    assert size.rows == 2000


def test_a_small_cap_is_reached_in_steps_of_fifty() -> None:
    size = ChunkSize(DEFAULT_CAP)
    size.took(500, 1.0)
    assert size.rows == 125
    size.took(125, 0.01)
    assert size.rows == 175


def test_a_slow_move_shrinks_it_at_once() -> None:
    size = ChunkSize(DEFAULT_CAP)
    size.took(500, 2 * TARGET_SECONDS)
    assert size.rows == 250
    size.took(250, 3600.0)
    assert size.rows == 62
    for _ in range(10):
        size.took(size.rows, 3600.0)
    assert size.rows == FEWEST_ROWS


def test_a_cap_below_the_least_is_kept_however_slow_it_is() -> None:
    size = ChunkSize(5)
    size.took(5, 3600.0)
    assert size.rows == 5


@pytest.mark.parametrize("seconds", [0.7 * TARGET_SECONDS, TARGET_SECONDS, 1.5 * TARGET_SECONDS])
def test_a_move_that_takes_about_as_long_as_it_may_changes_nothing(seconds: float) -> None:
    size = ChunkSize(DEFAULT_CAP)
    size.took(500, seconds)
    assert size.rows == 500


def test_a_quick_move_of_few_rows_tells_nothing_of_many() -> None:
    size = ChunkSize(DEFAULT_CAP)
    size.took(400, 0.001)
    assert size.rows == 500
    size.took(450, 0.001)
    assert size.rows == 625


@given(
    cap=st.integers(1, 10_000),
    moves=st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1e6, allow_nan=False)), max_size=50),
)
def test_whatever_moves_take_it_stays_between_the_least_and_the_cap(cap: int, moves: list[tuple[float, float]]) -> None:
    size = ChunkSize(cap)
    for share, seconds in moves:
        size.took(int(size.rows * share), seconds)
        assert min(FEWEST_ROWS, cap) <= size.rows <= cap


def test_the_time_that_a_move_may_take_can_be_another() -> None:
    size = ChunkSize(DEFAULT_CAP, target_seconds=10.0)
    size.took(500, 6.9)
    assert size.rows == 625


def test_parts_leave_nothing_out_whatever_the_size_becomes_meanwhile() -> None:
    size = ChunkSize(cap=5000)
    met: list[int] = []
    sizes = []
    for number, part in enumerate(size.parts(range(3000))):
        met += part
        sizes.append(len(part))
        size.took(len(part), 1.0 if number % 2 else 0.01)  # slow, quick, slow …
    assert met == list(range(3000))
    assert min(sizes[:-1]) < 500 < max(sizes)

"""Parts of `follow` that need no server: the table's end, the memory of what stays, intervals, metrics."""

from __future__ import annotations

import pytest

from migrate.engine.intervals import Interval
from migrate.engine.remaining import Remaining
from migrate.engine.routing import RowState
from migrate.errors import UsageError
from migrate.jobs import Identity
from migrate.metrics import Family, Histogram, Sample, parse_address, render
from migrate.qudo.reading import Row, row_of
from migrate.qudo.watching import TableEnd


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def row(job_id: int, grabbed_until: int = 0) -> Row:
    return row_of(f"2 {job_id} 50 1 {grabbed_until} 50 0 0 N", b"{}")


def test_the_end_follows_what_was_met_with_a_lag() -> None:
    clock = Clock()
    end = TableEnd(10, clock)
    end.met(20)
    at_once = end.may_step
    clock.now += end.LAG_SECONDS
    assert (at_once, end.may_step) == (False, True)
    end.step()
    assert end.after == 10, "what was met just now is still looked at"
    end.step()
    assert end.after == 20
    end.back_to(5)
    assert end.after == 4
    end.met(5)
    end.step()
    end.step()
    assert end.after == 5


def test_a_row_is_known_until_its_header_changes_or_its_time_comes() -> None:
    remaining = Remaining()
    remaining.stays(row(1, 200), RowState.IN_FLIGHT, 260)
    assert remaining.knows(row(1, 200), 259)
    assert not remaining.knows(row(1, 0), 259), "a worker has given it back"
    assert remaining.counts() == {}
    remaining.stays(row(1, 200), RowState.IN_FLIGHT, 260)
    remaining.stays(row(2, 300), RowState.IN_FLIGHT, 360)
    assert remaining.take_due(259) == []
    assert remaining.take_due(260) == [1]
    assert remaining.take_due(300) == []
    assert remaining.counts() == {RowState.IN_FLIGHT: 1}


def test_a_later_time_replaces_an_earlier_one() -> None:
    remaining = Remaining()
    remaining.stays(row(1, 200), RowState.IN_FLIGHT, 260)
    remaining.stays(row(1, 400), RowState.IN_FLIGHT, 460)
    assert remaining.take_due(300) == []
    assert remaining.take_due(460) == [1]


def test_waiters_go_with_their_holder() -> None:
    remaining = Remaining()
    for job_id, holder in ((1, 7), (2, 7), (3, 8)):
        remaining.stays(row(job_id), RowState.WAITING, holder=Identity(holder, 0))
    assert sorted(remaining.holders(9)) == [Identity(7, 0), Identity(8, 0)]
    assert len(remaining.holders(1)) == 1
    assert sorted(remaining.take_waiters([Identity(7, 0), Identity(9, 9)])) == [1, 2]
    assert remaining.holders(9) == [Identity(8, 0)]


def test_a_sweep_forgets_what_it_did_not_meet() -> None:
    remaining = Remaining()
    for job_id in (1, 2):
        remaining.stays(row(job_id), RowState.UNTRANSLATABLE)
    remaining.begin_sweep()
    assert remaining.knows(row(1), 0)
    remaining.stays(row(3), RowState.UNTRANSLATABLE)
    remaining.end_sweep()
    assert [remaining.has_id(job_id) for job_id in (1, 2, 3)] == [True, False, True]


def test_work_takes_its_share_of_the_time() -> None:
    clock = Clock()
    work = Interval(2.0, 0.05, clock)
    assert work.is_due
    clock.now += 0.01
    work.did(clock.now - 0.01)
    assert 1.9 < work.seconds_left <= 2.0
    began = clock.now
    clock.now += 1.0
    work.did(began)
    assert work.seconds_left == pytest.approx(19.0)
    work.did(began, idle_seconds=1.0)
    assert work.seconds_left == pytest.approx(1.0)
    work.hurry()
    assert work.is_due


def test_metrics_are_prometheus_text() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.5, 7):
        histogram.observe(value)
    text = render(
        [
            Family("a_total", "counter", "Jobs.", [Sample({"func": 'x"\\\n'}, 3)]),
            Family("b_seconds", "histogram", "Time.", histogram.samples({"source": "main"})),
        ]
    )
    assert text.splitlines() == [
        "# HELP a_total Jobs.",
        "# TYPE a_total counter",
        'a_total{func="x\\"\\\\\\n"} 3',
        "# HELP b_seconds Time.",
        "# TYPE b_seconds histogram",
        'b_seconds_bucket{source="main",le="0.1"} 1',
        'b_seconds_bucket{source="main",le="1"} 2',
        'b_seconds_bucket{source="main",le="+Inf"} 3',
        'b_seconds_sum{source="main"} 7.6',
        'b_seconds_count{source="main"} 3',
    ]


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:9108", ("127.0.0.1", 9108)), ("9108", ("127.0.0.1", 9108)), ("[::1]:1", ("::1", 1))],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:99999", "host:-1"])
def test_a_wrong_address_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--metrics"):
        parse_address(text)

"""Whom the engine tells: silence says nothing, lines are few and readable by machines, bars show what is awaited."""

from __future__ import annotations

import io
import itertools
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.engine import reporters
from migrate.engine.bars import BarReporter
from migrate.engine.reporters import LineReporter, Reporter


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 5000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(reporters, "time", fake)
    return fake


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        """What has been printed, each redrawn line for itself."""
        return self.getvalue().replace("\r", "\n")


def everything(reporter: Reporter) -> None:
    """All that an engine may say."""
    reporter.source_started("main", 10)
    reporter.advanced("main", 5)
    reporter.waits("main", "down; waiting, 3 s left")
    reporter.waits("main", "")
    reporter.says("a line")
    reporter.source_ended("main")
    reporter.close()


def test_the_base_keeps_silent(capfd: pytest.CaptureFixture[str]) -> None:
    everything(Reporter())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [LineReporter, BarReporter])
def test_nothing_goes_to_stdout(kind: type[LineReporter | BarReporter], capfd: pytest.CaptureFixture[str]) -> None:
    everything(kind())
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "a line" in captured.err


# --- lines ----------------------------------------------------------------------------------------------------------


def test_progress_is_said_now_and_then_with_all_that_was_done(clock: Clock) -> None:
    stream = io.StringIO()
    reporter = LineReporter(stream)
    reporter.source_started("main", 1_000_000)
    for _ in range(100):
        clock.now += 0.99
        reporter.advanced("main", 1234)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 9
    assert lines[0] == "main: 13,574 of about 1,000,000 jobs"
    assert lines[-1] == "main: 122,166 of about 1,000,000 jobs"


def test_each_source_has_its_own_pace(clock: Clock) -> None:
    stream = io.StringIO()
    reporter = LineReporter(stream)
    reporter.source_started("one", 10)
    clock.now += 9
    reporter.source_started("two", 20)
    clock.now += 2
    reporter.advanced("one", 1)
    reporter.advanced("two", 1)
    assert stream.getvalue() == "one: 1 of about 10 jobs\n"


@given(steps=st.lists(st.tuples(st.integers(0, 100), st.floats(0.0, 30.0)), max_size=40))
def test_lines_of_progress_are_never_closer_than_that(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporters, "time", clock)
        said: list[float] = []

        class Noting(LineReporter):
            def says(self, message: str, **fields: object) -> None:
                said.append(clock.now)

        reporter = Noting(io.StringIO())
        reporter.source_started("main", 1)
        for jobs, seconds in steps:
            clock.now += seconds
            reporter.advanced("main", jobs)
    times = [5000.0, *said]
    assert all(later - earlier >= LineReporter.EVERY_SECONDS for earlier, later in itertools.pairwise(times))


def test_a_reason_is_said_once_however_its_numbers_change_and_its_end_when_it_took_long() -> None:
    clock = Clock()
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporters, "time", clock)
        reporter = LineReporter(stream)
        for seconds, source, reason in (
            (0, "main", ""),
            (0, "main", "down; waiting, 300 s left"),
            (1, "main", "down; waiting, 299 s left"),
            (3, "main", ""),
            (0, "main", ""),
            (1, "main", "down; waiting, 300 s left"),  # the same again: not worth a line yet
            (1, "main", ""),  # nor is the end of so short a wait
            (9, "main", "down; waiting, 300 s left"),
            (0, "main", "full; waiting, 9 s left"),
            (0, "other", "full; waiting, 9 s left"),
        ):
            clock.now += seconds
            reporter.waits(source, reason)
    assert stream.getvalue().splitlines() == [
        "main: down; waiting, 300 s left",
        "main: goes on after 4 s",
        "main: down; waiting, 300 s left",
        "main: full; waiting, 9 s left",
        "other: full; waiting, 9 s left",
    ]


def test_as_json_each_line_is_an_object_with_its_time() -> None:
    stream = io.StringIO()
    reporter = LineReporter(stream, as_json=True)
    before = datetime.now(UTC)
    reporter.says('Worker::"Mail" 鮎\n\0[bold]')
    reporter.waits("main", "down")
    one, other = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert set(one) == {"time", "level", "message"}
    assert (other["level"], other["source"]) == ("warning", "main")
    assert one["message"] == 'Worker::"Mail" 鮎\n\0[bold]'
    assert other["message"] == "main: down"
    said_at = datetime.fromisoformat(one["time"])
    assert before - timedelta(seconds=1) <= said_at <= datetime.now(UTC)


def test_lines_of_several_threads_stay_whole() -> None:
    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            return sum(super(Slow, self).write(letter) for letter in text)

    stream = Slow()
    reporter = LineReporter(stream)

    def talk(number: int) -> None:
        for _ in range(50):
            reporter.says(str(number) * 20)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(stream.getvalue().splitlines())) == [str(n) * 20 for n in range(4)]


# --- bars -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def bars(terminal: Terminal) -> Iterator[BarReporter]:
    reporter = BarReporter(terminal)
    yield reporter
    reporter.close()


def bar(reporter: BarReporter, source: str) -> Any:
    return reporter._bars[source]


def test_a_bar_names_the_source_and_counts_its_jobs(bars: BarReporter, terminal: Terminal) -> None:
    bars.source_started("main", 200)
    bars.advanced("main", 50)
    bars.source_ended("main")
    bars.close()
    assert "main:  25%" in terminal.shown
    assert "50/200" in terminal.shown
    assert " jobs" in terminal.shown


def test_a_bar_grows_when_apps_go_on_enqueueing(bars: BarReporter) -> None:
    bars.source_started("main", 100)
    bars.advanced("main", 90)
    bars.advanced("main", 60)
    assert (bar(bars, "main").n, bar(bars, "main").total) == (150, 150)


def test_a_bar_whose_end_is_unknown_only_counts(bars: BarReporter, terminal: Terminal) -> None:
    bars.source_started("main", 0)
    bars.advanced("main", 7)
    bars.source_ended("main")
    assert bar(bars, "main").total is None
    assert "7 jobs" in terminal.shown
    assert "%" not in terminal.shown


def test_the_reason_for_waiting_stands_behind_the_bar_and_goes_again(bars: BarReporter, terminal: Terminal) -> None:
    bars.source_started("main", 100)
    bars.waits("main", "Redis is away; waiting, 299 s left")
    assert "Redis is away; waiting, 299 s left" in terminal.shown
    bars.waits("main", "")
    assert "Redis" not in terminal.shown.splitlines()[-1]


def test_a_source_that_starts_again_keeps_its_bar(bars: BarReporter) -> None:
    bars.source_started("main", 100)
    bars.advanced("main", 10)
    bars.source_started("main", 100)
    assert bar(bars, "main").n == 10


def test_each_source_has_a_line_of_its_own(bars: BarReporter) -> None:
    for name in ("one", "two", "three"):
        bars.source_started(name, 10)
    assert [abs(bar(bars, name).pos) for name in ("one", "two", "three")] == [0, 1, 2]


def test_what_is_said_stands_above_the_bars(bars: BarReporter, terminal: Terminal) -> None:
    bars.source_started("main", 10)
    bars.says("stopping: the batch in hand is finished first")
    assert "stopping: the batch in hand is finished first\n" in terminal.shown


def test_what_is_heard_before_a_source_has_started_is_not_lost(bars: BarReporter, terminal: Terminal) -> None:
    bars.advanced("main", 3)
    bars.source_ended("main")
    bars.waits("main", "")
    assert terminal.shown == ""
    bars.waits("main", "it is loading its data")
    assert terminal.shown == "main: it is loading its data\n"

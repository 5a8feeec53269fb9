"""Commands in the history read as they were typed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from migrate.engine.options import DrainOptions
from migrate.engine.purge import age, parse_age
from migrate.resque.history import Record

Options = dict[str, str | int | float | bool | None]


@pytest.mark.parametrize(
    ("command", "options", "typed"),
    [
        ("run", {}, "run"),
        ("run", {"func": "Worker::*", "purge": True}, "run --func 'Worker::*' --purge"),
        ("run", {"rate": 20000.0}, "run --rate 20000"),  # as older versions noted it
        ("cutover", {"action": "advance", "step": "mirror", "func": "A"}, "cutover advance --func A"),
        (
            "cutover",
            {"action": "set", "step": "switched", "func": "A", "percent": "5"},
            "cutover set switched --func A --percent 5",
        ),
        ("cutover", {"func": "A", "step": "qudo"}, "cutover set qudo --func A"),
        ("recover", {"redis_lost": "hand-off"}, "recover --redis-lost hand-off"),
    ],
)
def test_a_command_reads_as_it_was_typed(command: str, options: Options, typed: str) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert Record(at, command, "me", "here", "1", 0.0, options, {}, 0).command_line == typed


def test_numbers_of_options_are_written_as_numbers_are_typed() -> None:
    given = DrainOptions(rate=1_234_567.0, max_load={"Threads_running": 25.0, "Innodb_x": 0.5}, max_lag=2.5).given()
    assert {key: value for key, value in given.items() if value} == {
        "rate": "1234567/s",
        "max_load": "Threads_running=25,Innodb_x=0.5",
        "max_lag": "2.5",
    }


@pytest.mark.parametrize("text", ["0", "90s", "30m", "12h", "7d", "25h"])
def test_an_age_is_written_as_it_is_read(text: str) -> None:
    assert age(parse_age(text)) == text

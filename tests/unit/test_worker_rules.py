"""The rules of `work` that need no server: retries, pauses, queues, functions, and what a queue's entry says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from migrate import RunningJob, backoff
from migrate.config import Config, parse
from migrate.errors import UsageError
from migrate.resque.dialects import Dialect
from migrate.worker import options, retries
from migrate.worker.functions import Registry
from migrate.worker.payloads import NotAJob, decode, next_try


def running(attempt: int) -> RunningJob:
    return RunningJob("Worker::Mail", [], queue="mail", payload={}, attempt=attempt, max_retries=5)


def config(*routes: str) -> Config:
    text = '[target]\nurl = "redis://127.0.0.1/0"\n' + '[[source]]\nname = "main"\nurl = "sqlite:////x.db"\n'
    return parse(text + "".join(f"[[route]]\n{route}\n" for route in routes), "test", {})


def test_backoff_grows_up_to_its_longest_pause() -> None:
    delay = backoff(10, factor=3, longest=200, jitter=0)
    assert [delay(running(attempt)) for attempt in (1, 2, 3, 4, 5, 1000)] == [10, 30, 90, 200, 200, 200]


def test_backoff_leaves_out_a_random_part_of_each_pause() -> None:
    delay = backoff(100, factor=2, longest=1000, jitter=0.25)
    pauses = [delay(running(2)) for _ in range(500)]
    assert all(150 <= pause <= 200 for pause in pauses)
    assert max(pauses) - min(pauses) > 30


@pytest.mark.parametrize("wrong", [{"first": -1}, {"factor": 0.5}, {"longest": -1}, {"jitter": 2}])
def test_backoff_refuses_what_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="backoff"):
        backoff(**wrong)


def test_the_decorator_is_asked_first_then_the_payload_then_the_route() -> None:
    registry = Registry()
    registry("Worker::Silent")(lambda arg: None)
    registry("Worker::Says", max_retries=0, retry_delay=7, timeout=0)(lambda arg: None)
    route = retries.route_of(config('func = "*"\nmax_retry = 2\nretry_delay = 30\ntimeout = 60'), "Worker::Silent")

    def rules(name: str, **more: Any) -> tuple[object, ...]:
        payload = decode(json.dumps({"class": name, "args": [], **more}).encode())
        return tuple(retries.policy(registry.find(name), payload, route))

    assert rules("Worker::Silent") == (2, 30, 60)
    assert rules("Worker::Silent", max_retry=4) == (4, 30, 60)
    assert rules("Worker::Silent", max_retry="4") == (4, 30, 60)  # as Perl may write it
    assert rules("Worker::Silent", max_retry=0) == (2, 30, 60)
    assert rules("Worker::Says", max_retry=4) == (0, 7, 0)
    assert rules("Worker::Unknown", max_retry=4) == (4, 30, 60)


def test_a_route_is_found_by_the_class_that_it_makes() -> None:
    known = config(
        'func = "Mail::*"\nclass = "Job{func}"\nmax_retry = 1',
        'func = "Worker::Old"\nclass = "New"\nmax_retry = 2',
        'func = "Worker::*"\nmax_retry = 3',
    )
    found = {name: retries.route_of(known, name).max_retry for name in ("JobMail::A", "New", "Worker::B", "Other")}
    assert found == {"JobMail::A": 1, "New": 2, "Worker::B": 3, "Other": 0}


def test_queues_stand_in_their_order_and_globs_stand_for_what_is_there() -> None:
    wanted = options.parse_queues(["mail, thumb", "m*,*,!slow*"])
    assert options.is_dynamic(wanted)
    assert options.expand(wanted, ["zoo", "slow_1", "mail", "more", "a"]) == ["mail", "thumb", "more", "a", "zoo"]


@pytest.mark.parametrize("wrong", ["", " , ", "!mail", "mail:high"])
def test_queues_that_make_no_sense_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="--queues"):
        options.parse_queues([wrong])


def test_a_class_has_one_function() -> None:
    registry = Registry()
    registry("Worker::Mail")(backoff)
    registry("Worker::Mail")(backoff)  # its module was imported twice
    with pytest.raises(UsageError, match="two functions"):
        registry("Worker::Mail")(running)
    with pytest.raises(TypeError, match="name the Resque class"):
        registry(running)  # type: ignore[arg-type]  # @job without its parentheses
    with pytest.raises(UsageError, match="negative"):
        registry("Worker::Other", max_retries=-1)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[1]",
        b"{}",
        b'{"class":5}',
        b'{"class":"A","args":{}}',
        b'{"class":"A","args":[NaN]}',
        b'{"class":"A"}{}',
        b'{"class":"A"',
    ],
)
def test_a_text_that_is_no_job_is_told_without_its_data(text: bytes) -> None:
    with pytest.raises(NotAJob) as caught:
        decode(text)
    assert "NaN" not in str(caught.value)


def test_space_around_a_job_is_nothing() -> None:
    assert decode(b' \n{"class":"A","args":[1]}\n').args == [1]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_next_try_carries_the_very_arguments(dialect: Dialect) -> None:
    args = b'[9007199254740993, 1.0, "\\u9b8e", {"b":1,"a":2}]'
    payload = decode(b'{"class":"A","start_time":5,"args":' + args + b',"qudo":{"retry_cnt":2},"extra":1}')
    assert payload.retries == 2
    texts = next_try(payload, "mail", 5, dialect)
    assert args in texts.queued
    assert args in texts.delayed
    again = decode(texts.queued)
    assert (again.retries, again.value["extra"], again.value["qudo"]) == (3, 1, {"retry_cnt": 2})
    assert "start_time" not in again.value
    assert decode(texts.delayed).value["queue"] == "mail"

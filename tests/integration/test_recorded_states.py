"""What we leave in Redis, key by key beside what the real Resques left there for the same jobs (tests/data/resque)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.working import Pool
from tests.qudo_app import enqueue, func_id
from tests.resque_app import Resque
from tests.servers import MariaDBDatabase, RedisServer
from tests.servers.command import Cli

RECORDED = Path(__file__).parents[1] / "data" / "resque"

#: The second of the recorded retry, and one that is to come.
PAST, COMING = "1795408522", "4102444700"

State = dict[str, dict[str, Any]]


def recorded(name: str) -> State:
    """A whole Redis: key to type and value."""
    text = (RECORDED / f"{name}_resque.json").read_text(encoding="utf-8")
    state: State = json.loads(text.replace(PAST, COMING))
    return state


def state_of(client: Any) -> State:
    """The same of a live one, without our own keys."""
    state: State = {}
    for key in sorted(client.scan_iter()):
        if b":qudo_migrate:" in key:
            continue
        kind = client.type(key).decode()
        value: object = None
        if kind == "list":
            value = [text.decode() for text in client.lrange(key, 0, -1)]
        elif kind == "set":
            value = sorted(member.decode() for member in client.smembers(key))
        elif kind == "zset":
            value = [[member.decode(), score] for member, score in client.zrange(key, 0, -1, withscores=True)]
        elif kind == "string":
            value = client.get(key).decode()
        state[key.decode()] = {"type": kind, "value": value}
    return state


def delayed_part(state: State) -> State:
    """The delayed layout."""
    prefixes = ("resque:delayed:", "resque:delayed_queue_schedule", "resque:timestamps:")
    return {key: entry for key, entry in state.items() if key.startswith(prefixes)}


def test_the_delayed_layout_is_resque_schedulers_key_by_key(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    theirs = delayed_part(recorded("ruby"))
    for key, entry in theirs.items():
        if key.startswith("resque:delayed:"):
            for text in entry["value"]:
                job = json.loads(text)
                arg = json.dumps(job["args"], separators=(",", ":")).encode()
                job_id = enqueue(innodb, job["class"], arg, run_after=3600)
                innodb.execute("UPDATE job SET run_after = %s WHERE id = %s", [key.rpartition(":")[2], job_id])
    write_config([innodb], {"url": redis_server.url, "dialect": "ruby"}, [{"func": "*", "args": "spread"}])

    run()

    ours = state_of(resque.client)
    assert len(theirs) == 7
    assert delayed_part(ours) == theirs
    assert ours.keys() == theirs.keys()


def test_queues_and_failures_have_the_types_and_fields_of_perls_resque(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    theirs = recorded("perl")
    later, again = (json.loads(text) for text in theirs["resque:queue:mail"]["value"])
    (died,) = (json.loads(text) for text in theirs["resque:failed"]["value"])
    early = enqueue(innodb, "My::Mail", json.dumps(later["args"]).encode(), run_after=3600)
    innodb.execute("UPDATE job SET run_after = %s WHERE id = %s", [later["start_time"], early])
    enqueue(innodb, "My::Retried", json.dumps(again["args"]).encode())
    innodb.insert(
        "INSERT INTO exception_log (func_id, message, arg, exception_time)"
        f" VALUES (%s, {innodb.arg((died['error'] + died['backtrace'][0]).encode())},"
        f" {innodb.arg(json.dumps(died['payload']['args']).encode())}, %s)",
        [func_id(innodb, "My::Boom"), innodb.now()],
    )
    routes: list[dict[str, object]] = [
        {"func": "My::Mail", "queue": "mail", "args": "spread", "delayed": "start_time"},
        {"func": "My::Retried", "class": "My::Mail", "queue": "mail", "args": "spread", "max_retry": 3},
        {"func": "My::Boom", "queue": "boom", "args": "spread"},
    ]
    write_config([innodb], redis_server, routes)

    run()

    ours = state_of(resque.client)
    shared = {"resque:queue:mail", "resque:queues", "resque:failed"}
    assert ours.keys() == shared
    assert {key: ours[key]["type"] for key in shared} == {key: theirs[key]["type"] for key in shared}
    for mine, real in zip(ours["resque:queue:mail"]["value"], (later, again), strict=True):
        assert _filled(json.loads(mine)) == real
    (failure,) = (json.loads(text) for text in ours["resque:failed"]["value"])
    assert {key: type(value) for key, value in failure.items()} == {key: type(value) for key, value in died.items()}
    assert _filled(failure["payload"]) == died["payload"]
    assert failure["queue"] == died["queue"]


AT_WORK = """
@job("My::Mail")
@job("Mail")
def mail(*args):
    note("mail")
    time.sleep(60)


@job("My::Boom")
@job("Boom")
def boom(number):
    raise ValueError("no such user 鮎")
"""


@pytest.mark.parametrize("dialect", ["perl", "ruby"])
def test_workers_of_ours_are_written_down_as_theirs(
    dialect: str, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, cli: Cli
) -> None:
    theirs = recorded(dialect)
    (note,) = (json.loads(theirs[key]["value"]) for key in theirs if re.fullmatch("resque:worker:.*:mail", key))
    died = json.loads(theirs["resque:failed"]["value"][0])
    write_config({"main": "sqlite:////nowhere.db"}, {"url": redis_server.url, "dialect": dialect})
    pool = Pool(cli, resque.client, AT_WORK)
    pool.start("--no-fork", "--no-scheduler", queues="boom,mail")
    for queue, payload in (("boom", died["payload"]), ("mail", note["payload"])):
        resque.client.rpush(f"resque:queue:{queue}", json.dumps(payload))
    pool.wait_ran("mail")

    ours = state_of(resque.client)

    (worker,) = ours["resque:workers"]["value"]
    assert re.fullmatch(r"[^:]+:\d+:boom,mail", worker)
    about = {f"resque:{key}" for key in (f"worker:{worker}", f"worker:{worker}:started", "stat:processed")}
    counted = {f"resque:stat:{key}" for key in ("failed", f"failed:{worker}", f"processed:{worker}")}
    assert ours.keys() - {"resque:workers:heartbeat"} == {"resque:workers", "resque:failed"} | about | counted
    job = json.loads(ours[f"resque:worker:{worker}"]["value"])
    assert {key: job[key] for key in ("queue", "payload")} == {key: note[key] for key in ("queue", "payload")}
    assert _form(job["run_at"]) == _form(note["run_at"])
    started = next(entry["value"] for key, entry in theirs.items() if key.endswith(":started"))
    assert _form(ours[f"resque:worker:{worker}:started"]["value"]) == _form(started)
    (failure,) = map(json.loads, ours["resque:failed"]["value"])
    assert {key: type(value) for key, value in failure.items()} == {key: type(value) for key, value in died.items()}
    assert _form(failure["failed_at"]) == _form(died["failed_at"])
    assert [failure[key] for key in ("payload", "queue", "error")] == [
        died[key] for key in ("payload", "queue", "error")
    ]
    assert failure["worker"] == worker


def _form(time_text: str) -> str:
    """How a time is written: its digits as one."""
    return re.sub(r"\d", "0", time_text)


def _filled(payload: dict[str, Any]) -> dict[str, Any]:
    """A payload of ours with what Perl's Resque writes for keys that it finds lacking, and without our own."""
    known = {key: value for key, value in payload.items() if key != "qudo"}
    return {"max_retry": 0, "retry_count": 0, "start_time": None, **known}

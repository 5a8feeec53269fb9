"""`qudo-migrate work` and signals: restarts with new code, pauses, ends, and what a service manager hears of it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from redis import Redis

from tests.conftest import WriteConfig
from tests.integration.working import Pool, children, title, worker_of
from tests.servers import Database, RedisServer
from tests.servers.command import Cli
from tests.servers.waiting import wait_until

CODE = "first"
APP = """
@job("Worker::Mail")
def mail(arg):
    note("first", "mail", arg)


@job("Worker::Sleeps", max_retries=1, retry_delay=60)
def sleeps(arg):
    note("first", "sleeps", os.getpid())
    while not Path("{go}").exists():
        time.sleep(0.01)
    note("first", "slept")


@job("Worker::Deaf")
def deaf(arg):
    note("first", "deaf", os.getpid())
    while True:
        try:
            time.sleep(60)
        except BaseException:
            note("first", "heard")
"""


@pytest.fixture
def pool(cli: Cli, redis_server: RedisServer, redis: Redis, sqlite: Database, write_config: WriteConfig) -> Pool:
    write_config([sqlite], redis_server)
    return Pool(cli, redis, app(cli))


def app(cli: Cli, code: str = CODE) -> str:
    return APP.replace('"first"', f'"{code}"').replace("{go}", str(cli.folder / "go"))


def sleeper(pool: Pool) -> int:
    """The pid of the child in which the job sleeps."""
    wait_until(lambda: pool.ran, 10, "it sleeps")
    return int(pool.ran[-1].split()[2])


def test_hup_restarts_with_new_code_and_lets_jobs_in_hand_end(pool: Pool, cli: Cli, tmp_path: Path) -> None:
    """Deployed as many are: a symbolic link is set to the new release. The service manager hears of each step."""
    releases = [tmp_path / name for name in ("first", "broken", "second")]
    current = tmp_path / "current"
    for release, code in zip(releases, (app(cli), "raise ValueError('no good')", app(cli, "second")), strict=True):
        release.mkdir()
        pool.write(code, release)
    (cli.folder / "shop_jobs.py").unlink()
    current.symlink_to(releases[0])

    def deploy(release: Path) -> None:
        current.unlink()
        current.symlink_to(release)
        command.send(signal.SIGHUP)

    def hear(what: bytes) -> None:
        while not manager.recv(4096).startswith(what):
            pass

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        cli.env |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        command = pool.start("--chdir", str(current), workers=2)
        for word in (b"READY=1", b"STATUS=2 of 2 workers; 0 jobs done, 0 failures", b"WATCHDOG=1", b"WATCHDOG=1"):
            hear(word)
        pool.push("Worker::Sleeps")
        old = worker_of(sleeper(pool))
        assert old in pool.workers

        deploy(releases[1])
        hear(b"RELOADING=1\nMONOTONIC_USEC=")
        hear(b"READY=1")
        assert "the new code failed its trial" in command.stderr
        assert "no good" in command.stderr
        pool.push("Worker::Mail", 1)
        wait_until(lambda: pool.ran[1:] == ["first mail 1"], 10, "the old code goes on")

        deploy(releases[2])
        hear(b"RELOADING=1")
        hear(b"READY=1")
        hear(b"WATCHDOG=1")
        wait_until(lambda: len(pool.workers) == 3, 10, "two are new, and one has a job in hand")
        assert old in pool.workers
        pool.push("Worker::Mail", 2)
        wait_until(lambda: pool.ran[2:] == ["second mail 2"], 10, "the new code runs")
        (cli.folder / "go").touch()
        wait_until(lambda: pool.ran[3:] == ["first slept"], 10, "the old job ends with its own code")
        wait_until(lambda: len(pool.workers) == 2, 10, "the old worker goes")
        assert old not in pool.workers
        assert pool.failures == []
        assert pool.end(command, signal.SIGTERM) == {"command": "work", "done": 3, "failed": 0}
        hear(b"STOPPING=1")


def test_workers_are_always_there_while_they_are_replaced(pool: Pool) -> None:
    command = pool.start(workers=2)
    before = pool.workers
    command.send(signal.SIGHUP)
    seen = []
    wait_until(lambda: seen.append(pool.workers) or (len(seen[-1]) == 2 and not seen[-1] & before), 20, "both are new")  # type: ignore[func-returns-value]
    assert min(len(each) for each in seen) == 2


def test_usr1_ends_the_job_in_hand_and_the_worker_goes_on(pool: Pool) -> None:
    pool.push("Worker::Sleeps")
    command = pool.start()
    worker = worker_of(sleeper(pool))
    command.send(signal.SIGUSR1)
    wait_until(lambda: pool.failures, 10, "it is on record")
    assert "SIGUSR1" in pool.failures[0]["error"]
    assert "retried_at" in pool.failures[0]
    pool.push("Worker::Mail", 1)
    wait_until(lambda: pool.ran[1:] == ["first mail 1"], 10, "the next job runs")
    assert pool.workers == {worker}


def test_usr2_holds_all_workers_and_cont_lets_them_go_on(pool: Pool, redis: Redis) -> None:
    """Those that begin meanwhile, too: in the place of one that died, and with new code."""
    command = pool.start(workers=2)
    command.send(signal.SIGUSR2)
    command.wait_for("work: pauses")
    held = pool.workers
    wait_until(lambda: all("Paused" in title(pid) for pid in held), 10, "both know")
    os.kill(min(held), signal.SIGKILL)
    wait_until(lambda: len(pool.workers - held) == 1 and len(pool.workers) == 2, 20, "another takes its place")
    command.send(signal.SIGHUP)
    wait_until(lambda: len(pool.workers) == 2 and not pool.workers & held, 20, "both are new")
    pool.push("Worker::Mail", 1)
    time.sleep(0.5)  # fifty times what a worker needs
    assert redis.llen("resque:queue:mail") == 1
    command.send(signal.SIGCONT)
    wait_until(lambda: pool.ran == ["first mail 1"], 10, "it runs")


def test_term_kills_the_job_in_hand_and_its_failure_is_on_record(pool: Pool, redis: Redis) -> None:
    pool.push("Worker::Sleeps")
    pool.push("Worker::Mail", 1)
    command = pool.start()
    child = sleeper(pool)
    assert pool.end(command, signal.SIGTERM) == {"command": "work", "done": 0, "failed": 1}
    assert not Path(f"/proc/{child}").exists()
    assert [failure["exception"] for failure in pool.failures] == ["Killed"]
    assert "SIGTERM" in pool.failures[0]["error"]
    assert redis.zcard("resque:delayed_queue_schedule") == 1  # its route allows a retry
    assert redis.llen("resque:queue:mail") == 1  # the next one was not begun
    assert pool.workers == set()


def test_a_second_term_ends_at_once_what_does_not_heed_the_first(pool: Pool, redis: Redis) -> None:
    pool.push("Worker::Deaf")
    command = pool.start("--no-fork")
    wait_until(lambda: pool.ran, 10, "it runs")
    command.send(signal.SIGTERM)
    wait_until(lambda: pool.ran[1:] == ["first heard"], 10, "it has heard")
    assert command.running
    pool.end(command, signal.SIGTERM)
    assert pool.failures == []
    next_one = pool.start()
    wait_until(lambda: pool.failures, 10, "the next pool puts it on record")
    assert pool.failures[0]["exception"] == "DirtyExit"
    pool.end(next_one)


def test_term_reaches_workers_that_have_just_begun(pool: Pool, cli: Cli) -> None:
    """A worker that was forked and doesn't handle signals yet must not miss its end."""
    command = cli.start("work", "--queues", "mail", "--app", "shop_jobs", "--workers", "6")
    wait_until(lambda: len(children(command.pid)) > 1, 10, "the first is there, beside the template")
    command.send(signal.SIGTERM)
    assert command.wait(5).status == 0
    assert pool.workers == set()


def test_term_in_the_middle_of_a_fork_is_not_lost_on_the_template(pool: Pool) -> None:
    """What a handler raises inside a hook of os.fork is printed and forgotten: the template would stay for ever."""
    pool.write("""
POOL = os.getpid()
job("Mail")(note)


def told_while_it_forks():
    if os.getppid() == POOL:
        note("the template has forked")
        os.kill(os.getpid(), signal.SIGTERM)


os.register_at_fork(after_in_parent=told_while_it_forks)
""")
    command = pool.start()
    assert pool.ran == ["the template has forked"]
    result = pool.end(command, signal.SIGTERM)
    assert (result["done"], result["failed"]) == (0, 0)
    assert "Traceback" not in command.stderr

"""Qudo's worker classes under Perl's Resque with scripts/perl: the launcher, the module, their signals.

Resque itself comes from CPAN, and Debian has no package of it: these tests run against perl/lib/Resque.pm, a stand-in
of its documented methods. RESQUE_PERL_LIB=<lib of the real one> runs them with that.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from migrate import Enqueuer
from migrate.resque.dialects import Dialect
from migrate.resque.steps import KeyGuard, Step
from migrate.worker.payloads import decode, next_try
from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.integration.dualwriting import FUNC, configured, put_step
from tests.interop.peers import FOLDER
from tests.qudo_app import enqueue
from tests.resque_app import Resque
from tests.servers import Database, RedisServer, wait_until
from tests.servers.binaries import missing, need_program
from tests.servers.command import Cli
from tests.servers.guard import GUARD
from tests.servers.waiting import TooLate

PERL = FOLDER / "perl"
SCRIPTS = FOLDER.parent.parent / "scripts" / "perl"
STAND_IN = os.environ.get("RESQUE_PERL_LIB", str(PERL / "lib"))

#: In Debian: libmoose-perl libclass-load-perl libredis-perl libjson-perl libjson-xs-perl libparallel-prefork-perl
MODULES = ("Moose", "Class::Load", "Redis", "JSON", "JSON::XS", "Parallel::Prefork")


class Launcher:
    """scripts/perl/resque-prefork, and what its jobs have noted."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._notes = folder / "notes"
        self._log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, **env: str) -> None:
        """Start two workers on the queue mail and wait until they are there."""
        command = [need_program("perl"), str(SCRIPTS / "resque-prefork"), "--redis", self._server.url]
        command += ["--queues", "mail", "--workers", "2", "--include", str(PERL / "app"), "--interval", "0.05"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options],
                env={**os.environ, "PERL5LIB": STAND_IN, "RAN": str(self._notes), **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        GUARD.kill_at_end(self.process.pid)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ends(self, number: signal.Signals) -> None:
        """Send it a signal after which it must end well."""
        self.send(number)
        assert self.process is not None
        assert self.process.wait(20) == 0, self._log.read_text()

    def kill(self) -> None:
        """All of it, at once."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process is not None:
            GUARD.spare(self.process.pid)

    @property
    def notes(self) -> list[list[Any]]:
        if not self._notes.exists():
            return []
        return [json.loads(line) for line in self._notes.read_text().rpartition("\n")[0].splitlines()]

    def noted(self, name: str, count: int = 1) -> list[list[Any]]:
        """The notes of that name, once there are so many."""

        def found() -> list[list[Any]]:
            notes = [note for note in self.notes if note[0] == name]
            return notes if len(notes) >= count else []

        try:
            return wait_until(found, 20, f"{count} notes {name}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.notes}\n{self._log.read_text()}") from None


@pytest.fixture(scope="session")
def perl_modules() -> None:
    perl = need_program("perl")
    for module in MODULES:
        if subprocess.run([perl, f"-M{module}", "-e", "1"], capture_output=True).returncode:
            missing(f"Perl's {module}")


@pytest.fixture
def launcher(perl_modules: None, redis_server: RedisServer, tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(redis_server, tmp_path)
    yield launcher
    launcher.kill()


def push(redis: Redis, name: str, *args: object, **more: object) -> None:
    redis.sadd("resque:queues", "mail")
    redis.rpush("resque:queue:mail", json.dumps({"class": name, "args": args, **more}))


def failures(resque: Resque, count: int) -> list[dict[str, Any]]:
    """All failures, once there are so many."""
    wait_until(lambda: len(resque.failed()) >= count, 20, f"{count} failures")
    found = resque.failed()
    assert len(found) == count
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# Text of every kind that Perl's own JSON would write otherwise.
ARG = b'{"s":"0123","n":0.30000000000000004,"big":123456789012345678901234, "t":"\\u9b8e","e":[{},[],null,"\\"]"]}'


def test_a_job_from_qudo_runs_and_is_tried_again_as_it_was(
    sqlite: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run, launcher: Launcher
) -> None:
    job_id = enqueue(sqlite, "Worker::Mail", ARG, "welcome-1", priority=5)
    write_config([sqlite], redis_server, [{"func": "*", "queue": "mail"}])
    run()
    (before,) = resque.queue("mail")
    launcher.start()
    first, second = launcher.noted("mail", 2)
    assert first[1:6] == [0, job_id, "welcome-1", "main", 5]
    assert second[1:6] == [1, job_id, "welcome-1", "main", 5]
    assert first[6] == second[6]
    (failure,) = resque.failed()
    assert failure["payload"] == before.payload
    assert failure["retried_at"], "it is history: the job was put back"
    assert (failure["error"], failure["queue"]) == ("the first time", "mail")
    (text,) = cast("list[bytes]", resque.client.lrange("resque:failed", 0, -1))
    assert b'"args":[' + ARG + b"]" in text
    wait_until(lambda: not resque.client.keys("resque:worker:*:mail"), what="it is over")
    launcher.ends(signal.SIGQUIT)
    assert resque.jobs() == []
    assert resque.client.smembers("resque:workers") == set()


def test_a_uniqkey_that_redis_holds_is_free_when_the_job_is_over(
    sqlite: Database, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run, launcher: Launcher
) -> None:
    write_config([sqlite], redis_server)
    run()  # binds the two
    put_step(redis_server, Step.RESQUE, guard=KeyGuard.REDIS)
    keys = ["Größe ", "K", "ﬁé鮎"]
    with Enqueuer(configured({"main": sqlite}, redis_server, {"func": FUNC, "queue": "mail"})) as jobs:
        for key in keys:
            jobs.enqueue(FUNC, None, uniqkey=key)
        held = resque.key(f"qudo_migrate:unique:{FUNC}")
        assert resque.client.hlen(held) == 3
        launcher.start()
        assert {note[3] for note in launcher.noted("mail", 6)} == set(keys)
        wait_until(lambda: not resque.client.exists(held), what="all are free")
    launcher.ends(signal.SIGQUIT)


def test_rules_of_qudos_classes(
    redis: Redis,
    resque: Resque,
    cli: Cli,
    redis_server: RedisServer,
    sqlite: Database,
    write_config: WriteConfig,
    launcher: Launcher,
) -> None:
    write_config([sqlite], redis_server)
    cli.start("schedule").wait_for("schedule: leads")  # moves what is delayed
    for name in ("Fails", "Aborts", "Forgets", "Exits", "Unknown"):
        push(redis, f"Worker::{name}", None)
    push(redis, "Worker::Forgets", 1, max_retry="1")  # the class doesn't say how often: the route does
    push(redis, "Worker::Fails", "as often as qudo", qudo={"source": "main", "retry_cnt": 2})
    push(redis, "Worker::Slow", {"deaf": 0})
    push(redis, "Worker::Slow", {"deaf": 1})
    push(redis, "Worker::Plain", "dies")
    push(redis, "Worker::Forgets", "early", start_time=4_000_000_000)
    redis.rpush("resque:queue:mail", "nonsense", "[1]", '{"class":"Worker::Plain","args":[true]}')
    push(redis, "Worker::Chains")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(cli.folder / "notify"))
        systemd.settimeout(20)
        launcher.start("--grace", "0.5", "--queue-of", "Worker::Plain=mail", NOTIFY_SOCKET=str(cli.folder / "notify"))
        assert b"READY=1" in systemd.recv(1000)

    found = failures(resque, 15)

    told = Counter((each["payload"]["class"], each["exception"], "retried_at" in each) for each in found)
    assert told == {
        ("Worker::Fails", "Qudo::Job", True): 2,
        ("Worker::Fails", "Qudo::Job", False): 2,
        ("Worker::Aborts", "Qudo::Abort", False): 1,
        ("Worker::Forgets", "Qudo::Job", True): 1,
        ("Worker::Forgets", "Qudo::Job", False): 2,
        ("Worker::Exits", "DirtyExit", False): 1,
        ("Worker::Unknown", "Resque::Failure::Job", False): 1,
        ("Worker::Slow", "TimedOut", False): 2,
        ("Worker::Plain", "Resque::Failure::Job", False): 1,
        ("", "NotAJob", False): 2,
    }
    errors = {each["payload"]["class"]: (each["error"], each["backtrace"]) for each in found}
    assert errors["Worker::Fails"] == ("it fails with 鮎", ["here"])
    assert errors["Worker::Aborts"][0] == "never again"
    assert errors["Worker::Forgets"][0] == "Job did not explicitly complete or fail"
    assert errors["Worker::Slow"][0] == "took longer than 1 s (grab_for)"
    assert "Worker/Unknown.pm" in errors["Worker::Unknown"][0]
    launcher.noted("plain", 4)
    assert sorted(str(note[1]) for note in launcher.notes if note[0] == "plain") == [
        "True",
        "dies",
        "enqueued",
        "replaced",
    ]
    assert [note[1] for note in launcher.notes if note[0] == "fails"] == [0, 2, 1, 2]
    assert all(gone(note[1]) for note in launcher.notes if note[0] == "slow")
    later, early = sorted(resque.delayed().items())
    assert later[1][0].payload == {"class": "Worker::Plain", "args": ["later"], "queue": "mail"}
    assert early[0] == 4_000_000_000
    assert early[1][0].payload == {"class": "Worker::Forgets", "args": ["early"], "queue": "mail"}
    wait_until(lambda: redis.get("resque:stat:processed") == b"20", what="all are counted")
    assert redis.get("resque:stat:failed") == b"15"
    launcher.ends(signal.SIGTERM)


def test_workers_in_python_take_its_retries_for_their_own(redis: Redis, resque: Resque, launcher: Launcher) -> None:
    push(redis, "Worker::Fails", 0.30000000000000004, qudo={"source": "main", "outbox": "00ab-1"})
    (before,) = resque.queue("mail")
    launcher.start()
    wait_until(lambda: resque.delayed(), 20, "the retry waits")
    ((second, (job,)),) = resque.delayed().items()
    launcher.ends(signal.SIGTERM)
    assert 0 <= second - time.time() <= 2
    ours = next_try(decode(before.text), "mail", 2, Dialect.PERL)
    assert json.loads(ours.delayed) == job.payload
    assert job.text.startswith(ours.delayed.partition(b',"qudo"')[0]), "one spelling of what both delay"
    assert decode(job.text).retries == 1


def test_kills_and_signals(redis: Redis, resque: Resque, launcher: Launcher) -> None:
    launcher.start()
    slept = 0

    def sleeps(seconds: float) -> None:
        push(redis, "Worker::Sleeps", {"seconds": seconds})

    def workers() -> set[str]:
        return {name.decode() for name in cast("set[bytes]", redis.smembers("resque:workers"))}

    def ended_once(exception: str, count: int) -> None:
        """A failure that was tried again, and the second try's end."""
        nonlocal slept
        slept += 1
        launcher.noted("slept", slept)
        wait_until(lambda: not redis.keys("resque:worker:*:mail"), what="it is over")
        last = failures(resque, count)[-1]
        assert (last["exception"], "retried_at" in last) == (exception, True)

    sleeps(60)
    os.kill(launcher.noted("sleeps", 1)[-1][2], signal.SIGKILL)  # the job's process
    ended_once("DirtyExit", 1)

    sleeps(60)
    _, _, job, worker = launcher.noted("sleeps", 3)[-1]
    os.kill(worker, signal.SIGKILL)  # the job dies with it; another worker takes its place and finds its note
    ended_once("DirtyExit", 2)
    assert gone(job)

    sleeps(60)
    launcher.noted("sleeps", 5)
    launcher.send(signal.SIGUSR1)
    ended_once("DirtyExit", 3)

    launcher.send(signal.SIGUSR2)
    before = workers()
    os.kill(int(sorted(before)[0].split(":")[1]), signal.SIGTERM)
    wait_until(lambda: len(workers() - before) == 1, what="another takes its place")
    sleeps(0)
    with pytest.raises(TooLate):  # neither of them takes it
        wait_until(lambda: not redis.llen("resque:queue:mail"), 0.3)
    launcher.send(signal.SIGCONT)
    slept += 1
    launcher.noted("slept", slept)

    sleeps(1)
    launcher.noted("sleeps", 8)
    before = workers()
    launcher.send(signal.SIGHUP)
    slept += 1
    launcher.noted("slept", slept)
    wait_until(lambda: len(workers()) == 2 and not workers() & before, what="both are fresh")

    sleeps(1)
    launcher.noted("sleeps", 9)
    launcher.ends(signal.SIGQUIT)
    assert [note[0] for note in launcher.notes][-1] == "slept"
    assert len(resque.failed()) == 3

    launcher.start()
    sleeps(60)
    launcher.noted("sleeps", 10)
    launcher.ends(signal.SIGTERM)
    failures(resque, 4)
    assert [job.payload["retry_count"] for job in resque.queue("mail")] == [1]
    assert redis.keys("resque:worker:*") == []


ARGUMENTS_OF = r"""
    use Resque::Plugin::Qudo; use Resque::Plugin::Qudo::Attempt; use JSON;
    Resque::Plugin::Qudo->configure(spread => ['Spread::*'], bytes => { 'Raw' => 'utf8', 'Latin*' => 'latin1' });
    my @payloads = map { { class => $_->[0], args => $_->[1] } } @{ JSON->new->utf8->decode($ARGV[0]) };
    my @found = map { Resque::Plugin::Qudo::Attempt->new(payload => $_)->arg } @payloads;
    print JSON->new->ascii->encode(\@found);
"""

#: Class, args, what Qudo's worker had; a byte string is shown as characters up to 255.
ARGS: list[tuple[str, list[object], object]] = [
    ("Mail", [{"n": "0123"}], {"n": "0123"}),
    ("Mail", [None], None),
    ("Mail", [[1, 2]], [1, 2]),
    ("Mail", [1, 2], [1, 2]),
    ("Mail", [], []),
    ("Spread::Mail", [[1]], [[1]]),
    ("Spread::Mail", ["a"], ["a"]),
    ("Mail", ["鮎"], "鮎"),
    ("Raw", ["鮎"], "鮎".encode().decode("latin-1")),
    ("Raw", [{"é": ["é", 1, None, True]}], {"Ã©": ["Ã©", 1, None, True]}),
    ("Latin::Raw", ["é"], "é"),
    ("Latin::Raw", ["Ã©"], "Ã©".encode().decode("latin-1")),  # as bytes it would have been UTF-8, and have become é
    ("Latin::Raw", ["鮎"], "鮎".encode().decode("latin-1")),
]


def test_arg_is_what_qudos_worker_had(perl_modules: None) -> None:
    asked = json.dumps([(name, args) for name, args, _ in ARGS])
    found = subprocess.run(
        [need_program("perl"), f"-I{SCRIPTS / 'lib'}", "-e", ARGUMENTS_OF, asked],
        env={**os.environ, "PERL5LIB": STAND_IN},
        capture_output=True,
        check=True,
    )
    assert json.loads(found.stdout) == [arg for _, _, arg in ARGS]

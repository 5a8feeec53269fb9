"""`Enqueuer` in a web server that forks: made and used before the fork, workers that are killed and replaced."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from migrate.resque.steps import Step
from tests.conftest import WriteConfig
from tests.integration.dualwriting import FUNC, put_step, queued
from tests.resque_app import Resque
from tests.servers import MariaDBDatabase, RedisServer, wait_until
from tests.servers.command import Cli
from tests.servers.process import Server

APP = f"""
import os
from migrate import Enqueuer

jobs = Enqueuer.from_config(os.environ["QUDO_MIGRATE_CONFIG"])
jobs.enqueue("{FUNC}", {{"n": 0}})  # connections and identities that are the parent's

def app(environ, start_response):
    receipt = jobs.enqueue("{FUNC}", {{"n": int(environ["QUERY_STRING"])}})
    start_response("200 OK", [])
    return [f"{{os.getpid()}} {{receipt.step}}".encode()]
"""


class Gunicorn(Server):
    """Two workers of four threads each, forked from a master that has loaded the app."""

    def __init__(self, app_folder: Path) -> None:
        self._app_folder = app_folder
        super().__init__()

    def command(self) -> list[str]:
        options = [
            "--preload",
            "--workers",
            "2",
            "--threads",
            "4",
            "--bind",
            f"127.0.0.1:{self.port}",
            "--no-control-socket",
        ]
        return [sys.executable, "-m", "gunicorn", *options, "--chdir", str(self._app_folder), "web:app"]

    def is_ready(self) -> bool:
        try:
            self.ask("")  # no number: the app fails, and has answered
        except urllib.error.HTTPError:
            return True
        except (OSError, HTTPException):
            return False
        return True

    def forget_connections(self) -> None:
        """None is kept."""

    def ask(self, query: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/?{query}", timeout=20) as answer:
            text: bytes = answer.read()
            return text.decode()


@pytest.fixture
def gunicorn(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Gunicorn]:
    pytest.importorskip("gunicorn")
    config = write_config({"main": innodb}, redis_server)
    put_step(redis_server, Step.SWITCHED)
    monkeypatch.setenv("QUDO_MIGRATE_CONFIG", str(config))
    tmp_path.joinpath("web.py").write_text(APP)
    server = Gunicorn(tmp_path)
    try:
        yield server.start()
    finally:
        server.close()


def test_each_accepted_job_is_there_once_whatever_becomes_of_the_workers(
    gunicorn: Gunicorn, resque: Resque, cli: Cli
) -> None:
    numbers = itertools.count(1)
    accepted: dict[int, int] = {}  # number of the job -> the worker that took it
    unknown: set[int] = set()  # the worker died before it could answer
    enough = threading.Event()

    def browse() -> None:
        while not enough.is_set():
            number = next(numbers)
            try:
                pid, step = gunicorn.ask(str(number)).split()
                accepted[number] = int(pid)
                assert step == "switched"
            except (OSError, HTTPException):
                unknown.add(number)

    browsers = [threading.Thread(target=browse) for _ in range(4)]
    for browser in browsers:
        browser.start()
    try:
        wait_until(lambda: len(set(accepted.values())) == 2, 20, "both workers have answered")
        killed = next(iter(accepted.values()))
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(set(accepted.values())) == 3, 20, "another worker is in its place")
        os.kill(gunicorn.pid, signal.SIGHUP)
        wait_until(lambda: len(set(accepted.values())) >= 5, 20, "all workers are new ones")
        living = set(list(accepted.values())[-1:])
        followed = cli("cutover", "show", "--json").json()
    finally:
        enough.set()
        for browser in browsers:
            browser.join()

    assert living <= {each["pid"] for each in followed["processes"]}
    gunicorn.stop()
    assert cli("run", "--json").status == 0  # brings over what a killed worker had written and not handed off
    there = Counter(_number(payload) for payload in queued(resque))
    assert set(accepted) | {0} <= there.keys() <= set(accepted) | {0} | unknown
    assert set(there.values()) == {1}


def _number(payload: Any) -> int:
    return int(payload["args"][0]["n"])

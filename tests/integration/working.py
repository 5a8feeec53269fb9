"""A `qudo-migrate work` that a test talks to."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from pathlib import Path
from typing import Any

from redis import Redis

from tests.schemas import check
from tests.servers.command import Cli, RunningCommand
from tests.servers.waiting import wait_until

#: What every app of these tests begins with: `note` writes one line to the file `ran`, whole whoever else writes.
NOTE = """
import asyncio, os, signal, time
from pathlib import Path
from migrate import Abort, RunningJob, backoff, current_job, job


def note(*words):
    line = " ".join(map(str, words)) + "\\n"
    with open("{folder}/ran", "ab") as file:
        file.write(line.encode())
"""


class Pool:
    """A pool that runs, and what it has done."""

    def __init__(self, cli: Cli, redis: Redis, app: str, namespace: str = "resque") -> None:
        self._cli = cli
        self._redis = redis
        self._namespace = namespace
        self.write(app)

    def write(self, app: str, folder: Path | None = None) -> None:
        """The app's module, for the next start or HUP."""
        text = NOTE.replace("{folder}", str(self._cli.folder)) + app
        ((folder or self._cli.folder) / "shop_jobs.py").write_text(text)

    def start(self, *options: str, workers: int = 1, queues: str = "mail,*") -> RunningCommand:
        """Start one and wait until all its workers take jobs."""
        command = self._cli.start(
            "work", "--queues", queues, "--app", "shop_jobs", "--json", "--workers", str(workers), *options
        )
        command.wait_for("workers are ready")
        return command

    def end(self, command: RunningCommand, number: signal.Signals = signal.SIGQUIT) -> dict[str, Any]:
        """Stop it; what it printed, checked by its schema."""
        command.send(number)
        result = command.wait(20)
        assert result.status == 0, result.stderr
        document: dict[str, Any] = json.loads(result.stdout)
        check(document, "work")
        return document

    def push(self, name: str, arg: Any = None, queue: str = "mail", **more: Any) -> None:
        """As any client of Resque does."""
        self._redis.sadd(f"{self._namespace}:queues", queue)
        self._redis.rpush(f"{self._namespace}:queue:{queue}", json.dumps({"class": name, "args": [arg], **more}))

    def depose(self) -> None:
        """Take the lead from the scheduler that has it: the next one needn't wait until its lease ends."""
        self._redis.delete(f"{self._namespace}:qudo_migrate:scheduler")

    def wait_ran(self, *lines: str, timeout: float = 20.0) -> None:
        """Until the jobs have written these lines, in this order."""
        wait_until(lambda: tuple(self.ran[: len(lines)]) == lines, timeout, f"{lines} have run, not {self.ran}")

    @property
    def ran(self) -> list[str]:
        """The lines that jobs have written."""
        path = self._cli.folder / "ran"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def failures(self) -> list[Any]:
        """Resque's list."""
        texts: Any = self._redis.lrange(f"{self._namespace}:failed", 0, -1)
        return [json.loads(text) for text in texts]

    @property
    def workers(self) -> set[int]:
        """The pids of the workers that are registered."""
        members: Any = self._redis.smembers(f"{self._namespace}:workers")
        return {int(each.split(b":")[1]) for each in members}


def parent(pid: int) -> int:
    """Of a process that runs: who started it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def worker_of(child: int) -> int:
    """The worker whose job runs in this process; its fork server, which is the parent, tells by its title."""
    found = re.search(r"Forks for worker (\d+)", title(parent(child)))
    assert found, title(parent(child))
    return int(found[1])


def children(pid: int) -> list[int]:
    """The processes that it has started and that still run; none when it has ended itself."""
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += (thread / "children").read_text().split()
    return [int(each) for each in found]


def title(pid: int) -> str:
    """What `ps` shows; "" when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""

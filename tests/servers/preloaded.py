"""Commands without their start: one process has imported `migrate` and forks a child for each command.

Starting Python and importing takes some 0.4 s of CPU, which a thousand tests would pay. The child is a process of its
own all the same: it can be signalled, stopped and killed, ends as Python ends, and is the tests' process's to wait for.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from tests.servers.guard import GUARD

_PR_SET_CHILD_SUBREAPER = 36

#: What changes with the start of Python or of a module, and so asks for a process that really starts.
_AT_START = ("PYTHON", "LD_", "QUDO_MIGRATE_FAILPOINTS")


def can_run(env: Mapping[str, str]) -> bool:
    """Whether a command with this environment of its own behaves forked as it would when started."""
    return not any(name.startswith(_AT_START) for name in env) and "QUDO_MIGRATE_FAILPOINTS" not in os.environ


class Command(NamedTuple):
    """What to run, where, and the files that take its output."""

    arguments: Sequence[str]
    folder: str
    env: Mapping[str, str]
    out: str
    err: str


class ForkedCommand:
    """A child, with the methods of a Popen that tests need."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None
        self._ends = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit status (a signal's number negated), or None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                os.close(self._ends)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status once it has ended. Raises TimeoutExpired after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._ends], [], [], left)[0]:
                raise subprocess.TimeoutExpired("qudo-migrate", timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """A signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Preloaded:
    """The process that forks. Started at the first command; methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Command) -> ForkedCommand:
        """Fork a child that runs the command in a session of its own."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._begin()
            assert self._process is not None
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(command._asdict()).encode() + b"\n")
            return ForkedCommand(int(self._process.stdout.readline()))

    def _begin(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.preloaded"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        GUARD.kill_at_end(self._process.pid)


PRELOADED = Preloaded()


def serve() -> Command:
    """The forking process's life. Returns in each child, with what it shall run; ends when the tests do."""
    for line in sys.stdin:
        told, tell = os.pipe()
        between = os.fork()
        if not between:
            if os.fork():
                os._exit(0)  # the child has lost its parent: it is given to the tests' process
            os.setsid()
            os.write(tell, b"%d" % os.getpid())
            os.close(told)
            os.close(tell)
            return Command(**json.loads(line))
        os.close(tell)
        pid = os.read(told, 20)
        os.close(told)
        os.waitpid(between, 0)
        os.write(1, pid + b"\n")
    os._exit(0)


def become(command: Command) -> None:
    """Be the process that `python -m migrate` would have been."""
    os.chdir(command.folder)
    os.environ.clear()
    os.environ.update(command.env)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, (path, mode) in enumerate([(os.devnull, os.O_RDONLY), (command.out, flags), (command.err, flags)]):
        opened = os.open(path, mode, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["qudo-migrate", *command.arguments]


def main() -> NoReturn:
    """Import, then serve."""
    # Ctrl-C at a terminal is for the tests' process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import sqlalchemy.dialects.mysql.pymysql
    import sqlalchemy.dialects.sqlite.pysqlite  # noqa: F401

    from migrate.cli import app
    from migrate.cli import main as run_command
    from migrate.errors import MigrateError

    with contextlib.suppress(MigrateError):  # parsing imports some more
        app(["where", "a:1", "--config", os.devnull], standalone_mode=False)
    become(serve())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status: object = None
    try:
        run_command()
    except SystemExit as ended:
        status = ended.code
    if not isinstance(status, int | None):
        sys.exit(str(status))
    # Taking the interpreter apart would cost more than most commands do. (Other exceptions end it as ever.)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


if __name__ == "__main__":
    main()

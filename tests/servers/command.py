"""The real command line, run in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers.databases import Database
from tests.servers.guard import GUARD
from tests.servers.preloaded import PRELOADED, Command, ForkedCommand, can_run
from tests.servers.redis import RedisServer
from tests.servers.waiting import wait_until

#: Seconds that a command may take unless told otherwise.
COMMAND_SECONDS = 120.0

#: The checkout, which the command is imported from.
_ROOT = Path(__file__).parents[2]


class CommandResult(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)


class RunningCommand:
    """A command that runs. Its output goes to files, so it never blocks for want of a reader."""

    def __init__(self, arguments: Sequence[str], folder: Path, env: Mapping[str, str], number: int) -> None:
        self._out = folder / f"stdout.{number}"
        self._err = folder / f"stderr.{number}"
        self.arguments = arguments
        whole = {**os.environ, "PYTHONPATH": str(_ROOT), "NO_COLOR": "1", **env}
        self._process: subprocess.Popen[bytes] | ForkedCommand
        for output in (self._out, self._err):
            output.touch()  # whoever looks before the child has opened them finds nothing yet
        if can_run(env):
            for path in (self._out, self._err):
                path.touch()  # the child opens them when it comes to it; who reads before finds them empty
            self._process = PRELOADED.start(
                Command(arguments, str(folder), whole, str(self._out.resolve()), str(self._err.resolve()))
            )
        else:
            self._process = self._really_start(folder, whole)
        GUARD.kill_at_end(self._process.pid)

    def _really_start(self, folder: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self._out.open("wb") as out, self._err.open("wb") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "migrate", *self.arguments],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, also that of its process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it hasn't ended."""
        return self._process.poll() is None

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._out.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        """What it has complained about so far."""
        return self._err.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal (not its children)."""
        self._process.send_signal(number)

    def wait(self, timeout: float = COMMAND_SECONDS) -> CommandResult:
        """Its end; raises TooLate with its output when it takes longer."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"qudo-migrate {' '.join(self.arguments)}: not over within {timeout:g} s\n{self.stdout}\n{self.stderr}"
            ) from None
        GUARD.spare(self.pid)
        return CommandResult(status, self.stdout, self.stderr)

    def wait_for(self, text: str, timeout: float = 30.0) -> None:
        """Until `text` stands in its output. Raises AssertionError when it ends or takes longer without."""

        self.wait_until(lambda: text in self.stdout or text in self.stderr, timeout, f"printing {text!r}")

    def wait_until(self, condition: Callable[[], object], timeout: float = 30.0, what: str = "") -> None:
        """Until `condition()` is true while it runs. Raises AssertionError when it ends before, or takes longer."""

        def holds() -> bool:
            ended = not self.running
            found = bool(condition())
            assert found or not ended, f"ended before {what or condition}\n{self.stdout}\n{self.stderr}"
            return found

        wait_until(holds, timeout, f"{what} during qudo-migrate {' '.join(self.arguments)}")

    def kill(self) -> CommandResult:
        """SIGKILL to it and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        GUARD.spare(self.pid)
        return CommandResult(status, self.stdout, self.stderr)


class Cli:
    """Runs `qudo-migrate` in one folder: `cli("run", "--json").json()`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: More environment for each command.
        self.env: dict[str, str] = {}
        self._started: list[RunningCommand] = []

    def __call__(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> CommandResult:
        """Run to the end."""
        return self.start(*arguments).wait(timeout)

    def start(self, *arguments: str) -> RunningCommand:
        """Start and return at once; what still runs when the test ends is killed."""
        command = RunningCommand(arguments, self.folder, self.env, len(self._started))
        self._started.append(command)
        return command

    def kill_all(self) -> None:
        """End what still runs."""
        for command in self._started:
            if command.running:
                command.kill()


def toml(
    sources: Mapping[str, Database | str],
    target: RedisServer | str | Mapping[str, object],
    routes: Sequence[Mapping[str, object]] = (),
    failures: Mapping[str, object] | None = None,
) -> str:
    """The text of a qudo-migrate.toml."""
    lines = ["[target]", *_pairs(_target(target))]
    for name, source in sources.items():
        url = source.url if isinstance(source, Database) else source
        lines += ["", "[[source]]", *_pairs({"name": name, "url": url})]
    for route in routes:
        lines += ["", "[[route]]", *_pairs(route)]
    if failures is not None:
        lines += ["", "[failures]", *_pairs(failures)]
    return "\n".join(lines) + "\n"


def _target(target: RedisServer | str | Mapping[str, object]) -> Mapping[str, object]:
    if isinstance(target, RedisServer):
        return {"url": target.url}
    return {"url": target} if isinstance(target, str) else target


def _pairs(values: Mapping[str, object]) -> list[str]:
    return [f"{key} = {_toml_value(value)}" for key, value in values.items()]


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_pairs(value)) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, RedisServer):
        return _toml_value(value.url)
    # JSON's strings, numbers and booleans are TOML's too, except for one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

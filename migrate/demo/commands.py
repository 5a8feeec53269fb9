"""Runs the real `qudo-migrate` in the demo's folder, for all to see or in silence, to the end or to a violent one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import migrate
from migrate.errors import MigrateError

#: Exit statuses of a command that did its work: 1 says that something needs a person, as it does in this shop.
DONE = (0, 1)
#: Seconds that one command may take.
COMMAND_SECONDS = 600.0
#: Seconds between two looks whether it is time to kill.
LOOK_SECONDS = 0.001


class CommandFailed(MigrateError):
    """A command of the demo ended as none should."""


class Commands:
    """Commands that run in one folder, one after the other."""

    def __init__(self, folder: Path, *, visible: bool, options: Sequence[str] = ()) -> None:
        """`visible`: their output goes where ours goes. `options` come before each command's name."""
        self._folder = folder
        self._visible = visible
        self._options = options

    def run(self, *arguments: str) -> int:
        """Run to the end. Returns the exit status, 0 or 1; raises CommandFailed for any other."""
        with self._started(arguments) as process:
            output, _ = process.communicate(timeout=COMMAND_SECONDS)
        if process.returncode not in DONE:
            raise self._failed(arguments, process.returncode, output)
        return process.returncode

    def kill_when(self, condition: Callable[[], bool], *arguments: str) -> bool:
        """Start, and send SIGKILL once the condition holds. Returns False when the command was quicker than that."""
        with self._started(arguments) as process:
            while process.poll() is None and not condition():
                time.sleep(LOOK_SECONDS)
            process.kill()
            output, _ = process.communicate()
        if process.returncode >= 0 and process.returncode not in DONE:
            raise self._failed(arguments, process.returncode, output)
        return process.returncode < 0

    @contextmanager
    def _started(self, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A running command, which doesn't outlive the block."""
        # The very package that runs here, wherever it was imported from: the folder is another.
        package = str(Path(migrate.__file__).parents[1])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", "migrate", *self._options, *arguments],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=None if self._visible else subprocess.PIPE,
            stderr=None if self._visible else subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _failed(self, arguments: Sequence[str], status: int, output: bytes | None) -> CommandFailed:
        last = (output or b"").decode(errors="replace").strip().splitlines()[-1:]
        said = f": {last[0]}" if last else ""
        return CommandFailed(f"`qudo-migrate {' '.join(arguments)}` ended with status {status}{said}")

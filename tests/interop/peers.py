"""Other implementations of Resque as processes, and how they get onto this machine: once, beside their lock files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests.servers.binaries import in_ci, need_program
from tests.servers.guard import GUARD
from tests.servers.waiting import wait_until

FOLDER = Path(__file__).parent
NODE, PYRES = FOLDER / "node", FOLDER / "pyres"
#: Where pyres is put: its dependencies but redis, which we have, are optional.
PYRES_PACKAGES = PYRES / ".venv"

#: Seconds that an installation may take.
INSTALL_SECONDS = 120


class Peer:
    """A program that prints lines of JSON. A context manager: it must end well at the end."""

    def __init__(self, command: Sequence[str], asked: Mapping[str, object], log: Path, **env: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, json.dumps(asked)],
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        GUARD.kill_at_end(self._process.pid)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has printed so far."""
        whole = self._log.read_text(encoding="utf-8").rpartition("\n")[0]
        try:
            return [json.loads(line) for line in whole.split("\n") if line]
        except ValueError:
            raise AssertionError(f"not what it should print:\n{whole}") from None

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that it has performed."""
        return [line for line in self.lines if "class" in line]

    def answer(self, key: str, timeout_seconds: float = 30.0) -> Any:
        """The value of the first line with this key, once it is printed."""

        def found() -> list[dict[str, Any]]:
            assert self._process.poll() is None, f"it has ended:\n{self._log.read_text()}"
            return [line for line in self.lines if key in line]

        return wait_until(found, timeout_seconds, f"{key!r} is printed")[0][key]

    def performed(self, jobs: int, timeout_seconds: float = 30.0) -> list[dict[str, Any]]:
        """The jobs, once it has performed so many."""
        wait_until(lambda: len(self.jobs) >= jobs, timeout_seconds, f"{jobs} jobs are performed")
        return self.jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(30)
        except subprocess.TimeoutExpired:
            status = None
            self._process.kill()
            self._process.wait()
        GUARD.spare(self._process.pid)
        if kind is None:
            errors = [line["error"] for line in self.lines if "error" in line]
            assert (status, errors) == (0, [])


def install_node_packages() -> None:
    """What tests/interop/node/package-lock.json lists, unless it is there."""
    npm = need_program("npm")
    need_program("node")
    _install([npm, "ci"], NODE, NODE / "node_modules", NODE / "package-lock.json")


def install_pyres() -> None:
    """pyres, from its sources, unless it is there."""
    packages = ["--target", str(PYRES_PACKAGES), "--upgrade", "--requirement", "requirements.txt"]
    _install(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *packages],
        PYRES,
        PYRES_PACKAGES,
        PYRES / "requirements.txt",
    )


def _install(command: Sequence[str], folder: Path, packages: Path, lock: Path) -> None:
    """Run an installer where its packages aren't those of the lock file. Without a registry: skip, but fail in CI."""
    with lock.open("rb") as held:  # processes of pytest-xdist come here side by side
        fcntl.flock(held, fcntl.LOCK_EX)
        _install_alone(command, folder, packages, lock)


def _install_alone(command: Sequence[str], folder: Path, packages: Path, lock: Path) -> None:
    stamp = packages / ".installed"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    result = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_SECONDS
    )
    if result.returncode != 0:
        message = f"{' '.join(command)} in {folder}: {result.stdout}{result.stderr}"
        pytest.fail(message, pytrace=False) if in_ci() else pytest.skip(message)
    stamp.write_text(wanted)

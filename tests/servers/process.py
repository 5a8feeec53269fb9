"""A server as a process: start, stop, kill, freeze; ready when it answers; nothing left behind."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.servers.guard import GUARD
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

#: Seconds that a server may take to answer, or to stop when asked.
START_SECONDS, STOP_SECONDS = 60.0, 60.0
#: How many ports a first start may try: another process can take a free port before the server does.
_PORTS_TO_TRY = 8

Option = str | int | bool


class ServerDied(AssertionError):
    """The server ended by itself; the message ends with the tail of its log."""


class Server(abc.ABC):
    """One server in a temporary folder. A context manager: started inside, gone afterwards.

    `port` stays the same over restarts. Options become flags: `appendonly="yes"` is `--appendonly yes`.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qudo-migrate-"))
        GUARD.remove_at_end(self.folder)
        self.port = free_port()
        self.log = self.folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._was_ready = False

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The command line that starts it in the foreground."""

    @abc.abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers. Must not raise while the server is down."""

    @abc.abstractmethod
    def forget_connections(self) -> None:
        """Close what the tests hold open to this server; called before it goes."""

    @property
    def pid(self) -> int:
        """Its process id; raises ServerDied when it isn't running."""
        if self._process is None or self._process.poll() is not None:
            raise ServerDied(f"{type(self).__name__} isn't running\n{self.log_tail()}")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start and wait until it answers. Nothing happens when it runs already."""
        if self.running:
            return self
        for attempt in range(_PORTS_TO_TRY):
            self._spawn()
            try:
                wait_until(self._ready_or_dead, START_SECONDS, f"{type(self).__name__} answers")
            except ServerDied:
                if self._was_ready or attempt == _PORTS_TO_TRY - 1 or "in use" not in self.log_tail():
                    raise
                self.port = free_port()
                self.log.unlink()
            except BaseException:
                self.kill()
                raise
            else:
                self._was_ready = True
                break
        return self

    def stop(self) -> None:
        """Ask it to end and wait. Raises AssertionError (after a kill) when it doesn't."""
        if not self.running:
            return
        self.thaw()
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{type(self).__name__} didn't stop\n{self.log_tail()}") from None
        self._gone()

    def kill(self) -> None:
        """SIGKILL: what was not on its way to the disk is lost."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._gone()

    def restart(self, *, graceful: bool = True) -> None:
        """Stop (or kill) and start again, on the same port and data."""
        if graceful:
            self.stop()
        else:
            self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers. Returns when all threads stand still."""
        os.kill(self.pid, signal.SIGSTOP)
        pid = self.pid
        wait_until(lambda: _is_stopped(pid), 10, "the server stands still")

    def thaw(self) -> None:
        """SIGCONT: as if nothing had happened."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it the quick way and remove its folder."""
        self.forget_connections()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        GUARD.removed(self.folder)

    def log_tail(self, lines: int = 30) -> str:
        """The end of its log, for messages."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        GUARD.kill_at_end(self._process.pid)

    def _ready_or_dead(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            status = self._process.returncode
            self._gone()
            raise ServerDied(f"{type(self).__name__} ended with status {status}\n{self.log_tail()}")
        return self.is_ready()

    def _gone(self) -> None:
        assert self._process is not None
        GUARD.spare(self._process.pid)
        self._process = None


def _is_stopped(pid: int) -> bool:
    """Whether the kernel says so; where /proc lacks, SIGSTOP is taken at its word after a moment."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        time.sleep(0.05)
        return True
    return status.rpartition(")")[2].split()[0] in ("T", "t")

"""The guard: a small process that kills servers and removes folders once the tests' process is gone.

`atexit` does nothing for a process that was killed, and PR_SET_PDEATHSIG fires when the *thread* that started a
child ends; so a process of its own watches. It learns over a pipe what to kill and to remove, and acts when the
pipe closes or its parent changes (a forked child of the tests could keep the pipe open).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

#: Seconds between two looks at the parent.
_LOOK_SECONDS = 0.3


class Guard:
    """The tests' end of the pipe. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def kill_at_end(self, pid: int) -> None:
        """Have the process group of `pid` killed at the end."""
        self._tell(f"+pid {pid}")

    def spare(self, pid: int) -> None:
        """The process is gone: its number may soon be another's."""
        self._tell(f"-pid {pid}")

    def remove_at_end(self, folder: Path) -> None:
        """Have a folder removed at the end, after the killing."""
        self._tell(f"+dir {folder}")

    def removed(self, folder: Path) -> None:
        """The folder is gone."""
        self._tell(f"-dir {folder}")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode() + b"\n")

    def _start(self) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(self._owner)],
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        atexit.register(self._end)

    def _end(self) -> None:
        if self._process is None or self._owner != os.getpid():
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._process = None


GUARD = Guard()


def watch(parent: int) -> None:
    """The guard's own life: learn until the parent is gone, then clear up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)
    pids: dict[str, None] = {}
    folders: dict[str, None] = {}
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    rest = b""
    while True:
        if not selector.select(_LOOK_SECONDS):
            # Only once the pipe is empty: the parent may have died before this process had begun to read.
            if os.getppid() != parent:
                break
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            action, _, value = line.decode().partition(" ")
            known = pids if action.endswith("pid") else folders
            if action.startswith("+"):
                known[value] = None
            else:
                known.pop(value, None)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(int(pid), signal.SIGKILL)
    for folder in folders:
        # A killed server may finish a write after the first pass.
        for _ in range(3):
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    watch(int(sys.argv[1]))

"""What the kernel knows of processes: titles, who dies with whom, who is still there. Linux first, less elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from setproctitle import setproctitle

from migrate import __version__
from migrate.resque.process import Process

_PR_SET_PDEATHSIG = 1


def set_title(text: str) -> None:
    """What `ps` shows. Perl's and Ruby's workers look for `resque-<version>` before they take one for dead."""
    setproctitle(f"resque-{__version__}: {text}")


@cache
def _prctl() -> Any:
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals, parent: int) -> None:
    """Have the kernel send this process a signal when its parent ends, or end it now if that has happened.

    Only Linux can: elsewhere a child outlives a parent that was killed, until it tries to answer.
    """
    if (prctl := _prctl()) is not None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def this_process(server_pid: int = 0) -> Process:
    """This process and its fork server, for others to tell whether they still live."""
    pid = os.getpid()
    server_started = _started(server_pid) if server_pid else 0
    return Process(socket.gethostname(), pid, _started(pid), _kernel(), server_pid, server_started)


def is_this(process: Process) -> bool:
    """Whether it is this process, and not one that had its pid before."""
    this = this_process()
    return this == msgspec.structs.replace(process, server_pid=0, server_started=0)


def is_gone(process: Process) -> bool | None:
    """Whether a process has ended; None when that can't be known from here: another machine or container.

    Its fork server ends an instant later, and the job that runs with it; then only all is over.
    """
    if process.host != socket.gethostname() or not process.kernel or process.kernel != _kernel():
        return None
    return _has_ended(process.pid, process.started) and _has_ended(process.server_pid, process.server_started)


def _has_ended(pid: int, started: int) -> bool:
    found = _started(pid) if pid else 0
    return found == 0 or bool(started and found != started)


def _started(pid: int) -> int:
    """When it began, in ticks since boot; 0: there is no such process, or it is dead and not yet reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


@cache
def _kernel() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""

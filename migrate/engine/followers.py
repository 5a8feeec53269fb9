"""The processes that enqueue: which step each goes by. Reads what they reported; strikes off those that have ended."""

from __future__ import annotations

import os
import socket
import time

import msgspec

from migrate.engine.stopping import Stop
from migrate.resque import steps
from migrate.resque.steps import FORGOTTEN_SECONDS, SILENT_SECONDS, Process
from migrate.resque.target import Target

#: Seconds that a command waits for processes to follow, and between two looks.
FOLLOW_SECONDS, LOOK_SECONDS = 2.5, 0.1


class ProcessStatus(msgspec.Struct, frozen=True):
    """One process."""

    host: str
    pid: int
    program: str
    version: int  #: of the steps that it goes by
    followed: bool
    silent_for: int  #: seconds since it reported; one that is alive does so every 5 seconds


class Followers:
    """The processes of one target."""

    def __init__(self, target: Target, stop: Stop) -> None:
        self._target = target
        self._stop = stop

    def _living(self) -> list[tuple[Process, int]]:
        """Each with the seconds of its silence. Those of this host whose process is gone are struck off."""
        now = self._target.now()
        ended = []
        living = []
        for name, process in steps.processes(self._target).items():
            silent = max(0, now - process.at)
            if silent > FORGOTTEN_SECONDS or (process.host == socket.gethostname() and not _lives(process.pid)):
                ended.append(name)
            else:
                living.append((process, silent))
        steps.forget(self._target, ended)
        return living

    def statuses(self, version: int) -> list[ProcessStatus]:
        """All of them; `version` is the one to be followed."""
        return [
            ProcessStatus(each.host, each.pid, each.program, each.version, each.version >= version, silent)
            for each, silent in self._living()
        ]

    def late(self, version: int) -> list[str]:
        """Those that go by an older version, for people."""
        return [
            f"{each.host}:{each.pid} ({each.program})" + (f", silent for {silent} s" if silent > SILENT_SECONDS else "")
            for each, silent in self._living()
            if each.version < version
        ]

    def wait(self, version: int) -> None:
        """Until all that are not silent have followed, some seconds have passed, or a stop is requested."""
        deadline = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < deadline:
            if not any(each.version < version and silent <= SILENT_SECONDS for each, silent in self._living()):
                return
            if self._stop.wait(LOOK_SECONDS):
                return


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

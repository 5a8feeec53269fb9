"""Named points at which tests make a process die, sleep or fail. Free when the environment variable is unset.

`QUDO_MIGRATE_FAILPOINTS="move.committed=kill@3, handoff.answered=stop"` kills the process with SIGKILL at the third
pass of the first point, and stops it with SIGSTOP at the first pass of the second. Read in this one place, at import.

Actions: `kill` (SIGKILL), `stop` (SIGSTOP: the process sleeps until somebody sends SIGCONT), `exit` (status 9, no
clean-up). Every name in use stands in POINTS, so that tests can go through all of them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from typing import NamedTuple

from migrate.errors import UsageError

VARIABLE = "QUDO_MIGRATE_FAILPOINTS"

#: Each step of the protocol after which a crash leaves another state. `leasing` is the move without transactions.
POINTS = (
    "move.locked",
    "move.recorded",
    "move.copied",
    "move.deleted",
    "move.committed",
    "leasing.claimed",
    "leasing.recorded",
    "leasing.copied",
    "leasing.deleting",
    "leasing.deleted",
    "leasing.ready",
    "handoff.begun",
    "handoff.part",
    "handoff.done",
    "recover.found",
    "fence.proved",
    "chunks.dropped",
    "failures.entered",
    "failures.marked",
    "binding.created",
    "binding.registered",
    "binding.bound",
    "pending.released",
    "purge.deleted",
    "purge.committed",
    "enqueue.written",
    "enqueue.handed_off",
    "rollback.paused",
    "rollback.claimed",
    "rollback.taken",
    "rollback.fenced",
    "rollback.inserted",
    "rollback.committed",
    "rollback.leased",
    "rollback.noted",
    "rollback.freed",
    "rollback.forgotten",
    "rollback.ended",
    "native.read",
    "native.inserted",
    "native.committed",
    "native.leased",
    "native.noted",
    "native.freed",
    "native.released",
)

_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "exit": None}


class _Failpoint(NamedTuple):
    action: str
    at: int  #: which pass, counted from 1


def parse(text: str) -> dict[str, _Failpoint]:
    """What a value of the variable asks for. Raises UsageError for unknown names and actions."""
    wanted: dict[str, _Failpoint] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = item.partition("=")
        action, _, count = rest.partition("@")
        if name not in POINTS or action not in _ACTIONS or not (count or "1").isdigit():
            raise UsageError(f"{VARIABLE}: {item}: write POINT=ACTION or POINT=ACTION@N; points: {', '.join(POINTS)}")
        wanted[name] = _Failpoint(action, int(count or "1"))
    return wanted


class _Failpoints:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._wanted = parse(environ.get(VARIABLE, ""))
        self._passes: dict[str, int] = {}
        self._lock = threading.Lock()

    def reach(self, name: str) -> None:
        wanted = self._wanted.get(name)
        if wanted is None:
            return
        with self._lock:
            self._passes[name] = self._passes.get(name, 0) + 1
            if self._passes[name] != wanted.at:
                return
        number = _ACTIONS[wanted.action]
        if number is None:
            os._exit(9)
        # To this very thread: a signal to the process may reach another one first, and this one would go on (seen).
        signal.pthread_kill(threading.get_ident(), number)


def _nothing(_name: str) -> None:
    """What every point costs when no test asks for one."""


#: Call it where a step has just ended, with a name of POINTS.
reach = _Failpoints(os.environ).reach if os.environ.get(VARIABLE) else _nothing

"""Where a worker of ours lives, as Redis keeps it. Apart, since processes that fork know no Redis."""

from __future__ import annotations

import msgspec


class Process(msgspec.Struct, frozen=True):
    """A worker's process, so that another can tell whether it still lives."""

    host: str
    pid: int
    started: int  #: when the process began, in the kernel's ticks since boot; 0: not known
    kernel: str  #: which boot and which pid namespace the pid is of; "": not known
    #: Its fork server, which ends just after the worker, and with it the job that runs; 0: it has none.
    server_pid: int = 0
    server_started: int = 0

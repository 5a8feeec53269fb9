"""The processes that fork: a fork server for each worker, and the template that fork servers are forked from.

What a fork costs grows with the memory of the process that forks, and with what it writes between two forks. So a
worker, which knows Redis, doesn't fork; its fork server has the app and little else, and does nothing but fork. The
template is forked by the pool when it has loaded the app and nothing else yet: a fork server that is needed later is
still as small, and has the same code.

A fork server ends when its worker has ended, however that was; its children end with it. It reaps a child only when
the worker has said that it won't send signals to that pid any more.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import struct
from enum import Enum, auto
from types import FrameType
from typing import NoReturn

from migrate.worker import child, lineage, successor
from migrate.worker.functions import Registry
from migrate.worker.performing import Terminated
from migrate.worker.signals import ALL, let_come
from migrate.worker.slots import Slot
from migrate.worker.telling import Telling

#: What a worker asks: the kind and a pid.
REQUEST = struct.Struct("!cI")
NAME, FORK, LEAVE, STATUS, END = b"N", b"F", b"L", b"S", b"E"
#: What it is told: the kind, a pid, and a number.
REPLY = struct.Struct("!cIi")
HERE, FORKED, FAILED, RUNS, ENDED = b"H", b"F", b"X", b"R", b"E"


class Role(Enum):
    """What this process is, for its signals: all that the template's descendants do with them is decided here."""

    TEMPLATE = auto()
    SERVER = auto()
    CHILD = auto()


class Template(Slot):
    """A place of the pool whose process forks a fork server for whoever connects."""

    def __init__(self, registry: Registry, jobs_per_fork: int) -> None:
        """`jobs_per_fork`: how many jobs a child of the fork servers performs."""
        super().__init__("template", self._run)
        self._registry = registry
        self._jobs = jobs_per_fork
        self._ours: socket.socket | None = None
        self._pools: socket.socket | None = None
        self._role = Role.TEMPLATE
        self._parent = 0

    def start(self) -> None:
        """Fork; processes that are forked after this one can connect to it."""
        if self._pools is not None:
            self._pools.close()
        self._pools, self._ours = socket.socketpair()
        self._parent = os.getpid()
        super().start()
        self._ours.close()

    def connect(self) -> socket.socket:
        """A connection to a new fork server; nobody is there if the template has ended."""
        ours, servers = socket.socketpair()
        with servers, contextlib.suppress(OSError):
            if self._pools is not None:
                socket.send_fds(self._pools, [b"\0"], [servers.fileno()])
        return ours

    # --- in its process --------------------------------------------------------------------------------------------

    def _run(self, telling: Telling) -> int:
        assert self._pools is not None  # noqa: S101
        assert self._ours is not None  # noqa: S101
        self._pools.close()
        signal.set_wakeup_fd(-1)
        for number in ALL:
            signal.signal(number, self._heed)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps fork servers
        self._prepare()
        telling.ready()
        self._accept(self._ours, telling)
        self._ours.close()  # whoever would connect sees that nobody is there
        with contextlib.suppress(ChildProcessError):
            while True:  # fork servers end with their workers; orphans would be left to a process that may not reap
                os.wait()
        return 0

    def _prepare(self) -> None:
        let_come()
        lineage.die_with_parent(signal.SIGTERM, self._parent)
        os.setpgid(0, 0)  # Ctrl-C is for the pool; and each child would have to look the function up
        for old in successor.take().workers:
            with contextlib.suppress(OSError):
                os.close(old.fd)  # the pool's
        child.warm_up()
        lineage.set_title("Template of fork servers")
        gc.freeze()

    def _accept(self, pool: socket.socket, telling: Telling) -> None:
        """Until nobody holds the other end any more, or the template is told to end."""
        while True:
            _, descriptors, _, _ = socket.recv_fds(pool, 1, 1)
            if not descriptors:
                return
            with socket.socket(fileno=descriptors[0]) as worker, contextlib.suppress(OSError):
                if os.fork() == 0:  # when that fails, the worker sees the end of its connection
                    self._serve(worker, pool, telling)

    def _heed(self, number: int, _frame: FrameType | None) -> None:
        """TERM ends the template and a child's job; else a terminal or a group may be meant, and others decide.

        A handler, since what is ignored would be ignored by all programs that a job starts. The template's raises
        nothing: raised in a hook of os.fork, it would be printed and lost (seen).
        """
        if number == signal.SIGTERM and self._role is Role.TEMPLATE and self._ours is not None:
            with contextlib.suppress(OSError):  # it ends already
                self._ours.shutdown(socket.SHUT_RD)
        if number == signal.SIGTERM and self._role is Role.CHILD:
            raise Terminated("the job was told to end")

    # --- in a fork server ------------------------------------------------------------------------------------------

    def _serve(self, worker: socket.socket, pool: socket.socket, telling: Telling) -> NoReturn:
        status = 1
        try:
            self._role = Role.SERVER
            telling.close()
            pool.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._obey(worker)
            status = 0
        except BrokenPipeError:
            status = 0  # its worker was killed this instant
        finally:
            os._exit(status)

    def _obey(self, worker: socket.socket) -> None:
        """Until the worker closes its end. Children that live then are killed by the kernel."""
        me = os.getpid()
        leaving: list[int] = []
        worker.sendall(REPLY.pack(HERE, me, 0))
        while len(request := worker.recv(REQUEST.size, socket.MSG_WAITALL)) == REQUEST.size:
            kind, pid = REQUEST.unpack(request)
            if kind == FORK:
                leaving = [each for each in leaving if not os.waitpid(each, os.WNOHANG)[0]]
                self._fork(worker, me)
            elif kind == LEAVE:
                leaving.append(pid)
            elif kind == STATUS:
                status = _status(pid)
                worker.sendall(REPLY.pack(RUNS, pid, 0) if status is None else REPLY.pack(ENDED, pid, status))
            elif kind == NAME:
                lineage.set_title(f"Forks for worker {pid}")
            elif kind == END:
                for each in leaving:
                    os.waitpid(each, 0)
                return

    def _fork(self, worker: socket.socket, me: int) -> None:
        pair = socket.socketpair()
        workers, childs = [each.detach() for each in pair]
        try:
            pid = os.fork()
        except OSError as error:
            worker.sendall(REPLY.pack(FAILED, 0, error.errno or 0))
        else:
            if pid == 0:
                os.close(workers)
                self._be_child(worker.fileno(), childs, me)
            socket.send_fds(worker, [REPLY.pack(FORKED, pid, 0)], [workers])
        os.close(workers)
        os.close(childs)

    # --- in a child: each function that is called here costs it some microseconds ----------------------------------

    def _be_child(self, server: int, worker: int, server_pid: int) -> NoReturn:
        status = 1
        try:
            os.close(server)  # what the fork server alone holds ends with it
            self._role = Role.CHILD
            lineage.die_with_parent(signal.SIGKILL, server_pid)
            lineage.set_title("Waiting for a job of its worker")
            os.setpgid(0, 0)  # so that a kill reaches what the job has started, and Ctrl-C doesn't reach the job
            child.serve(worker, self._registry, self._jobs)
            status = 0
        finally:
            os._exit(status)  # without the clean-up that belongs to the pool: its atexit functions


def _status(pid: int) -> int | None:
    """How a child has ended, which stays to be reaped; None while it runs."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

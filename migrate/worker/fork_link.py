"""A worker's connection to its fork server."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from typing import NamedTuple

from migrate.worker import fork_server

#: Seconds within which a fork server must answer.
ANSWER_SECONDS = 60.0


class ServerGone(Exception):
    """The fork server was killed, and its children with it; or there was none to be had."""


class Child(NamedTuple):
    """A child that lives, as its worker sees it."""

    pid: int
    fd: int  #: of its worker's end of their socket

    def has_spoken(self) -> bool:
        """Whether there is something to read: of one that waits for a job, its end."""
        return bool(select.select([self.fd], [], [], 0)[0])


class ForkLink:
    """Methods that ask raise ServerGone. A pid is the child's own until `leave`: it isn't reaped before."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        link.settimeout(ANSWER_SECONDS)
        self._asked = 0  #: children that were asked for and haven't come
        self._spares: list[Child] = []
        self._errno = 0  #: why the last fork has failed
        self._unsent = b""  #: requests that can wait for the next one that can't: the fork server wakes up less often
        self.pid = 0
        self.pid = self._reply()[1]
        self._ask(fork_server.NAME, os.getpid())

    def prepare(self, children: int) -> None:
        """See to it that so many children will wait for a job soon."""
        while self._asked + len(self._spares) < children:
            self._ask(fork_server.FORK)
            self._asked += 1

    def child(self) -> Child:
        """One that waits for a job. Raises OSError when no process can be forked."""
        while True:
            while self._asked and not self._spares:
                self._reply()
            if not self._spares:
                self.prepare(1)
                if self._reply()[0] == fork_server.FAILED:
                    raise OSError(self._errno, f"fork: {os.strerror(self._errno)}")
            child = self._spares.pop(0)
            if not child.has_spoken():
                return child
            os.close(child.fd)
            self.leave(child.pid)

    def leave(self, pid: int) -> None:
        """This child gets no more jobs and no signals: it may be reaped when it ends."""
        self._unsent += fork_server.REQUEST.pack(fork_server.LEAVE, pid)

    def status(self, child: Child) -> int | None:
        """How it has ended, as `os.waitstatus_to_exitcode` says it; None while it runs."""
        self._ask(fork_server.STATUS, child.pid)
        while (reply := self._reply())[0] not in (fork_server.ENDED, fork_server.RUNS):
            pass
        return reply[2] if reply[0] == fork_server.ENDED else None

    def end(self) -> None:
        """Returns when all children that were left, and those that wait, have ended."""
        while self._asked:
            self._reply()
        while self._spares:
            child = self._spares.pop()
            os.close(child.fd)
            self.leave(child.pid)
        self._ask(fork_server.END)
        self._link.settimeout(None)
        with contextlib.suppress(OSError):
            self._link.recv(1)

    def close(self) -> None:
        """Without a word: the fork server sees it."""
        for child in self._spares:
            os.close(child.fd)
        self._spares = []
        self._link.close()

    def _ask(self, kind: bytes, pid: int = 0) -> None:
        requests, self._unsent = self._unsent + fork_server.REQUEST.pack(kind, pid), b""
        try:
            self._link.sendall(requests)
        except OSError:
            raise ServerGone from None

    def _reply(self) -> tuple[bytes, int, int]:
        """The next one; a child that has come waits among the spares."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._link, fork_server.REPLY.size, 1)
        except TimeoutError:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)  # so that none of its children runs on
            raise ServerGone from None
        except OSError:
            raise ServerGone from None
        if len(data) != fork_server.REPLY.size:
            raise ServerGone
        kind, pid, number = fork_server.REPLY.unpack(data)
        if kind == fork_server.FORKED:
            self._spares.append(Child(pid, descriptors[0]))
            self._asked -= 1
        elif kind == fork_server.FAILED:
            self._asked, self._errno = self._asked - 1, number
        return kind, pid, number

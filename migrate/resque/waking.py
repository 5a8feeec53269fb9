"""Waiting for a queue to change, without asking again and again. Reads only.

Blocking commands wait on one list (BLMOVE) or keep the job nowhere but in the client (BLPOP), and take a connection
for each queue. Redis 6 can tell a client when keys that it has looked at change (CLIENT TRACKING): one message for all
queues, whoever pushes, and names of new queues as well. The job itself is then taken by the worker's script. Where
tracking lacks (Redis 5, a proxy, an ACL that forbids it) the worker looks every `POLL_SECONDS`.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError

from migrate.resque.target import Target

#: Seconds between two looks where Redis can't tell.
POLL_SECONDS = 0.1
#: Seconds after which a worker looks all the same.
LONGEST_WAIT_SECONDS = 10.0


class Waker:
    """Two connections: one looks at the queues, the other hears of their changes. Not shared between threads."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._asks: Any = None
        self._hears: Any = None
        self.tells = True  #: whether this Redis can tell

    def arm(self, queues: Sequence[str]) -> bool:
        """Look at the queues, so that their next change will be heard; returns whether one has a job now.

        Raises Unavailable.
        """
        with self._target.commands():
            try:
                self._connect()
                return self._look(queues)
            except RedisError:
                self.close()
                raise

    def _look(self, queues: Sequence[str]) -> bool:
        keys = self._target.keys
        self._asks.send_command("SMEMBERS", keys.queues)
        for queue in queues:
            self._asks.send_command("LLEN", keys.queue(queue))
        self._asks.read_response()
        found = False
        for _ in queues:
            with contextlib.suppress(ResponseError):  # something else has the key: the worker's script skips it, too
                found = self._asks.read_response() > 0 or found
        return found

    def _connect(self) -> None:
        if self._asks is not None:
            return
        pool = self._target.client.connection_pool
        self._asks, self._hears = pool.make_connection(), pool.make_connection()
        self._asks.connect()
        try:
            self._hears.connect()
            self._hears.send_command("CLIENT", "ID")
            listener = self._hears.read_response()
            self._hears.send_command("SUBSCRIBE", "__redis__:invalidate")
            self._hears.read_response()
            self._asks.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", listener)
            self._asks.read_response()
        except ResponseError:
            self.tells = False

    def wait(self, seconds: float, wake_fd: int) -> None:
        """Until a queue has changed, `wake_fd` is readable or the time is over. Raises Unavailable."""
        if not self.tells or self._hears is None:
            select.select([wake_fd], [], [], min(seconds, POLL_SECONDS))
            return
        with self._target.commands():
            try:
                self._hear(min(seconds, LONGEST_WAIT_SECONDS), wake_fd)
            except RedisError:
                self.close()
                raise

    def _hear(self, seconds: float, wake_fd: int) -> None:
        if not self._hears.can_read(0):
            # The public ways wait for one socket only. The one that asks is readable when it is lost, and with it what
            # Redis remembers of its looks: a server with `timeout` ends idle clients, but none that listens.
            select.select([self._hears._sock, self._asks._sock, wake_fd], [], [], seconds)
        for connection in (self._hears, self._asks):
            while connection.can_read(0):
                connection.read_response()

    def close(self) -> None:
        """Close both connections; the next call opens new ones."""
        for connection in (self._asks, self._hears):
            if connection is not None:
                connection.disconnect()
        self._asks = self._hears = None

"""Connections that follow a namespace through a Redis Cluster. They ask which node has it, and write nothing.

A namespace in braces lies on one slot, so all of a Resque is on one node at a time, and scripts, transactions and WAIT
work as on a single Redis. These connections go to that node, and to another one when the slot has moved: as Sentinel's
connections follow the master. A Redis that is no cluster is used as it is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from redis import Connection, ConnectionPool, SSLConnection
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry


class Node(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


def is_tagged(namespace: str) -> bool:
    """Whether all keys of the namespace lie on one slot: its braces enclose something."""
    start = namespace.find("{")
    return start >= 0 and namespace.find("}", start) > start + 1


class SlotOwner:
    """Where the slot of one namespace is. Shared by the connections of a pool."""

    def __init__(
        self, namespace: str, seeds: Iterable[Node], kind: type[Connection], options: Mapping[str, Any]
    ) -> None:
        """`kind` and `options` are those of the connections by which nodes are asked."""
        self.slot = key_slot(f"{namespace}:".encode())
        self._asking = functools.partial(kind, **_for_asking(options))
        self._asks = True  # False: the first server that answered is no cluster, or doesn't tell
        self._nodes = list(seeds)
        self._known: Node | None = None
        self._lock = threading.Lock()

    def nodes(self) -> list[Node]:
        """All known nodes, those that failed last at the end."""
        with self._lock:
            return list(self._nodes)

    def node(self) -> Node:
        """The node that has the slot, as far as is known; asks one node after the other unless it is known.

        Raises ConnectionError, TimeoutError or ClusterDownError when none tells.
        """
        known = self._known
        return self._find() if known is None else known

    def moved_to(self, node: Node) -> None:
        """A node has said that this one has the slot now."""
        with self._lock:
            self._nodes = list(dict.fromkeys([*self._nodes, node]))
            self._known = node

    def failed(self, node: Node) -> None:
        """This node doesn't answer, or is cut off from the others: they are asked first."""
        with self._lock:
            self._nodes = [*(other for other in self._nodes if other != node), node]
            if self._known == node:
                self._known = None

    def _find(self) -> Node:
        error: Exception = ConnectionError("no node is known")
        for node in self.nodes():
            try:
                owner = self._ask(node)
            except AuthenticationError:
                raise
            except (ConnectionError, TimeoutError, ClusterDownError) as caught:
                self.failed(node)
                error = caught
                continue
            self.moved_to(owner)
            return owner
        raise error

    def _ask(self, node: Node) -> Node:
        """The node that has the slot, as `node` knows; itself, if it is in no cluster or doesn't tell."""
        if not self._asks:
            return node
        connection = self._asking(host=node.host, port=node.port)
        try:
            connection.connect()
            state = _told(connection, "CLUSTER", "INFO")
            ranges = _told(connection, "CLUSTER", "SLOTS")
        except ResponseError:
            self._asks = False
            return node
        finally:
            connection.disconnect()
        if b"cluster_state:ok" not in state:
            raise ClusterDownError(f"{node.host}:{node.port} says that the cluster is down")
        owner = None
        for first, last, *holders in ranges:
            for place, (host, port, *_) in enumerate(holders):
                # A node that doesn't know its own name is where it was asked.
                holder = Node(node.host if host in (None, b"", b"?") else host.decode(), int(port))
                with self._lock:
                    self._nodes = list(dict.fromkeys([*self._nodes, holder]))
                if place == 0 and first <= self.slot <= last:
                    owner = holder
        if owner is None:
            raise ClusterDownError(f"no node has slot {self.slot}")
        return owner


def _for_asking(options: Mapping[str, Any]) -> dict[str, Any]:
    """A node that answers has its answer ready: one that doesn't must not keep us from asking the next."""
    known = options.get("socket_connect_timeout")
    return {**options, "socket_timeout": known, "retry": Retry(NoBackoff(), 0)}


def _told(connection: Connection, *command: str) -> Any:
    connection.send_command(*command)
    return connection.read_response()


class FollowingConnection(Connection):
    """A connection to the node that has the slot."""

    def __init__(self, *, slot_owner: SlotOwner, **options: Any) -> None:
        self._owner = slot_owner
        super().__init__(**options)

    def connect(self) -> None:
        """Connect to the slot's node. Raises as `SlotOwner.node` does."""
        if self._sock:
            return
        self.host, self.port = node = self._owner.node()
        try:
            super().connect()
        except (ConnectionError, TimeoutError):
            self._owner.failed(node)
            raise

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send; a connection that was lost is made anew first, to the node that has the slot now."""
        if not self._sock:
            self.connect()  # redis-py would go to the node that it had
        super().send_packed_command(command, check_health)

    def read_response(self, *args: Any, **options: Any) -> Any:
        """The server's answer. Raises ConnectionError where the slot has moved: nothing was done there."""
        node = Node(self.host, self.port)
        try:
            return super().read_response(*args, **options)
        except MovedError as error:
            self._owner.moved_to(Node(error.host or self.host, error.port))
            self.disconnect()
            raise ConnectionError("the slot has moved to another node") from error
        except ClusterDownError:
            self._owner.failed(node)
            self.disconnect()
            raise
        except (ConnectionError, TimeoutError):
            self._owner.failed(node)
            raise


class FollowingSSLConnection(FollowingConnection, SSLConnection):
    """The same over TLS."""


def following_pool(namespace: str, seeds: Iterable[Node], *, tls: bool, **options: Any) -> ConnectionPool:
    """A pool whose connections go to the node that has the namespace. `options` are the connections'."""
    owner = SlotOwner(namespace, seeds, SSLConnection if tls else Connection, options)
    kind = FollowingSSLConnection if tls else FollowingConnection
    return ConnectionPool(connection_class=kind, slot_owner=owner, **options)

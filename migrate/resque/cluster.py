"""Connections that follow a namespace through a Redis Cluster. They ask which node has it, and write nothing.

A namespace in braces lies on one slot, so all of a Resque is on one node at a time, and scripts, transactions and WAIT
work as on a single Redis. These connections go to that node, and to another one when the slot has moved: as Sentinel's
connections follow the master. A Redis that is no cluster is used as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

from redis import Connection, ConnectionPool, SSLConnection
from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    ResponseError,
    TimeoutError,
)


class Node(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


def is_tagged(namespace: str) -> bool:
    """Whether all keys of the namespace lie on one slot: its braces enclose something."""
    start = namespace.find("{")
    return start >= 0 and namespace.find("}", start) > start + 1


class SlotOwner:
    """Where the slot of one namespace was last seen. Shared by the connections of a pool."""

    def __init__(self, namespace: str, seeds: Iterable[Node]) -> None:
        self.slot = key_slot(f"{namespace}:".encode())
        self.asks = True  #: False: the first server that was asked is no cluster, or doesn't tell
        self._nodes = list(seeds)
        self._lock = threading.Lock()

    def nodes(self) -> list[Node]:
        """All known nodes; the likeliest owner first, those that failed last at the end."""
        with self._lock:
            return list(self._nodes)

    def likely(self, node: Node) -> None:
        """Somebody says that this node has the slot."""
        with self._lock:
            self._nodes = [node, *(other for other in self._nodes if other != node)]

    def known(self, nodes: Iterable[Node]) -> None:
        """These may be asked when the others have failed."""
        with self._lock:
            self._nodes = list(dict.fromkeys([*self._nodes, *nodes]))

    def failed(self, node: Node) -> None:
        """This node doesn't answer, or doesn't know what the others know: ask it last."""
        with self._lock:
            self._nodes = [*(other for other in self._nodes if other != node), node]


class FollowingConnection(Connection):
    """A connection to the node that has the slot."""

    def __init__(self, *, slot_owner: SlotOwner, **options: Any) -> None:
        self._owner = slot_owner
        super().__init__(**options)

    @property
    def _node(self) -> Node:
        return Node(self.host, self.port)

    def connect(self) -> None:
        """Connect to the slot's node, asking one node after the other which it is."""
        if self._sock:
            return
        error: Exception = ConnectionError("no node is known")
        waiting, tried = self._owner.nodes(), set[Node]()
        while waiting:
            node = waiting.pop(0)
            if node in tried:
                continue
            tried.add(node)
            self.host, self.port = node
            try:
                super().connect()
                owner = self._ask()
            except AuthenticationError:
                self.disconnect()
                raise
            except (ConnectionError, TimeoutError, ClusterDownError) as caught:
                self.disconnect()
                self._owner.failed(node)
                error = caught
                continue
            if owner is None or owner == node:
                self._owner.likely(node)
                return
            self.disconnect()
            waiting.insert(0, owner)
        raise error

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send; a connection that was lost is made anew first, to the node that has the slot now."""
        if not self._sock:
            self.connect()  # redis-py would go to the node that it had
        super().send_packed_command(command, check_health)

    def _ask(self) -> Node | None:
        """The node that has the slot, as this one knows; None: this is no cluster, or doesn't tell.

        Raises ClusterDownError when this node is cut off from the others: what it knows may be over.
        """
        if not self._owner.asks:
            return None
        try:
            state = self._call("CLUSTER", "INFO")
            ranges = self._call("CLUSTER", "SLOTS")
        except ResponseError:
            self._owner.asks = False
            return None
        if b"cluster_state:ok" not in state:
            raise ClusterDownError(f"{self.host}:{self.port} says that the cluster is down")
        owners = {(first, last): self._as_node(master) for first, last, master, *_ in ranges}
        self._owner.known(self._as_node(node) for _, _, *nodes in ranges for node in nodes)
        for (first, last), owner in owners.items():
            if first <= self._owner.slot <= last:
                return owner
        raise ClusterDownError(f"no node has slot {self._owner.slot}")

    def _call(self, *command: str) -> Any:
        self.send_command(*command, check_health=False)
        return super().read_response()

    def _as_node(self, told: Any) -> Node:
        """A node as CLUSTER SLOTS tells it; one that doesn't know its own name is where it was asked."""
        host, port = told[0], int(told[1])
        return Node(host.decode() if host and host != b"?" else self.host, port)

    def read_response(self, *args: Any, **options: Any) -> Any:
        """The server's answer. Raises ConnectionError where the slot has moved: nothing was done there."""
        try:
            return super().read_response(*args, **options)
        except MovedError as error:
            self._owner.likely(Node(error.host or self.host, error.port))
            self.disconnect()
            raise ConnectionError("the slot has moved to another node") from error
        except ClusterDownError:
            self._owner.failed(self._node)
            self.disconnect()
            raise
        except (ConnectionError, TimeoutError):
            self._owner.failed(self._node)
            raise


class FollowingSSLConnection(FollowingConnection, SSLConnection):
    """The same over TLS."""


def following_pool(namespace: str, seeds: Iterable[Node], *, tls: bool, **options: Any) -> ConnectionPool:
    """A pool whose connections go to the node that has the namespace. `options` are the connections'."""
    kind = FollowingSSLConnection if tls else FollowingConnection
    return ConnectionPool(connection_class=kind, slot_owner=SlotOwner(namespace, seeds), **options)

"""A Redis Cluster of three masters, and replicas of one of them where a test kills it."""

from __future__ import annotations

import contextlib
from typing import Self

import redis as redis_py
from redis.crc import key_slot

from tests.servers.process import Option
from tests.servers.redis import RedisServer
from tests.servers.waiting import wait_until

#: The namespace of all tests on a Cluster; braces keep it on one node.
NAMESPACE = "{resque}"

_SLOTS = 16384
#: Milliseconds of silence after which a node counts as gone.
_NODE_TIMEOUT_MS = 700


class RedisCluster:
    """Three masters. `owner` has the slot of `{resque}`; `nodes[0]` never has it, and is where clients begin."""

    def __init__(
        self, *, replicas_of_owner: int = 0, server: type[RedisServer] = RedisServer, **options: Option
    ) -> None:
        settings: dict[str, Option] = {
            "cluster_enabled": "yes",
            "cluster_config_file": "nodes.conf",
            "cluster_node_timeout": _NODE_TIMEOUT_MS,
            "cluster_replica_validity_factor": 0,
        }
        self.nodes = [server(**(settings | options)) for _ in range(3)]
        self.owner = self.nodes[1]
        self.other = self.nodes[2]
        self.replicas = [server(**(settings | options)) for _ in range(replicas_of_owner)]

    @property
    def url(self) -> str:
        """For the configuration: a node that has nothing of `{resque}`."""
        return self.nodes[0].url

    @property
    def target(self) -> dict[str, object]:
        """`[target]` of a configuration."""
        return {"url": self.url, "namespace": NAMESPACE}

    def ids(self) -> dict[int, str]:
        """The id of each node, by its port."""
        found = self.nodes[0].client().execute_command("CLUSTER NODES")
        return {int(address.rsplit(":", 1)[1]): node["node_id"] for address, node in found.items()}

    def move_slot(self) -> SlotMove:
        """The move of `{resque}`'s slot from `owner` to `other`, step by step as redis-cli does it."""
        return SlotMove(self)

    def cut_off_replicas(self) -> None:
        """From now on the owner's replicas lag: they log in with a password that it doesn't have."""
        for replica in self.replicas:
            replica.client().config_set("masterauth", "wrong")
        self.owner.client().client_kill_filter(_type="replica")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for node in (*self.nodes, *self.replicas):
                stack.enter_context(node)
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _join(self) -> None:
        ours = key_slot(NAMESPACE.encode())
        third = _SLOTS // 3
        rest = [slot for slot in range(_SLOTS) if slot != ours]
        shares = (rest[:third], [ours, *rest[third : 2 * third]], rest[2 * third :])
        for node, share in zip(self.nodes, shares, strict=True):
            node.client().execute_command("CLUSTER ADDSLOTS", *share)
        first = self.nodes[0].client()
        for node in (*self.nodes[1:], *self.replicas):
            first.execute_command("CLUSTER MEET", "127.0.0.1", node.port)
        everybody = (*self.nodes, *self.replicas)
        wait_until(
            lambda: all(len(_known(node)) == len(everybody) for node in everybody), 30, "all nodes know each other"
        )
        owner = self.ids()[self.owner.port]
        for replica in self.replicas:
            replica.client().execute_command("CLUSTER REPLICATE", owner)
        wait_until(lambda: all(_is_up(node) for node in everybody), 30, "the cluster is up")
        wait_until(lambda: all(map(_follows, self.replicas)), 30, "the replicas follow")


class SlotMove:
    """`{resque}`'s slot on its way to another node: begun, then half of its keys, then all, then announced."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        self._from, self._to = cluster.owner.client(), cluster.other.client()
        self._port = cluster.other.port
        self._slot = key_slot(NAMESPACE.encode())
        self._all = [node.client() for node in cluster.nodes]
        ids = cluster.ids()
        self._old, self._new = ids[cluster.owner.port], ids[cluster.other.port]

    def begin(self) -> None:
        """From now on keys may be on either side."""
        self._to.execute_command("CLUSTER SETSLOT", self._slot, "IMPORTING", self._old)
        self._from.execute_command("CLUSTER SETSLOT", self._slot, "MIGRATING", self._new)

    def carry(self, most: int) -> int:
        """Move so many keys at most; how many it was."""
        keys = self._from.execute_command("CLUSTER GETKEYSINSLOT", self._slot, most)
        if keys:
            self._from.migrate("127.0.0.1", self._port, keys, 0, 5000)
        return len(keys)

    def end(self) -> None:
        """Move what is left and tell all nodes: `owner` is the other one now."""
        while self.carry(100):
            pass
        for client in (self._to, *self._all):
            client.execute_command("CLUSTER SETSLOT", self._slot, "NODE", self._new)
        self._cluster.owner, self._cluster.other = self._cluster.other, self._cluster.owner


def _known(node: RedisServer) -> list[str]:
    found: dict[str, dict[str, str]] = node.client().execute_command("CLUSTER NODES")
    return [each["node_id"] for each in found.values() if each["connected"] and "handshake" not in each["flags"]]


def _is_up(node: RedisServer) -> bool:
    with contextlib.suppress(redis_py.RedisError):
        state: dict[str, str] = node.client().execute_command("CLUSTER INFO")
        return state["cluster_state"] == "ok" and int(state["cluster_slots_ok"]) == _SLOTS
    return False


def _follows(replica: RedisServer) -> bool:
    return replica.client().info("replication").get("master_link_status") == "up"

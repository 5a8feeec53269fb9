"""The Redis that jobs go to: its connections, and what the server is like. Writes nothing by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from redis import Redis

from migrate.errors import TargetMismatch, Unavailable
from migrate.resque import connecting
from migrate.resque.cluster import is_tagged
from migrate.resque.faults import redis_faults, scattered
from migrate.resque.keys import Keys


class TargetFacts(msgspec.Struct, frozen=True):
    """What the server is like, by its own INFO. Sizes are bytes."""

    product: str  #: Redis or Valkey
    version: str
    role: str  #: master, slave
    read_only: bool
    replicas: int
    used_memory: int
    max_memory: int  #: 0: no limit
    eviction: str  #: maxmemory-policy
    aof: bool
    rdb: bool | None  #: whether save points are set; None: the server doesn't tell
    append_fsync: str | None  #: always, everysec, no; None: the server doesn't tell
    is_cluster: bool = False  #: whether it is a node of a Redis Cluster

    @property
    def evicts(self) -> bool:
        """Whether jobs may be thrown away when memory is full; `volatile-*` spares keys that never expire."""
        return self.eviction.startswith("allkeys-")


class Target:
    """One namespace of one Redis. Usable from several threads."""

    def __init__(self, client: Redis, namespace: str, label: str) -> None:
        self.client = client
        self.keys = Keys(namespace)
        self.namespace = namespace
        self.label = label  #: for messages: the url without its password

    @classmethod
    def open(cls, url: str, namespace: str, *, answer_seconds: float | None = None) -> Target:
        """Raises UsageError for a url that can't be read. Connects when first used.

        `answer_seconds`: for callers that can't wait: connecting and each answer take no longer, and nothing is asked
        twice.
        """
        client = connecting.client(url, namespace, answer_seconds)
        return cls(client, namespace, connecting.safe_label(url))

    def in_namespace(self, namespace: str) -> Target:
        """The same Redis, another namespace; shares the connections."""
        return Target(self.client, namespace, self.label)

    @contextmanager
    def commands(self) -> Iterator[Redis]:
        """The client, its errors turned into ours."""
        with redis_faults(self.label):
            yield self.client

    @contextmanager
    def one_connection(self) -> Iterator[Target]:
        """This target over one connection: WAIT and WAITAOF speak of their own connection's writes only.

        The client may still reconnect by itself; `connection_mark` shows whether it has.
        """
        with redis_faults(self.label), self.client.client() as client:
            yield Target(client, self.namespace, self.label)

    def connection_mark(self) -> tuple[str, int]:
        """What names the server's run and, on one connection, that connection."""
        with self.commands() as client:
            info: Any = client.info("server")
            return str(info["run_id"]), int(client.client_id())

    def run(self, script: str, keys: list[bytes], arguments: list[Any]) -> Any:
        """Run a Lua script by its hash, loading it where the server doesn't know it yet."""
        with self.commands() as client:
            return client.register_script(script)(keys=keys, args=arguments)

    def now(self) -> int:
        """This Redis's clock, Unix seconds."""
        with self.commands() as client:
            return int(client.time()[0])

    def facts(self) -> TargetFacts:
        """What the server is like now. Raises TargetMismatch for a Cluster whose nodes would share this namespace."""
        with self.commands() as client:
            info: Mapping[str, Any] = client.info()
        is_cluster = bool(int(info.get("cluster_enabled", 0)))
        if is_cluster and not is_tagged(self.namespace):
            raise scattered(self.label, self.namespace)
        save = self._setting("save")
        return TargetFacts(
            product="Valkey" if "valkey_version" in info else "Redis",
            version=str(info.get("valkey_version") or info.get("redis_version")),
            role=str(info.get("role", "master")),
            read_only=info.get("role") == "slave" and bool(int(info.get("slave_read_only", 1))),
            replicas=int(info.get("connected_slaves", 0)),
            used_memory=int(info.get("used_memory", 0)),
            max_memory=int(info.get("maxmemory", 0)),
            eviction=str(info.get("maxmemory_policy", "noeviction")),
            aof=bool(int(info.get("aof_enabled", 0))),
            rdb=None if save is None else bool(save),
            append_fsync=self._setting("appendfsync"),
            is_cluster=is_cluster,
        )

    def _setting(self, name: str) -> str | None:
        """A configuration value; None where CONFIG is forbidden, as hosted servers do."""
        with self.commands() as client:
            try:
                found: Mapping[Any, Any] = client.config_get(name)
            except Exception:  # noqa: BLE001  whatever the refusal's form: the server doesn't tell
                return None
        values = [value for key, value in found.items() if key in (name, name.encode())]
        value = values[0] if values else None
        return value.decode() if isinstance(value, bytes) else value

    def check_usable(self) -> TargetFacts:
        """Raise what would make every hand-off fail or its jobs vanish; the caller decides whether to wait."""
        facts = self.facts()
        if facts.evicts:
            raise TargetMismatch(
                f"target {self.label}: maxmemory-policy is {facts.eviction}: it throws jobs away when it is full",
                advice="set maxmemory-policy to noeviction (or volatile-*), or use a Redis of its own for jobs",
            )
        if facts.read_only:
            raise Unavailable(
                f"target {self.label}: it is read-only, a replica",
                advice="point target.url at the master, or at the Sentinels",
            )
        return facts

    def close(self) -> None:
        """Close all connections."""
        self.client.close()

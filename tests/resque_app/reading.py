"""Everything that Resque holds, decoded, in the order in which workers would take it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from redis import Redis


class ResqueJob(NamedTuple):
    """One job as Redis holds it."""

    #: Its queue; of a delayed job the one that it will go to.
    queue: str
    text: bytes
    payload: dict[str, Any]

    @property
    def class_name(self) -> str:
        """What runs it."""
        return str(self.payload["class"])

    @property
    def args(self) -> list[Any]:
        """What it is called with."""
        return cast("list[Any]", self.payload["args"])

    @property
    def qudo(self) -> dict[str, Any]:
        """Where it came from; empty in delayed texts of dialects whose schedulers would drop it."""
        return cast("dict[str, Any]", self.payload.get("qudo", {}))

    @property
    def id(self) -> int:
        """Its id in Qudo."""
        return int(self.qudo["id"])

    @property
    def source(self) -> str:
        """The source it came from."""
        return str(self.qudo["source"])

    @property
    def identity(self) -> str:
        """What names its crossing."""
        return str(self.qudo["outbox"])


class Resque:
    """One namespace. Reads anew at each call; each reading also checks that the keys agree with each other."""

    def __init__(self, client: Redis, namespace: str = "resque") -> None:
        self.client = client
        self.namespace = namespace

    def key(self, name: str) -> str:
        """The Redis key of that name."""
        return f"{self.namespace}:{name}"

    def queue(self, name: str) -> list[ResqueJob]:
        """The jobs of a queue, the next one first."""
        return [_job(text, name) for text in self._list(f"queue:{name}")]

    def queues(self) -> dict[str, list[ResqueJob]]:
        """All queues. Those that Resque knows of must be those that hold jobs, or held some."""
        held = {key.decode().removeprefix(self.key("queue:")) for key in self.client.scan_iter(self.key("queue:*"))}
        known = {name.decode() for name in self._set("queues")}  # asked second: a job may come in between
        assert held <= known, f"queues that no worker would look at: {held - known}"
        return {name: self.queue(name) for name in sorted(known)}

    def delayed(self) -> dict[int, list[ResqueJob]]:
        """The jobs of each second, as schedulers find them: by the schedule, with each text's timestamps."""
        schedule = cast(
            "list[tuple[bytes, float]]", self.client.zrange(self.key("delayed_queue_schedule"), 0, -1, withscores=True)
        )
        seconds: dict[int, list[ResqueJob]] = {}
        for member, score in schedule:
            second = int(member)
            assert score == second
            seconds[second] = [_job(text) for text in self._list(f"delayed:{second}")]
            assert seconds[second], f"second {second} is scheduled and empty"
        lists = {key.decode() for key in self.client.scan_iter(self.key("delayed:*"))}
        assert lists == {self.key(f"delayed:{second}") for second in seconds}, "jobs that no scheduler would find"
        self._check_timestamps(seconds)
        return seconds

    def failed(self) -> list[dict[str, Any]]:
        """The failures, the oldest first."""
        return [json.loads(text) for text in self._list("failed")]

    def jobs(self) -> list[ResqueJob]:
        """All jobs that wait, in queues or for their time."""
        queued = [job for jobs in self.queues().values() for job in jobs]
        return queued + [job for jobs in self.delayed().values() for job in jobs]

    def ids(self, source: str = "main") -> list[int]:
        """The Qudo ids of all waiting jobs of a source, sorted, as often as they are there."""
        return sorted(job.id for job in self.jobs() if job.source == source)

    def length(self) -> int:
        """The number of jobs in queues, quickly."""
        lengths: list[int] = [self.client.llen(key) for key in set(self.client.scan_iter(self.key("queue:*")))]
        return sum(lengths)

    def _check_timestamps(self, seconds: dict[int, list[ResqueJob]]) -> None:
        expected: dict[bytes, set[bytes]] = {}
        for second, jobs in seconds.items():
            for job in jobs:
                expected.setdefault(job.text, set()).add(f"delayed:{second}".encode())
        prefix = self.key("timestamps:").encode()
        # As a pattern, the brackets of JSON would be character classes: the prefix is enough.
        found = {key.removeprefix(prefix): self._set(key) for key in self.client.scan_iter(prefix + b"*")}
        assert found == expected, "timestamps and delayed lists disagree"

    def _list(self, name: str) -> list[bytes]:
        return cast("list[bytes]", self.client.lrange(self.key(name), 0, -1))

    def _set(self, name: str | bytes) -> set[bytes]:
        return cast("set[bytes]", self.client.smembers(self.key(name) if isinstance(name, str) else name))


def _job(text: bytes, queue: str | None = None) -> ResqueJob:
    payload = json.loads(text)
    return ResqueJob(payload["queue"] if queue is None else queue, text, payload)


def whole_redis(client: Redis) -> dict[bytes, tuple[object, bool]]:
    """Every key of a database: its value, and whether it will expire."""
    readers: dict[bytes, Callable[[bytes], object]] = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    keys = list(client.scan_iter())
    return {key: (readers[cast("bytes", client.type(key))](key), client.ttl(key) != -1) for key in keys}

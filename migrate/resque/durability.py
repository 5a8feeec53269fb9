"""The durable fence: proof that everything written before it survives a crash of this Redis.

Writes one key of our own, on the connection that is then asked: WAITAOF and WAIT speak of their own connection's
writes only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import ResponseError

from migrate.errors import Refused, Unavailable
from migrate.failpoints import reach
from migrate.resque.target import Target

Seen = TypeVar("Seen")

#: Seconds that the server may take to reach the disk and its replicas.
FENCE_SECONDS = 10.0
#: Seconds that a snapshot may take where there is no append-only file.
SAVE_SECONDS = 120.0
#: Seconds after the fence until an `everysec` append file has it, by Redis's own rule.
EVERYSEC_SECONDS = 2.0


def fence(target: Target, look: Callable[[Target], Seen], *, may_save: bool = False) -> Seen:
    """Look, then wait until all writes so far are durable: what `look` has seen and returned survives a crash.

    Both go over one connection to one run of the server: a Redis that restarted in between may have forgotten what was
    seen, and would prove the durability of something else. `may_save`: where there is no append-only file, have a
    snapshot made, which forks the server.
    Raises Refused when this Redis gives no such proof, Unavailable when the connection didn't last.
    """
    with target.one_connection() as one:
        mark = one.connection_mark()
        seen = look(one)
        client = one.client
        before = _persistence(client)
        client.incr(one.keys.fence)
        replication: Any = client.info("replication")
        replicas = int(replication["connected_slaves"])
        _on_disk(client, before, target.label, may_save=may_save)
        if replicas and int(client.wait(replicas, int(FENCE_SECONDS * 1000))) < replicas:
            raise Refused(f"target {target.label}: its replicas don't follow", advice="look at their lag")
        if one.connection_mark() != mark:
            raise Unavailable(f"target {target.label}: the connection was lost while waiting for its disk")
    reach("fence.proved")
    return seen


def _on_disk(client: Redis, before: Mapping[str, Any], label: str, *, may_save: bool) -> None:
    if not int(before.get("aof_enabled", 0)):
        if may_save:
            _by_snapshot(client, label)
            return
        raise Refused(
            f"target {label}: no append-only file: a crash would forget jobs, and it can't be known which",
            advice="set appendonly yes",
        )
    try:
        local, _ = client.execute_command("WAITAOF", 1, 0, int(FENCE_SECONDS * 1000))
    except ResponseError:
        _on_disk_before_waitaof(client, before, label)
        return
    if not int(local):
        raise Refused(f"target {label}: the append-only file wasn't synced in {FENCE_SECONDS:.0f} s")


def _on_disk_before_waitaof(client: Redis, before: Mapping[str, Any], label: str) -> None:
    """Redis before 7.2: by the policy, and by the counters that tell whether it was kept."""
    policy = _append_fsync(client)
    if policy not in ("always", "everysec"):
        raise Refused(f"target {label}: appendfsync is {policy or 'unknown'}", advice="set it to everysec or always")
    # With always each write was synced before it was answered; only a first rewrite may have to be awaited.
    pause = 0.1 if policy == "always" else EVERYSEC_SECONDS
    deadline = time.monotonic() + FENCE_SECONDS
    if policy == "everysec":
        time.sleep(pause)
    while True:
        now = _persistence(client)
        quiet = policy == "always" or (
            now.get("aof_last_write_status") == "ok"
            and int(now.get("aof_pending_bio_fsync", 0)) == 0
            and now.get("aof_delayed_fsync") == before.get("aof_delayed_fsync")
        )
        # A file that was just switched on is "enabled" at once, and lacks all from before until its first rewrite has
        # ended (seen). Nothing tells that one from a routine rewrite.
        rewriting = int(now.get("aof_rewrite_in_progress", 0)) or int(now.get("aof_rewrite_scheduled", 0))
        if quiet and not rewriting:
            return
        if time.monotonic() > deadline:
            if rewriting:
                raise Refused(f"target {label}: the append-only file is being rewritten", advice="try again later")
            raise Refused(f"target {label}: the append-only file lags behind", advice="look at its disk")
        before = now
        time.sleep(pause)


def _append_fsync(client: Redis) -> str:
    """The policy, empty where CONFIG is forbidden."""
    try:
        found: Any = client.config_get("appendfsync")
    except ResponseError:
        return ""
    policy = next(iter(found.values()), b"")
    return policy.decode() if isinstance(policy, bytes) else str(policy)


def _by_snapshot(client: Redis, label: str) -> None:
    """A completed BGSAVE that began after the fence."""
    deadline = time.monotonic() + SAVE_SECONDS
    began = False
    while time.monotonic() < deadline:
        now = _persistence(client)
        if not int(now.get("rdb_bgsave_in_progress", 0)):
            if began:
                if now.get("rdb_last_bgsave_status") == "ok":
                    return
                break
            try:
                client.bgsave()
            except ResponseError as error:
                raise Refused(f"target {label}: it can't make a snapshot: {error}") from error
            began = True
        time.sleep(0.05)
    raise Refused(f"target {label}: no snapshot was completed", advice="look at its log and its disk")


def _persistence(client: Redis) -> Mapping[str, Any]:
    found: Mapping[str, Any] = client.info("persistence")
    return found

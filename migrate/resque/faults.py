"""redis-py's errors, turned into the project's own at the edge. Messages name the target, never a job's data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions
from redis.sentinel import MasterNotFoundError

from migrate.errors import (
    AccessDenied,
    Loading,
    MigrateError,
    RightsError,
    ServerError,
    TargetMismatch,
    Unavailable,
)


@contextmanager
def redis_faults(label: str) -> Iterator[None]:
    """Turn redis-py's errors inside the block into ours; `label` names the target without its password."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise translated(label, error) from error


def scattered(label: str, namespace: str | None = None) -> TargetMismatch:
    """A namespace that isn't in braces, on a Redis Cluster: its keys would lie on many nodes."""
    named = "the namespace" if namespace is None else f"namespace {namespace!r}"
    example = "resque" if namespace is None else namespace
    return TargetMismatch(
        f"target {label}: it is a Redis Cluster, and {named} isn't in braces: its keys would lie on many nodes",
        advice=f'write namespace = "{{{example}}}", here and in the configuration of the workers',
    )


def translated(label: str, error: Exception) -> MigrateError:
    """Our error for an error of redis-py."""
    words = " ".join(str(error).split())[:300]
    if isinstance(error, exceptions.AuthenticationError) or words.startswith(("WRONGPASS", "NOAUTH")):
        return AccessDenied(
            f"target {label}: the server refuses the login: {words}",
            advice="check user and password in target.url (and the environment variable they come from)",
        )
    if isinstance(error, exceptions.NoPermissionError) or words.startswith("NOPERM"):
        return RightsError(f"target {label}: {words}", advice="give this Redis user the commands and keys it needs")
    if isinstance(error, exceptions.BusyLoadingError):
        return Loading(f"target {label}: it is loading its data")
    if isinstance(error, exceptions.OutOfMemoryError) or words.startswith("OOM"):
        return Unavailable(
            f"target {label}: out of memory (OOM): it takes no more jobs",
            advice="raise maxmemory, or let workers drain the queues; then run again: moved jobs wait in the outbox",
        )
    if isinstance(error, exceptions.ReadOnlyError) or words.startswith("READONLY"):
        return Unavailable(
            f"target {label}: it is read-only, a replica",
            advice="point target.url at the master, or at the Sentinels",
        )
    if words.startswith("MISCONF"):
        return Unavailable(
            f"target {label}: it can't save to disk and takes no writes (MISCONF)",
            advice="look at its disk and its log",
        )
    if isinstance(error, (exceptions.ClusterCrossSlotError, exceptions.MovedError)):
        return scattered(label)
    if isinstance(error, (exceptions.AskError, exceptions.TryAgainError)):
        return Unavailable(f"target {label}: the Cluster is moving its slot to another node")
    # redis-py takes the code off the words where it has a class for it; MASTERDOWN's is a ClusterDownError too.
    if isinstance(error, exceptions.ClusterDownError) or words.startswith(("NOREPLICAS", "UNBLOCKED", "BUSY")):
        return Unavailable(f"target {label}: {words}")
    if isinstance(error, MasterNotFoundError):
        # What each Sentinel said stands behind it, with all settings of its connection.
        return Unavailable(
            f"target {label}: {words.partition(' : ')[0]}",
            advice="check that the Sentinels of target.url are up and watch a service of this name",
        )
    if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError, OSError)):
        return Unavailable(
            f"target {label}: can't be reached: {words}", advice="check that Redis is up and target.url is right"
        )
    return ServerError(f"target {label}: {words}")

"""From `target.url` to a client: one Redis, the master that Sentinels name, or a Cluster's node. Writes nothing."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable
from typing import Any

from redis import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from migrate.errors import UsageError
from migrate.resque.cluster import Node, following_pool, is_tagged
from migrate.resque.faults import scattered

#: Seconds that connecting may take, and that an answer may take: a hand-off of some megabytes lasts milliseconds.
CONNECT_TIMEOUT_SECONDS = 5.0
ANSWER_TIMEOUT_SECONDS = 30.0

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
_SENTINEL_PORT, _REDIS_PORT = 26379, 6379


def client(url: str, namespace: str, answer_seconds: float | None = None) -> Redis:
    """A client that connects when first used. Raises UsageError for a url that can't be read.

    Raises TargetMismatch for a url that says Cluster and a namespace that can't be there.
    A namespace in braces may be a Cluster's: its connections find its node. `answer_seconds`: see `Target.open`.
    """
    scheme, separator, _ = url.partition("://")
    if scheme not in _SCHEMES:
        # What is no scheme isn't shown: it may hold the password.
        found = f"{scheme!r}: " if separator and scheme.replace("+", "").isalnum() else ""
        raise UsageError(f"target.url: {found}use one of {', '.join(f'{name}://' for name in _SCHEMES)}")
    # One immediate retry: a pooled connection may have died with the last restart. Real waiting is the engine's.
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": ANSWER_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 1),
        "protocol": 2,
    }
    if answer_seconds is not None:
        options |= {"socket_connect_timeout": answer_seconds, "socket_timeout": answer_seconds}
        options["retry"] = Retry(NoBackoff(), 0)
    try:
        if scheme == "redis+sentinel":
            return _through_sentinels(url, options)
        if scheme == "redis+cluster":
            return _of_cluster(url, namespace, options)
        return _of_one(url, namespace, options)
    except ValueError as error:
        raise UsageError(f"target.url: {error}") from None


def _of_one(url: str, namespace: str, options: dict[str, Any]) -> Redis:
    """redis://, rediss://, unix://: one server, which may be any node of a Cluster."""
    parsed = parse_url(url)
    kind = parsed.pop("connection_class", Connection)
    if kind is UnixDomainSocketConnection:
        del options["socket_connect_timeout"]
    elif is_tagged(namespace):
        seed = Node(parsed.pop("host", "localhost"), parsed.pop("port", _REDIS_PORT))
        return _following(namespace, [seed], options | parsed, tls=kind is SSLConnection)
    return Redis.from_url(url, **options)


def _of_cluster(url: str, namespace: str, options: dict[str, Any]) -> Redis:
    """redis+cluster://[user:password@]host:port,host:port: any nodes of a Cluster."""
    if not is_tagged(namespace):
        raise scattered(safe_label(url), namespace)
    parts = urllib.parse.urlsplit(url)
    if parts.path.strip("/") not in ("", "0"):
        raise UsageError("target.url: write redis+cluster://host:port,host:port; a Cluster has no database numbers")
    nodes, login = _hosts_and_login(parts.netloc, _REDIS_PORT)
    return _following(namespace, nodes, options | login, tls=False)


def _following(namespace: str, seeds: Iterable[Node], options: dict[str, Any], *, tls: bool) -> Redis:
    return Redis.from_pool(following_pool(namespace, seeds, tls=tls, **options))


def _through_sentinels(url: str, options: dict[str, Any]) -> Redis:
    """redis+sentinel://[user:password@]host:port,host:port/service[/db]: the service's master, whoever it is now."""
    parts = urllib.parse.urlsplit(url)
    path = [piece for piece in parts.path.split("/") if piece]
    if not parts.netloc.rpartition("@")[2] or not path or len(path) > 2 or (len(path) == 2 and not path[1].isdigit()):
        raise UsageError("target.url: write redis+sentinel://host:port,host:port/service/db")
    addresses, login = _hosts_and_login(parts.netloc, _SENTINEL_PORT)
    sentinel = Sentinel(addresses, sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT_SECONDS})
    master: Redis = sentinel.master_for(path[0], db=int(path[1]) if len(path) == 2 else 0, **login, **options)
    return master


def _hosts_and_login(netloc: str, usual_port: int) -> tuple[list[Node], dict[str, str]]:
    """[user:password@]host:port,host:port"""
    credentials, _, hosts = netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    addresses = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", str(usual_port))
        if not name or not port.isdigit():
            raise UsageError(f"target.url: {host!r}: write host:port,host:port")
        addresses.append(Node(name, int(port)))
    login = {key: urllib.parse.unquote(value) for key, value in (("username", user), ("password", password)) if value}
    return addresses, login


def safe_label(url: str) -> str:
    """The url as messages may show it: without user, password and query."""
    parts = urllib.parse.urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{hosts}{parts.path}"

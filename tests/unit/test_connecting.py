"""What `target.url` may be, and where its connections begin."""

from __future__ import annotations

import pytest
from redis import Connection
from redis.sentinel import SentinelConnectionPool

from migrate.errors import MigrateError
from migrate.resque import connecting
from migrate.resque.cluster import FollowingConnection, FollowingSSLConnection, Node, SlotOwner, is_tagged


@pytest.mark.parametrize(
    ("namespace", "tagged"),
    [("{resque}", True), ("a{b}c", True), ("resque", False), ("{}", False), ("{}x{y}", False), ("}{", False)],
)
def test_a_namespace_lies_on_one_slot_if_its_first_braces_enclose_something(namespace: str, tagged: bool) -> None:
    """Redis's own rule: an empty first pair means that the whole key is hashed."""
    assert is_tagged(namespace) is tagged


@pytest.mark.parametrize(
    ("url", "namespace", "kind", "seeds"),
    [
        ("redis://h1:7000/0", "{r}", FollowingConnection, [("h1", 7000)]),
        ("rediss://h1", "{r}", FollowingSSLConnection, [("h1", 6379)]),
        ("redis+cluster://u:p%40@h1:7000,h2:7001", "{r}", FollowingConnection, [("h1", 7000), ("h2", 7001)]),
    ],
)
def test_a_namespace_in_braces_is_followed_from_any_node(
    url: str, namespace: str, kind: type, seeds: list[tuple[str, int]]
) -> None:
    pool = connecting.client(url, namespace).connection_pool
    assert pool.connection_class is kind
    assert pool.connection_kwargs["slot_owner"].nodes() == [Node(*seed) for seed in seeds]
    if "p%40" in url:
        assert (pool.connection_kwargs["username"], pool.connection_kwargs["password"]) == ("u", "p@")


def test_sentinels_are_asked_for_the_service() -> None:
    pool = connecting.client("redis+sentinel://:secret@s1:1,s2/jobs/3", "{r}").connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "jobs"
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (3, "secret")


@pytest.mark.parametrize(
    ("url", "namespace", "word"),
    [
        ("redis+cluster://h1:7000", "resque", "braces"),
        ("redis+cluster://h1:7000/2", "{r}", "database numbers"),
        ("redis+cluster://h1:seven", "{r}", "host:port"),
        ("redis+sentinel://h1:1", "resque", "service"),
        ("http://h1", "resque", "redis[+]cluster"),
    ],
)
def test_what_cannot_be_a_target_is_wrong_usage(url: str, namespace: str, word: str) -> None:
    with pytest.raises(MigrateError, match=word) as caught:
        connecting.client(url, namespace)
    assert caught.value.exit_status == 2


def test_nodes_that_failed_are_asked_last_and_forgotten_as_owners() -> None:
    one, two, three = Node("h", 1), Node("h", 2), Node("h", 3)
    owner = SlotOwner("{r}", [one, two], Connection, {})
    owner.moved_to(three)
    assert owner.node() == three
    owner.failed(one)
    assert (owner.node(), owner.nodes()) == (three, [two, three, one])
    owner.failed(three)
    assert owner.nodes() == [two, one, three]

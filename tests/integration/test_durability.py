"""The durable fence on real servers: what it has seen survives a crash, or it says that it can't know."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from migrate.errors import Refused, Unavailable
from migrate.resque import durability
from migrate.resque.durability import EVERYSEC_SECONDS, fence
from migrate.resque.target import Target
from tests.servers import Proxy, RedisServer, ValkeyServer, wait_until
from tests.servers.process import Option


@contextmanager
def started(kind: type[RedisServer] = RedisServer, **options: Option) -> Iterator[tuple[RedisServer, Target]]:
    """A server of its own and a target on it that holds one value."""
    with kind(**options) as server:
        target = Target.open(server.url, "resque")
        with target.commands() as client:
            client.set("seen", "yes")
        yield server, target
        target.close()


def look(target: Target) -> object:
    with target.commands() as client:
        return client.get("seen")


def calls(client: Redis, command: str) -> int:
    stats: Any = client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


def elapsed(action: Callable[[], object]) -> float:
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers get a fraction of the time, since these never get there."""
    monkeypatch.setattr(durability, "FENCE_SECONDS", 0.5)
    monkeypatch.setattr(durability, "EVERYSEC_SECONDS", 0.1)


# --- the append-only file -------------------------------------------------------------------------------------------


def test_always_is_proved_at_once(redis_server: RedisServer) -> None:
    target = Target.open(redis_server.url, "resque")
    assert elapsed(lambda: fence(target, look)) < EVERYSEC_SECONDS
    target.close()


def test_everysec_is_proved_two_seconds_after_the_fence() -> None:
    """By Redis's own rule: what has been written for longer than that is on disk, or its counters tell."""
    with started(appendfsync="everysec") as (_, target):
        begun = time.monotonic()
        assert fence(target, look) == b"yes"
        assert EVERYSEC_SECONDS == 2.0
        assert EVERYSEC_SECONDS <= time.monotonic() - begun < EVERYSEC_SECONDS + 15


def test_waitaof_is_asked_where_the_server_knows_it() -> None:
    with started(ValkeyServer, appendfsync="everysec") as (server, target):
        assert fence(target, look) == b"yes"
        assert calls(server.client(), "waitaof") == 1
        server.client().config_set("appendfsync", "always")
        assert elapsed(lambda: fence(target, look)) < EVERYSEC_SECONDS


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_what_was_seen_is_in_the_files_that_a_crash_would_leave(
    kind: type[RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "EVERYSEC_SECONDS", 0.2)
    with started(kind, appendfsync="everysec") as (server, target), kind() as other:
        fence(target, look)
        other.stop()
        shutil.rmtree(other.folder / "appendonlydir")
        shutil.copytree(server.folder / "appendonlydir", other.folder / "appendonlydir")
        other.start()
        assert other.client().get("seen") == b"yes"


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_without_an_append_only_file_there_is_no_proof(kind: type[RedisServer]) -> None:
    with (
        started(kind, appendonly="no", save="3600 1") as (_, target),
        pytest.raises(Refused, match="no append-only file"),
    ):
        fence(target, look)


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_with_appendfsync_no_there_is_no_proof(kind: type[RedisServer], short: None) -> None:
    with started(kind, appendfsync="no") as (_, target), pytest.raises(Refused) as caught:
        fence(target, look)
    assert "append" in caught.value.message


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_a_server_that_hides_its_configuration_gives_the_proof_that_it_can(kind: type[RedisServer]) -> None:
    """Hosted servers forbid CONFIG; WAITAOF needs none of it."""
    with started(kind, appendfsync="always", user="default on nopass ~* &* +@all -config") as (_, target):
        if kind is ValkeyServer:
            assert fence(target, look) == b"yes"
            return
        with pytest.raises(Refused, match="appendfsync is unknown"):
            fence(target, look)


def persistence(*answers: dict[str, object]) -> Callable[[Redis], dict[str, object]]:
    """A server that answers so, and with the last answer from then on."""
    left = list(answers)
    usual = {"aof_enabled": 1, "aof_last_write_status": "ok", "aof_pending_bio_fsync": 0, "aof_delayed_fsync": 3}
    return lambda _client: usual | (left.pop(0) if len(left) > 1 else left[0])


@pytest.mark.parametrize(
    "lagging", [{"aof_last_write_status": "err"}, {"aof_pending_bio_fsync": 1}, {"aof_delayed_fsync": 4}]
)
def test_everysec_waits_for_a_disk_that_lags(
    monkeypatch: pytest.MonkeyPatch, short: None, lagging: dict[str, object]
) -> None:
    with started(appendfsync="everysec") as (_, target):
        # Before the fence, then after one pause, after two, and after three: one delayed sync counts until it is over.
        answers = persistence({}, lagging, lagging, {"aof_delayed_fsync": lagging.get("aof_delayed_fsync", 3)})
        monkeypatch.setattr(durability, "_persistence", answers)
        assert 0.2 <= elapsed(lambda: fence(target, look)) < 5.0


@pytest.mark.parametrize("lagging", [{"aof_last_write_status": "err"}, {"aof_pending_bio_fsync": 1}])
def test_a_disk_that_never_gets_there_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, short: None, lagging: dict[str, object]
) -> None:
    with started(appendfsync="everysec") as (_, target):
        monkeypatch.setattr(durability, "_persistence", persistence({}, lagging))
        with pytest.raises(Refused, match="lags behind"):
            fence(target, look)


# --- a snapshot -----------------------------------------------------------------------------------------------------


def test_a_snapshot_is_made_where_it_may_be() -> None:
    with started(appendonly="no") as (server, target):
        assert fence(target, look, may_save=True) == b"yes"
        server.restart(graceful=False)
        assert server.client().get("seen") == b"yes"


def test_a_snapshot_that_began_before_is_not_taken_for_one_of_ours() -> None:
    with started(appendonly="no") as (server, target):
        client = server.client()
        client.config_set("rdb-key-save-delay", 300_000)
        client.bgsave()
        client.set("seen", "later")
        begun = time.monotonic()
        threading.Timer(0.5, lambda: server.client().config_set("rdb-key-save-delay", 0)).start()
        assert fence(target, look, may_save=True) == b"later"
        assert time.monotonic() - begun < 60
        server.restart(graceful=False)
        assert server.client().get("seen") == b"later"


def test_a_snapshot_that_fails_proves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with started(appendonly="no", dir=str(folder)) as (_, target):
        shutil.rmtree(folder)
        with pytest.raises(Refused, match="snapshot"):
            fence(target, look, may_save=True)


def test_where_there_is_an_append_only_file_no_snapshot_is_made() -> None:
    with started(appendfsync="always") as (server, target):
        fence(target, look, may_save=True)
        assert calls(server.client(), "bgsave") == 0


# --- replicas -------------------------------------------------------------------------------------------------------


def is_followed(client: Redis) -> bool:
    info: Any = client.info("replication")
    return any(info[name]["state"] == "online" for name in info if name.startswith("slave") and name[5:].isdigit())


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_replicas_must_have_it_too(kind: type[RedisServer], short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        started(kind, appendfsync="always") as (server, target),
        kind(replicaof=f"127.0.0.1 {server.port}") as replica,
    ):
        client = server.client()
        wait_until(lambda: is_followed(client), 30, "it follows")
        monkeypatch.setattr(durability, "FENCE_SECONDS", 20.0)
        assert fence(target, look) == b"yes"
        assert replica.client().get("seen") == b"yes"

        monkeypatch.setattr(durability, "FENCE_SECONDS", 0.5)
        replica.freeze()
        with pytest.raises(Refused, match="replicas don't follow"):
            fence(target, look)

        monkeypatch.setattr(durability, "FENCE_SECONDS", 20.0)
        replica.thaw()
        assert fence(target, look) == b"yes"

        replica.kill()
        wait_until(lambda: not client.info("replication")["connected_slaves"], 30, "it is gone")
        assert fence(target, look) == b"yes"


# --- never a proof of something else --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
@pytest.mark.parametrize("graceful", [True, False])
@pytest.mark.parametrize("forgets", [True, False])
def test_a_server_that_restarted_after_the_look_proves_nothing(
    kind: type[RedisServer], graceful: bool, forgets: bool
) -> None:
    """It may have forgotten what was seen: its last second, or everything."""
    with started(kind, appendfsync="always") as (server, target):

        def look_and_restart(one: Target) -> object:
            seen = look(one)
            server.stop() if graceful else server.kill()
            if forgets:
                shutil.rmtree(server.folder / "appendonlydir")
            server.start()
            return seen

        with pytest.raises(Unavailable):
            fence(target, look_and_restart)
        assert fence(target, look) == (None if forgets else b"yes")


@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_a_server_that_restarts_in_the_middle_of_the_look_proves_nothing(kind: type[RedisServer]) -> None:
    with started(kind, appendfsync="always") as (server, target):

        def restart_and_look(one: Target) -> object:
            look(one)
            server.restart(graceful=False)
            return look(one)

        with pytest.raises(Unavailable):
            fence(target, restart_and_look)


@pytest.mark.parametrize("moment", ["looking", "waiting"])
@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_a_connection_that_did_not_last_proves_nothing(kind: type[RedisServer], moment: str, short: None) -> None:
    """WAIT and WAITAOF speak of the writes of their own connection: on another one they say yes at once."""
    with started(kind, appendfsync="everysec") as (server, _), Proxy(server) as proxy:
        target = Target.open(proxy.url(server.url), "resque")

        def look_and_cut(one: Target) -> object:
            seen = look(one)
            if moment == "looking":
                proxy.cut()
            elif kind is ValkeyServer:
                proxy.lose_reply(b"WAITAOF")
            else:
                proxy.lose_request(b"CONFIG")
            return seen

        with pytest.raises(Unavailable):
            fence(target, look_and_cut)
        proxy.heal()
        target.close()


def test_the_connection_that_looks_is_the_one_that_is_asked(redis_server: RedisServer) -> None:
    target = Target.open(redis_server.url, "resque")
    seen: list[int] = []

    def look_who(one: Target) -> int:
        with one.commands() as client:
            seen.append(client.client_id())
            return client.client_id()

    assert [fence(target, look_who)] == seen
    target.close()


def test_what_the_look_raises_is_raised(redis_server: RedisServer) -> None:
    target = Target.open(redis_server.url, "resque")

    def fails(_one: Target) -> object:
        raise Refused("as it was")

    with pytest.raises(Refused, match="as it was"):
        fence(target, fails)
    assert fence(target, look) is None
    target.close()


def test_only_a_key_of_our_own_is_written(redis_server: RedisServer, redis: Redis) -> None:
    target = Target.open(redis_server.url, "resque")
    for _ in range(3):
        fence(target, look)
    assert redis.keys() == [target.keys.fence]
    target.close()


@pytest.mark.parametrize("policy", ["always", "everysec"])
@pytest.mark.parametrize("kind", [RedisServer, ValkeyServer])
def test_an_append_only_file_that_was_just_switched_on_proves_nothing_before_its_first_rewrite(
    kind: type[RedisServer], policy: str, short: None
) -> None:
    """INFO says at once that it is enabled; what was there before is in no file until the rewrite has ended."""
    with started(kind, appendonly="no", appendfsync=policy) as (server, target):
        client = server.client()
        client.config_set("rdb-key-save-delay", 1_000_000_000)
        client.config_set("appendonly", "yes")
        with pytest.raises(Refused):
            fence(target, look)
        server.options["appendonly"] = "yes"
        server.restart(graceful=False)
        assert server.client().get("seen") is None

        server.client().set("seen", "again")
        assert fence(target, look) == b"again"

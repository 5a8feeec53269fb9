"""After Redis was lost: nothing happens by itself, a person decides between running twice and waiting."""

from __future__ import annotations

from redis import Redis

from tests.conftest import WriteConfig
from tests.qudo_app.enqueueing import fill
from tests.servers import Database, RedisServer
from tests.servers.command import Cli

QUEUE = "resque:queue:worker_mail"


def migrated(database: Database, server: RedisServer, cli: Cli, write_config: WriteConfig) -> None:
    """Thirty jobs that have crossed, ten of them done by workers since."""
    fill(database, 30)
    write_config({"main": database}, server)
    assert cli("run").status == 0
    with server.client() as client:
        client.lpop(QUEUE, 10)


def test_a_healthy_target_needs_no_recovery(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    migrated(innodb, redis_server, cli, write_config)
    result = cli("recover", "--redis-lost", "hold", "--yes")
    assert result.status == 1
    assert "nothing to recover" in result.stderr


def test_an_emptied_redis_gets_all_jobs_again_by_hand_off(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    migrated(database, redis_server, cli, write_config)
    redis.flushall()
    assert cli("run").status == 2
    assert redis.dbsize() == 0
    asked = cli("recover", "--redis-lost", "hand-off")
    assert asked.status == 1
    assert "run a second time" in asked.stderr
    assert redis.dbsize() == 0
    done = cli("recover", "--redis-lost", "hand-off", "--yes", "--json")
    assert done.status == 0
    assert done.json()["sources"][0]["jobs"] == 30
    fill(database, 5)
    assert cli("run").status == 0
    assert redis.llen(QUEUE) == 35


def test_held_jobs_wait_while_new_ones_cross_and_go_when_a_person_says_so(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    migrated(database, redis_server, cli, write_config)
    redis.flushall()
    assert cli("recover", "--redis-lost", "hold", "--yes").status == 0
    fill(database, 5)
    assert cli("run").status == 0
    assert redis.llen(QUEUE) == 5
    assert cli("purge", "--older-than", "0", "--json").json()["sources"][0]["not_delivered"] == 30
    assert cli("recover", "--redis-lost", "hand-off", "--yes").status == 0
    assert cli("run").status == 0
    assert redis.llen(QUEUE) == 35


def test_a_restored_old_copy_gets_only_what_it_lacks(innodb: Database, cli: Cli, write_config: WriteConfig) -> None:
    with RedisServer() as server:
        migrated(innodb, server, cli, write_config)
        with server.client() as client:
            old = {key: (client.dump(key)) for key in client.keys("*")}
            fill(innodb, 7)
            assert cli("run").status == 0
            client.flushall()
            for key, dumped in old.items():
                client.restore(key, 0, dumped)
            client.decrby("resque:qudo_migrate:beat", 3600)
            assert cli("run").status == 2
            assert client.llen(QUEUE) == 20
            done = cli("recover", "--redis-lost", "hand-off", "--yes", "--json").json()
            assert done["sources"][0]["jobs"] == 7
            assert cli("run").status == 0
            assert client.llen(QUEUE) == 27


def test_a_replaced_redis_refuses_everybody_from_then_on(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    with RedisServer() as old:
        migrated(innodb, old, cli, write_config)
        write_config({"main": innodb}, redis_server)
        assert cli("run").status == 2
        assert cli("recover", "--redis-lost", "hand-off", "--yes", "--old-target", old.url).status == 0
        assert cli("run").status == 0
        assert redis.llen(QUEUE) == 30
        write_config({"main": innodb}, old)
        assert cli("run").status == 2

"""A purge deletes delivered outbox rows only, and only what a crash of Redis can't forget any more."""

from __future__ import annotations

from redis import Redis

from tests.conftest import WriteConfig
from tests.qudo_app.enqueueing import enqueue, fill
from tests.servers import Database, MariaDBDatabase, RedisServer, ValkeyServer
from tests.servers.command import Cli

OUTBOX = "qudo_migrate_outbox"


def age_outbox(database: Database, seconds: int) -> None:
    database.execute(f"UPDATE {OUTBOX} SET moved_at = moved_at - {seconds}")


def test_delivered_rows_go_once_they_are_old_enough(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(database, 700)
    write_config({"main": database}, redis_server)
    assert cli("run").status == 0
    young = cli("purge", "--json").json()
    assert (young["sources"][0]["purged"], young["sources"][0]["young"]) == (0, 700)
    age_outbox(database, 90_000)
    dry = cli("purge", "--dry-run", "--json").json()
    assert (dry["sources"][0]["purged"], database.count(OUTBOX)) == (700, 700)
    done = cli("purge", "--json")
    assert done.status == 0
    assert (done.json()["sources"][0]["purged"], database.count(OUTBOX)) == (700, 0)
    assert redis.llen("resque:queue:worker_mail") == 700
    assert cli("run").status == 0
    assert redis.llen("resque:queue:worker_mail") == 700


def test_a_row_whose_bit_is_clear_stays_whatever_its_age(
    innodb: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 50)
    write_config({"main": innodb}, redis_server)
    cli.env["QUDO_MIGRATE_FAILPOINTS"] = "move.committed=kill"
    cli("run")
    del cli.env["QUDO_MIGRATE_FAILPOINTS"]
    assert innodb.count(OUTBOX) == 50
    result = cli("purge", "--older-than", "0", "--json")
    assert (result.json()["sources"][0]["purged"], result.json()["sources"][0]["not_delivered"]) == (0, 50)
    assert cli("run").status == 0
    assert redis.llen("resque:queue:worker_mail") == 50
    assert cli("purge", "--older-than", "0").status == 0
    assert innodb.count(OUTBOX) == 0


def test_jobs_that_are_not_due_and_keys_that_are_held_keep_their_rows(
    database: Database, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    enqueue(database, "Worker::Mail", b"{}", run_after=3600)
    enqueue(database, "Worker::Mail", b"{}", uniqkey="k")
    enqueue(database, "Worker::Mail", b"{}")
    write_config({"main": database}, redis_server)
    assert cli("run").status == 0
    first = cli("purge", "--older-than", "0", "--json").json()["sources"][0]
    assert (first["purged"], first["not_due"], first["holding_uniqkey"]) == (1, 1, 1)
    redis.delete("resque:queue:worker_mail")  # workers have done them: the key is free
    second = cli("purge", "--older-than", "0", "--json").json()["sources"][0]
    assert (second["purged"], second["not_due"], second["holding_uniqkey"]) == (1, 1, 0)
    assert database.count("qudo_migrate_pending") == 0


def test_without_proof_of_durability_nothing_is_purged_unless_forced(
    innodb: Database, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 10)
    with RedisServer(appendonly="no") as server:
        write_config({"main": innodb}, server)
        assert cli("run").status == 0
        refused = cli("purge", "--older-than", "0")
        assert refused.status == 1
        assert "no append-only file" in refused.stdout
        assert innodb.count(OUTBOX) == 10
        forced = cli("purge", "--older-than", "0", "--force")
        assert forced.status == 0
        assert "--force ignored" in forced.stdout
        assert innodb.count(OUTBOX) == 0


def test_valkey_proves_it_by_waitaof(innodb: Database, cli: Cli, write_config: WriteConfig) -> None:
    fill(innodb, 10)
    with ValkeyServer() as server:
        write_config({"main": innodb}, server)
        assert cli("run", "--purge").status == 0
        assert innodb.count(OUTBOX) == 0


def test_a_killed_purge_is_finished_by_the_next(
    innodb: MariaDBDatabase, redis_server: RedisServer, redis: Redis, cli: Cli, write_config: WriteConfig
) -> None:
    fill(innodb, 3000)
    write_config({"main": innodb}, redis_server)
    assert cli("run").status == 0
    for point in ("purge.deleted", "purge.committed"):
        cli.env["QUDO_MIGRATE_FAILPOINTS"] = f"{point}=kill"
        assert cli("purge", "--older-than", "0").status == -9
    del cli.env["QUDO_MIGRATE_FAILPOINTS"]
    assert 0 < innodb.count(OUTBOX) < 3000
    assert cli("purge", "--older-than", "0").status == 0
    assert innodb.count(OUTBOX) == 0
    assert redis.llen("resque:queue:worker_mail") == 3000


def test_an_age_that_makes_no_sense_is_refused(
    innodb: Database, redis_server: RedisServer, cli: Cli, write_config: WriteConfig
) -> None:
    write_config({"main": innodb}, redis_server)
    result = cli("purge", "--older-than", "yesterday")
    assert result.status == 2
    assert "--older-than yesterday" in result.stderr

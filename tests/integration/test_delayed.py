"""Jobs that aren't due yet: in the layout that schedulers read, held in Qudo, or early in their queue with a key."""

from __future__ import annotations

import json

import pytest

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.qudo_app import enqueue, job_ids, job_rows
from tests.resque_app import Resque
from tests.schemas import check
from tests.servers import MariaDBDatabase, Proxy, RedisServer
from tests.servers.command import Cli

KEY_ORDER = {
    "perl": ["class", "args", "queue", "qudo"],
    "ruby": ["class", "args", "queue"],
    "node": ["class", "queue", "args"],
}


@pytest.mark.parametrize("dialect", KEY_ORDER)
def test_the_delayed_layout_is_that_of_the_dialects_scheduler(
    dialect: str,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    arg = '{"b": 1.0, "a": [null, "鮎"]}'
    job_id = enqueue(innodb, "Worker::Mail", arg.encode(), "key", priority=3, run_after=500)
    (row,) = job_rows(innodb)
    write_config([innodb], {"url": redis_server.url, "dialect": dialect}, [{"func": "*", "queue": "mail"}])

    assert run().counts == {"moved": 1, "handed_off": 1}

    ((second, (job,)),) = resque.delayed().items()
    check(job.payload, "delayed", f"#/$defs/{dialect}")
    assert second == row.run_after
    assert list(json.loads(job.text)) == KEY_ORDER[dialect]
    assert (job.class_name, job.queue, job.args) == ("Worker::Mail", "mail", [json.loads(arg)])
    assert arg.encode() in job.text
    assert job.qudo.get("id") == (job_id if dialect == "perl" else None)
    assert resque.queues() == {}


def test_the_delayed_text_is_the_very_one_that_schedulers_would_write(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    enqueue(innodb, "Worker::Mail", b'["x"]', run_after=500)
    write_config([innodb], {"url": redis_server.url, "dialect": "node"})
    run()
    ((job,),) = resque.delayed().values()
    assert job.text == b'{"class":"Worker::Mail","queue":"worker_mail","args":[["x"]]}'


@pytest.mark.parametrize("dialect", KEY_ORDER)
def test_jobs_alike_are_each_there(
    dialect: str,
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    write_config: WriteConfig,
    run: Run,
) -> None:
    for run_after in (500, 500, 600):
        enqueue(innodb, "Worker::Mail", b"[]", run_after=run_after)
    now = innodb.now()
    innodb.execute("UPDATE job SET run_after = %s WHERE id < 3", [now + 500])
    innodb.execute("UPDATE job SET run_after = %s WHERE id = 3", [now + 600])
    write_config([innodb], {"url": redis_server.url, "dialect": dialect})

    assert run().counts == {"moved": 3, "handed_off": 3}

    assert {second: len(jobs) for second, jobs in resque.delayed().items()} == {now + 500: 2, now + 600: 1}
    assert run().counts == {}


def test_a_job_that_became_due_goes_straight_to_its_queue(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    due = enqueue(innodb, "Worker::Mail", b"{}", run_after=500)
    innodb.execute("UPDATE job SET run_after = %s", [innodb.now() - 1])
    write_config([innodb], redis_server)

    run()

    assert resque.delayed() == {}
    assert [(job.id, set(job.payload)) for job in resque.queue("worker_mail")] == [(due, {"class", "args", "qudo"})]


def test_held_jobs_stay_free_in_qudo_until_they_are_due(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    early = enqueue(innodb, "Worker::Mail", b"{}", run_after=500)
    due = enqueue(innodb, "Worker::Mail", b"{}")
    (row, _) = job_rows(innodb)
    write_config([innodb], redis_server, [{"func": "*", "delayed": "hold"}])

    report = run()

    assert report.counts == {"moved": 1, "handed_off": 1, "kept": 1}
    assert job_rows(innodb) == [row]
    assert resque.ids() == [due]

    innodb.execute("UPDATE job SET run_after = %s", [innodb.now()])
    assert run().counts == {"moved": 1, "handed_off": 1}
    assert [job.id for job in resque.queue("worker_mail")] == [due, early]


def test_start_time_puts_early_jobs_into_their_queue_with_the_key_that_perls_plugin_reads(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    enqueue(innodb, "Worker::Mail", b"{}", run_after=500)
    enqueue(innodb, "Worker::Mail", b"{}")
    early, due = job_rows(innodb)
    write_config([innodb], redis_server, [{"func": "*", "delayed": "start_time"}])

    run()

    jobs = {job.id: job.payload for job in resque.queue("worker_mail")}
    assert jobs[early.id]["start_time"] == early.run_after
    assert "start_time" not in jobs[due.id]
    for payload in jobs.values():
        check(payload, "payload")
    assert resque.delayed() == {}
    assert job_ids(innodb) == []


def test_retries_are_written_where_the_dialect_reads_them(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    """Perl's plugin Retry counts in the payload; a scheduled job carries the count to its queue."""
    enqueue(innodb, "Worker::Mail", b"{}")
    enqueue(innodb, "Worker::Mail", b"{}", run_after=500)
    innodb.execute("UPDATE job SET retry_cnt = 2")
    write_config([innodb], redis_server, [{"func": "*", "max_retry": 5}])

    run()

    jobs = resque.jobs()
    assert [(job.payload["max_retry"], job.payload["retry_count"]) for job in jobs] == [(5, 2), (5, 2)]


def test_a_job_that_became_due_in_the_outbox_goes_straight_to_its_queue(
    innodb: MariaDBDatabase,
    redis_server: RedisServer,
    resque: Resque,
    cli: Cli,
    write_config: WriteConfig,
    run: Run,
) -> None:
    """It was moved while it was early; the run died before the hand-off, and the next one came late."""
    job_id = enqueue(innodb, "Worker::Mail", b"{}", run_after=1000)
    with Proxy(redis_server) as proxy:
        write_config([innodb], proxy.url(redis_server.url))
        proxy.hold_request(b'{"class"')
        running = cli.start("run")
        proxy.wait_held()
        running.kill()
    innodb.execute("UPDATE qudo_migrate_outbox SET run_after = run_after - 2000")
    write_config([innodb], redis_server)

    assert run().counts == {"handed_off": 1}

    assert resque.delayed() == {}
    assert [job.id for job in resque.queue("worker_mail")] == [job_id]

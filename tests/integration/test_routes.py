"""What routes decide: which funcs move, under which class, into which queue, with which arguments."""

from __future__ import annotations

from tests.conftest import WriteConfig
from tests.integration.conftest import Run
from tests.qudo_app import enqueue, job_ids
from tests.resque_app import Resque
from tests.servers import MariaDBDatabase, RedisServer


def test_the_first_route_that_matches_wins(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    for func in ("Worker::Mail::Bulk", "Worker::Mail", "Worker::Image", "worker::audio", "Other"):
        enqueue(innodb, func, b"{}")
    routes = [
        {"func": "Worker::Mail", "queue": "exact"},
        {"func": "Worker::M*", "queue": "glob"},
        {"func": "Worker::*", "queue": "wider"},
        {"func": "[Ww]orker::*", "queue": "lower"},
    ]
    write_config([innodb], redis_server, routes)

    run()

    assert {queue: [job.class_name for job in jobs] for queue, jobs in resque.queues().items()} == {
        "exact": ["Worker::Mail"],
        "glob": ["Worker::Mail::Bulk"],
        "wider": ["Worker::Image"],
        "lower": ["worker::audio"],
        "other": ["Other"],
    }


def test_class_and_queue_are_made_from_templates(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    enqueue(innodb, "My::Worker::Mail", b"{}")
    enqueue(innodb, "Fixed", b"{}")
    routes = [
        {"func": "Fixed", "class": "Some::Class", "queue": "Some Queue: ünïcode"},
        {"func": "*", "class": "Resque::{func}", "queue": "q-{func}-{func}"},
    ]
    write_config([innodb], redis_server, routes)

    run()

    assert {queue: [job.class_name for job in jobs] for queue, jobs in resque.queues().items()} == {
        "Some Queue: ünïcode": ["Some::Class"],
        "q-my_worker_mail-my_worker_mail": ["Resque::My::Worker::Mail"],
    }


def test_bands_send_priorities_to_queues_of_their_own(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    ids = {priority: enqueue(innodb, "Worker::Mail", b"{}", priority=priority) for priority in (0, 9, 10, 99, 100)}
    bands = [{"min_priority": 10, "queue": "{func}_high"}, {"min_priority": 100, "queue": "urgent"}]
    write_config([innodb], redis_server, [{"func": "*", "bands": bands}])

    report = run()

    assert {queue: [job.id for job in jobs] for queue, jobs in resque.queues().items()} == {
        "urgent": [ids[100]],
        "worker_mail_high": [ids[99], ids[10]],
        "worker_mail": [ids[9], ids[0]],
    }
    assert [(queue, moved) for _, _, queue, moved in report.funcs] == [
        ("urgent", 1),
        ("worker_mail", 2),
        ("worker_mail_high", 2),
    ]


def test_spread_turns_an_array_into_arguments_and_nothing_else(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    args = {
        b'[1, "0123", {"a": []}]': [1, "0123", {"a": []}],
        b" []": [],
        b'{"a": 1}': [{"a": 1}],
        b'"[1]"': ["[1]"],
        None: [None],
    }
    for arg in args:
        enqueue(innodb, "Spread", arg)
        enqueue(innodb, "Single", arg)
    routes = [{"func": "Spread", "args": "spread", "serializer": "json"}, {"func": "*", "serializer": "json"}]
    write_config([innodb], redis_server, routes)

    run()

    assert [job.args for job in resque.queue("spread")] == list(args.values())
    assert [job.args for job in resque.queue("single")] == [[[1, "0123", {"a": []}]], [[]], [{"a": 1}], ["[1]"], [None]]


def test_what_may_not_move_stays_in_qudo(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    stays = [enqueue(innodb, "Worker::Mail", b"{}"), enqueue(innodb, "Worker::Mail", b"\xff not translatable")]
    moves = enqueue(innodb, "Worker::Image", b"{}")
    write_config([innodb], redis_server, [{"func": "Worker::Mail", "move": False}])

    report = run()

    assert report.counts == {"moved": 1, "handed_off": 1, "kept": 2}
    assert report.complete
    assert (job_ids(innodb), resque.ids()) == (stays, [moves])


def test_a_forced_serializer_is_taken_at_its_word(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    for func in ("As::Raw", "As::Json", "As::Messagepack", "As::Auto"):
        enqueue(innodb, func, b'{"n": 1}')
    routes = [{"func": f"As::{name.capitalize()}", "serializer": name} for name in ("raw", "json", "messagepack")]
    write_config([innodb], redis_server, routes)

    report = run(status=1)

    assert {job.class_name: job.args for job in resque.jobs()} == {
        "As::Raw": ['{"n": 1}'],
        "As::Json": [{"n": 1}],
        "As::Auto": [{"n": 1}],
    }
    assert [func for func in map(str, report.document["untranslatable_jobs"]) if "As::Messagepack" in func]


def test_an_edited_configuration_does_not_strand_what_has_moved(
    innodb: MariaDBDatabase, redis_server: RedisServer, resque: Resque, write_config: WriteConfig, run: Run
) -> None:
    """What is pushed is made from what the route said when the job moved."""
    first, second = enqueue(innodb, "Worker::Mail", b"[1]"), enqueue(innodb, "Worker::Mail", b"[2]")
    innodb.execute("UPDATE job SET priority = 1 WHERE id = 1")
    with RedisServer(appendonly="no") as forgetful:
        write_config([innodb], forgetful, [{"func": "*", "class": "Old", "queue": "old", "args": "spread"}])
        run("--limit", "1")
        # As if it had been killed between the move and the hand-off.
        client = forgetful.client()
        for key in client.scan_iter("resque:queue*"):
            client.delete(key)
        for key in client.scan_iter("resque:qudo_migrate:ledger:*"):
            client.delete(key)
        write_config([innodb], forgetful, [{"func": "*", "class": "New", "queue": "new"}])

        report = run()

        found = {
            name: [(job.id, job.class_name, job.args) for job in jobs] for name, jobs in Resque(client).queues().items()
        }
    assert report.counts == {"moved": 1, "handed_off": 2}
    assert found == {"old": [(first, "Old", [1])], "new": [(second, "New", [[2]])]}

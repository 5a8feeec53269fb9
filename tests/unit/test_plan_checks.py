"""What `plan` thinks of the servers and jobs it met: each risk is said, at its level, with what to do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.config import Config, Delayed, Route, TargetConfig, Unique
from migrate.engine.plan_checks import (
    FULL_SHARE,
    func_checks,
    rough_estimate,
    size,
    source_checks,
    target_checks,
    workers_need,
)
from migrate.engine.plan_result import Check, Estimate, Level, PlannedFunc, PlannedSource
from migrate.qudo.source import ServerFacts
from migrate.resque.dialects import Dialect
from migrate.resque.target import TargetFacts

MIB = 1024 * 1024
NOTHING = Estimate(0, 0, 0, 0.0)


def redis(**facts: Any) -> TargetFacts:
    """A Redis that is fit for everything, but for what is given."""
    usual: dict[str, Any] = {
        "product": "Redis",
        "version": "7.2.4",
        "role": "master",
        "read_only": False,
        "replicas": 0,
        "used_memory": MIB,
        "max_memory": 0,
        "eviction": "noeviction",
        "aof": True,
        "rdb": False,
        "append_fsync": "everysec",
    }
    return TargetFacts(**(usual | facts))


def mysql(**facts: Any) -> ServerFacts:
    """A MySQL that is fit for everything, but for what is given."""
    usual: dict[str, Any] = {
        "product": "MariaDB",
        "version": "10.11.6",
        "job_engine": "InnoDB",
        "transactional": True,
        "our_engine": "InnoDB",
        "binlog_format": None,
        "flush_at_commit": 1,
        "sync_binlog": 0,
        "read_only": False,
    }
    return ServerFacts(**(usual | facts))


def planned(func: str = "Worker::Mail", **counts: Any) -> PlannedFunc:
    usual: dict[str, Any] = dict.fromkeys(
        ["jobs", "ready", "delayed", "in_flight", "expired", "retried", "with_uniqkey", "mean_arg_bytes"], 0
    )
    usual |= {
        "moves": True,
        "class_": func,
        "queues": ["worker_mail"],
        "serializer": "json",
        "sure": 1.0,
        "sampled": 10,
        "untranslatable_in_sample": 0,
    }
    return PlannedFunc(func=func, **(usual | counts))


def source_of(*funcs: PlannedFunc) -> PlannedSource:
    return PlannedSource("main", "MariaDB 10.11.6", "InnoDB", 1, 0, 0, 0, list(funcs))


def config(dialect: Dialect = Dialect.PERL, *routes: Route) -> Config:
    return Config(TargetConfig("redis://h", dialect=dialect), (), routes)


def said(checks: list[Check], level: Level) -> list[str]:
    return [check.message for check in checks if check.level is level]


# --- the target -----------------------------------------------------------------------------------------------------


def test_a_redis_without_faults_gets_nothing_but_approval() -> None:
    checks = target_checks(redis(), Estimate(1, 1000, 0, 0.0))
    assert {check.level for check in checks} == {Level.OK}
    assert {check.about for check in checks} == {"target"}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"version": "4.0.14"}, "4.0.14 is too old"),
        ({"version": "2.8"}, "too old"),
        ({"eviction": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
        ({"eviction": "allkeys-random"}, "thrown away"),
        ({"read_only": True, "role": "slave"}, "read-only replica"),
    ],
)
def test_a_redis_that_loses_or_refuses_jobs_is_a_problem(facts: dict[str, Any], words: str) -> None:
    (message,) = said(target_checks(redis(**facts), NOTHING), Level.PROBLEM)
    assert words in message


@pytest.mark.parametrize("version", ["5.0.0", "6.2.1", "7.0.15", "10.1", "8.0-rc1", "9.1.2"])
def test_newer_servers_are_no_problem(version: str) -> None:
    assert said(target_checks(redis(version=version), NOTHING), Level.PROBLEM) == []


@pytest.mark.parametrize("eviction", ["noeviction", "volatile-lru", "volatile-ttl"])
def test_policies_that_spare_jobs_are_no_problem(eviction: str) -> None:
    assert said(target_checks(redis(eviction=eviction), NOTHING), Level.PROBLEM) == []


@pytest.mark.parametrize(
    ("aof", "fsync", "level"),
    [
        (True, "always", Level.OK),
        (True, "everysec", Level.OK),
        (True, None, Level.OK),
        (True, "no", Level.WARNING),
        (False, "everysec", Level.WARNING),
        (False, None, Level.WARNING),
    ],
)
def test_persistence_is_judged_by_what_a_crash_would_forget(aof: bool, fsync: str | None, level: Level) -> None:
    check = next(
        check for check in target_checks(redis(aof=aof, append_fsync=fsync), NOTHING) if "append" in check.message
    )
    assert check.level is level
    assert bool(check.advice) == (level is Level.WARNING)


@given(maximum=st.integers(0, 10**12) | st.just(0), used=st.integers(0, 10**12), needed=st.integers(0, 10**12))
def test_memory_is_a_problem_exactly_when_the_jobs_do_not_fit(maximum: int, used: int, needed: int) -> None:
    checks = target_checks(redis(max_memory=maximum, used_memory=used), Estimate(1, needed, 0, 0.0))
    (memory,) = [check for check in checks if "maxmemory" in check.message or "full" in check.message]
    fits = not maximum or needed <= max(0, maximum - used)
    assert (memory.level is Level.PROBLEM) == (not fits)
    if maximum and fits:
        assert (memory.level is Level.WARNING) == (used + needed > FULL_SHARE * maximum)


# --- a source -------------------------------------------------------------------------------------------------------


def test_a_source_without_faults_gets_nothing_but_approval() -> None:
    checks = source_checks("main", mysql(), [], 0)
    assert [(check.level, check.about) for check in checks] == [(Level.OK, "source main")]


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({"read_only": True}, Level.PROBLEM, "read-only"),
        ({"binlog_format": "STATEMENT"}, Level.WARNING, "binlog_format is STATEMENT"),
        ({"flush_at_commit": 2}, Level.WARNING, "innodb_flush_log_at_trx_commit is 2"),
        ({"flush_at_commit": 0}, Level.WARNING, "innodb_flush_log_at_trx_commit is 0"),
        ({"job_engine": "MyISAM", "transactional": False}, Level.NOTE, "job is MyISAM"),
        ({"binlog_format": "ROW", "sync_binlog": 0}, Level.NOTE, "sync_binlog is 0"),
    ],
)
def test_what_a_source_makes_risky_is_said(facts: dict[str, Any], level: Level, words: str) -> None:
    messages = said(source_checks("main", mysql(**facts), [], 0), level)
    assert any(words in message for message in messages)


def test_lacking_rights_are_named_and_are_a_problem() -> None:
    (message,) = said(source_checks("main", mysql(), ["DELETE", "CREATE"], 0), Level.PROBLEM)
    assert "DELETE, CREATE" in message


def test_tables_that_lack_are_only_noted() -> None:
    assert said(source_checks("main", mysql(), [], 5), Level.NOTE) == [
        "5 tables of ours are to be created: by init, by run, or by a DBA"
    ]


def test_sqlite_which_says_nothing_of_all_that_gets_no_warning() -> None:
    facts = mysql(product="SQLite", job_engine="SQLite", our_engine=None, flush_at_commit=None, sync_binlog=None)
    assert {check.level for check in source_checks("main", facts, [], 0)} == {Level.OK}


# --- funcs ----------------------------------------------------------------------------------------------------------


def test_a_func_without_faults_gets_no_word() -> None:
    assert func_checks(source_of(planned()), config()) == []


def test_jobs_that_cannot_be_translated_need_a_person() -> None:
    (check,) = func_checks(source_of(planned(untranslatable_in_sample=3)), config())
    assert (check.level, check.about) == (Level.PROBLEM, "func Worker::Mail in main")
    assert "3 of 10" in check.message


@pytest.mark.parametrize(
    ("counts", "route", "warns"),
    [
        ({"in_flight": 1, "with_uniqkey": 1}, Route(), True),
        ({"in_flight": 0, "with_uniqkey": 1}, Route(), False),
        ({"in_flight": 1, "with_uniqkey": 0}, Route(), False),
        ({"in_flight": 1, "with_uniqkey": 1, "moves": False}, Route(), False),
        ({"in_flight": 1, "with_uniqkey": 1}, Route(unique=Unique.IGNORE), False),
    ],
)
def test_uniqkeys_beside_qudo_workers_are_warned_of(counts: dict[str, Any], route: Route, warns: bool) -> None:
    messages = said(func_checks(source_of(planned(**counts)), config(Dialect.PERL, route)), Level.WARNING)
    assert bool(messages) == warns


@pytest.mark.parametrize(
    ("counts", "notes"),
    [
        ({"sure": 0.875}, ["88% of the sampled jobs are json: the rest differ"]),
        ({"sure": 0.875, "sampled": 0}, []),
        ({"sure": 0.875, "moves": False}, []),
        ({"sure": 0.875, "serializer": "raw"}, []),
    ],
)
def test_a_mixture_of_serializers_is_noted(counts: dict[str, Any], notes: list[str]) -> None:
    assert said(func_checks(source_of(planned(**counts)), config()), Level.NOTE) == notes


# --- what the workers need ------------------------------------------------------------------------------------------


def test_classes_and_queues_of_all_funcs_that_move_are_named_once() -> None:
    sources = [
        source_of(planned("A", queues=["q1", "q2"]), planned("B", queues=["q1"])),
        source_of(planned("A", queues=["q3"]), planned("C", moves=False, queues=["never"])),
    ]
    classes, queues, *_ = workers_need(sources, config())
    assert classes == "classes: A, B"
    # Bands make a func's queues differ by the priorities that each source has.
    assert queues == "queues: q1, q2, q3"


@pytest.mark.parametrize(
    ("dialect", "route", "words"),
    [
        (Dialect.PERL, Route(), "qudo-migrate schedule"),
        (Dialect.RUBY, Route(), "resque-scheduler"),
        (Dialect.NODE, Route(), "node-resque's Scheduler"),
        (Dialect.PERL, Route(delayed=Delayed.START_TIME), "Resque::Plugin::Delay"),
        (Dialect.PERL, Route(max_retry=1), "Resque::Plugin::Retry"),
    ],
)
def test_what_the_route_asks_of_the_workers_is_said(dialect: Dialect, route: Route, words: str) -> None:
    needs = workers_need([source_of(planned())], config(dialect, route))
    assert any(words in need for need in needs)


def test_nothing_is_asked_where_nothing_moves() -> None:
    assert workers_need([source_of(planned(moves=False))], config()) == []
    assert workers_need([], config()) == []


# --- the estimate ---------------------------------------------------------------------------------------------------


def test_jobs_that_stay_or_are_in_flight_cost_nothing() -> None:
    funcs = [planned(moves=False, ready=1000, mean_arg_bytes=1000), planned(in_flight=50)]
    assert rough_estimate(funcs, 10_000.0) == NOTHING


@given(ready=st.integers(0, 10**7), delayed=st.integers(0, 10**7), arg=st.integers(0, 10**6))
def test_more_jobs_and_larger_args_never_cost_less(ready: int, delayed: int, arg: int) -> None:
    def estimate(ready: int, delayed: int, arg: int) -> Estimate:
        return rough_estimate([planned(ready=ready, delayed=delayed, mean_arg_bytes=arg)], 10_000.0)

    less = estimate(ready, delayed, arg)
    assert less.jobs == ready + delayed
    assert less.redis_bytes >= less.jobs * arg
    for more in (
        estimate(ready + 1, delayed, arg),
        estimate(ready, delayed + 1, arg),
        estimate(ready, delayed, arg + 1),
    ):
        assert more.redis_bytes >= less.redis_bytes
        assert more.mysql_bytes >= less.mysql_bytes
        assert more.seconds >= less.seconds
    assert estimate(0, 1, arg).redis_bytes > estimate(1, 0, arg).redis_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (MIB, "1.0 MiB"),
        (1024 * MIB, "1.0 GiB"),
        (5_000 * 1024 * MIB, "5,000.0 GiB"),
    ],
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert size(count) == text

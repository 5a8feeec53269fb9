"""schema/ agrees with the code: JSON Schemas with records and payloads, the files of DDL with what ddl.py generates."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from migrate import cli, errors
from migrate.config import Delayed, parse
from migrate.decision import Decision, decide
from migrate.demo.result import DemoResult, Kill
from migrate.engine.cutover import Blocked, CutoverResult, FuncStep
from migrate.engine.follow_result import FollowedSource, FollowResult
from migrate.engine.followers import ProcessStatus
from migrate.engine.init import InitializedSource, InitResult
from migrate.engine.pause import PausedGlob, PauseResult
from migrate.engine.plan_result import (
    Check,
    Estimate,
    Level,
    PlannedFunc,
    PlannedSource,
    PlannedTarget,
    PlanResult,
)
from migrate.engine.purge import PurgedSource, PurgeResult
from migrate.engine.recover import RecoveredSource, RecoverResult
from migrate.engine.results import (
    LISTED_JOBS,
    Difference,
    ErrorLine,
    FindingCount,
    FuncResult,
    RehearsalResult,
    RehearsedSource,
    RunResult,
    SourceResult,
    Tally,
    Totals,
    UntranslatableJob,
)
from migrate.engine.rollback_result import RollbackResult, RolledBackSource
from migrate.engine.routing import RowState
from migrate.engine.status import FuncStatus, SourceStatus, StatusResult
from migrate.engine.where import Crossing, Story
from migrate.jobs import Identity, QudoFailure, QudoJob
from migrate.qudo import ddl, tables
from migrate.qudo.serializers import Serializer
from migrate.qudo.source import Source
from migrate.resque.dialects import FACTS, Dialect
from migrate.resque.history import Record
from migrate.resque.looking import Place
from migrate.translate import Translator
from migrate.verify.findings import Finding
from migrate.verify.mirror import MirrorReport
from migrate.verify.report import FuncReport, Report, SourceReport
from migrate.verify.throughput import Span
from migrate.worker.scheduler import ScheduleResult
from tests.schemas import REGISTRY, SCHEMAS, check

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000


def encoded(record: msgspec.Struct) -> Any:
    return json.loads(msgspec.json.encode(record))


def all_errors(root: type[errors.MigrateError] = errors.MigrateError) -> Iterator[type[errors.MigrateError]]:
    """Those that may reach the command line; what other modules derive is caught inside."""
    yield root
    for each in root.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from all_errors(each)


# JSON Schemas as such


@pytest.mark.parametrize("name", SCHEMAS)
def test_is_a_valid_schema(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$id"] == f"urn:qudo-migrate:schema:{name.removesuffix('.schema.json')}"


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_object_of_ours_says_exactly_which_keys_it_has(name: str) -> None:
    def objects(schema: Any) -> Iterator[Any]:
        if isinstance(schema, dict):
            if schema.get("type") == "object" and "properties" in schema:
                yield schema
            elif schema.get("type") == "object":  # names to values of one type
                assert schema["additionalProperties"]
            for each in schema.values():
                yield from objects(each)
        elif isinstance(schema, list):
            for each in schema:
                yield from objects(each)

    found = list(objects(SCHEMAS[name]))
    assert found
    for each in found:
        assert each["additionalProperties"] is False
        assert set(each["required"]) <= set(each["properties"])


# What commands print


TALLY = Tally()
TALLY.moved.update({("Worker::Mail", "worker_mail"): 2, ("Worker::鮎", "worker_鮎"): 1})
TALLY.moved_total = TALLY.handed_off = 3
TALLY.list_untranslatable(UntranslatableJob("main", 2**64 - 1, "Worker::Image", "not UTF-8"))
TALLY.error = errors.Unavailable("source main: gone", advice="start it")

RUN = RunResult(
    command="run",
    dry_run=False,
    complete=False,
    exit_status=3,
    sources=[SourceResult.of("main", TALLY), SourceResult.of("idle", Tally())],
    totals=Totals.of([SourceResult.of("main", TALLY)], 1.5),
    untranslatable_jobs=TALLY.untranslatable,
    findings=[FindingCount("main", "Worker::Mail", "integer over 2**53", 1)],
    errors=[ErrorLine("main", "source main: gone", "start it")],
    next="qudo-migrate run",
)
STORY = Story(
    source="main",
    id=123,
    state="queued",
    func="Worker::Mail",
    reason=None,
    in_job=False,
    crossings=[
        Crossing(Identity(2**63 - 1, 65_535).text, "Worker::Mail", "worker_mail", True, "queued", "queued in …")
    ],
)
REHEARSAL = RehearsalResult(
    command="rehearse",
    verdict="differences",
    exit_status=1,
    sources=[RehearsedSource.of("main", TALLY, [Difference("main", 5, "Worker::Mail", "args[0].n: a string")])],
    rehearsed=3,
    seconds=1.5,
    jobs_per_second=2.0,
    differences=[Difference("main", 5, "Worker::Mail", "args[0].n: a string")],
    untranslatable_jobs=TALLY.untranslatable,
    findings=[],
    errors=[],
    next="qudo-migrate plan",
)
INIT = InitResult(
    command="init",
    exit_status=1,
    file="qudo-migrate.toml",
    variables=["QUDO_PASSWORD"],
    sources=[InitializedSource("main", "MySQL 8.4.3", "InnoDB", 2, [])],
    ddl="CREATE TABLE …",
    errors=[ErrorLine("main", "source main: no right to create qudo_migrate_chunk", "")],
    next="have a DBA run it",
)
UNREACHABLE = PlanResult(
    command="plan",
    ready=False,
    exit_status=3,
    target=None,
    sources=[],
    checks=[],
    workers_need=[],
    estimate=Estimate(0, 0, 0, 0.0),
    untranslatable_jobs=[],
    findings=[],
    errors=[ErrorLine("target", "target redis://…: gone", "start it")],
    next="mend it",
)
DEMO = DemoResult(
    command="demo",
    verdict="ok",
    exit_status=0,
    summary="ok: 10 jobs waited = …",
    server="Valkey 9.0.1",
    jobs=10,
    handed_off=8,
    queued=6,
    delayed=2,
    in_flight=1,
    untranslatable=1,
    not_moved=0,
    missing=0,
    duplicated=0,
    mismatched=0,
    foreign=0,
    imported=3,
    kill=Kill(True, 5, 2, 3, 0),
    seconds=4.2,
    folder=None,
)


def test_the_result_of_a_run() -> None:
    check(encoded(RUN), "run")


def test_a_complete_run_ends_with_0() -> None:
    check(encoded(msgspec.structs.replace(RUN, complete=True, exit_status=0)), "run")
    with pytest.raises(jsonschema.ValidationError):
        check(encoded(msgspec.structs.replace(RUN, complete=True)), "run")


def test_a_story() -> None:
    check(encoded(STORY), "where")
    check(encoded(Story("main", 1, "unknown", None, None, False, [])), "where")


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("init", INIT),
        ("plan", UNREACHABLE),
        ("rehearse", REHEARSAL),
        (
            "pause",
            PauseResult("pause", False, [PausedGlob("Worker::*", "me", "db1", "2026-05-04T03:02:01+00:00")], "…"),
        ),
        ("schedule", ScheduleResult("schedule", 0)),
        ("demo", DEMO),
        ("demo", msgspec.structs.replace(DEMO, verdict="differences", exit_status=1, missing=1, folder="/tmp/demo")),
    ],
)
def test_other_results(name: str, record: msgspec.Struct) -> None:
    check(encoded(record), name)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("init", msgspec.structs.replace(INIT, exit_status=0)),
        ("init", msgspec.structs.replace(INIT, ddl=None)),
        ("plan", msgspec.structs.replace(UNREACHABLE, ready=True)),
        ("plan", msgspec.structs.replace(UNREACHABLE, exit_status=0)),
        ("rehearse", msgspec.structs.replace(REHEARSAL, verdict="ok")),
        ("rehearse", msgspec.structs.replace(REHEARSAL, differences=[])),
        ("rehearse", msgspec.structs.replace(REHEARSAL, exit_status=0, verdict="ok", differences=[])),
        ("demo", msgspec.structs.replace(DEMO, exit_status=1)),
        ("demo", msgspec.structs.replace(DEMO, missing=1)),
        ("demo", msgspec.structs.replace(DEMO, verdict="differences")),
    ],
)
def test_results_that_contradict_themselves_are_refused(name: str, record: msgspec.Struct) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(encoded(record), name)


@pytest.mark.parametrize(
    ("name", "part", "record"),
    [
        ("run", "", RunResult),
        ("run", "#/$defs/source", SourceResult),
        ("run", "#/$defs/totals", Totals),
        ("run", "#/$defs/func", FuncResult),
        ("run", "#/$defs/untranslatable_job", UntranslatableJob),
        ("run", "#/$defs/finding", FindingCount),
        ("run", "#/$defs/error", ErrorLine),
        ("where", "", Story),
        ("where", "#/$defs/crossing", Crossing),
        ("init", "", InitResult),
        ("init", "#/$defs/source", InitializedSource),
        ("plan", "", PlanResult),
        ("plan", "#/$defs/target", PlannedTarget),
        ("plan", "#/$defs/source", PlannedSource),
        ("plan", "#/$defs/func", PlannedFunc),
        ("plan", "#/$defs/check", Check),
        ("plan", "#/$defs/estimate", Estimate),
        ("rehearse", "", RehearsalResult),
        ("rehearse", "#/$defs/source", RehearsedSource),
        ("rehearse", "#/$defs/difference", Difference),
        ("pause", "", PauseResult),
        ("pause", "#/$defs/pause", PausedGlob),
        ("schedule", "", ScheduleResult),
        ("follow", "", FollowResult),
        ("follow", "#/$defs/source", FollowedSource),
        ("demo", "", DemoResult),
        ("demo", "#/$defs/kill", Kill),
        ("report", "", Report),
        ("report", "#/$defs/source", SourceReport),
        ("report", "#/$defs/func", FuncReport),
        ("report", "#/$defs/finding", Finding),
        ("report", "#/$defs/span", Span),
        ("report", "#/$defs/mirror", MirrorReport),
        ("status", "", StatusResult),
        ("status", "#/$defs/source", SourceStatus),
        ("status", "#/$defs/func", FuncStatus),
        ("status", "#/$defs/record", Record),
        ("rollback", "", RollbackResult),
        ("rollback", "#/$defs/source", RolledBackSource),
        ("purge", "", PurgeResult),
        ("purge", "#/$defs/source", PurgedSource),
        ("recover", "", RecoverResult),
        ("recover", "#/$defs/source", RecoveredSource),
        ("cutover", "", CutoverResult),
        ("cutover", "#/$defs/func", FuncStep),
        ("cutover", "#/$defs/process", ProcessStatus),
        ("cutover", "#/$defs/blocked", Blocked),
    ],
)
def test_schema_and_record_have_the_same_shape(name: str, part: str, record: type[msgspec.Struct]) -> None:
    identifier = SCHEMAS[f"{name}.schema.json"]["$id"]
    ours = shape({"$ref": identifier + part}, REGISTRY.resolver())
    generated = Resource.from_contents(
        {"$schema": Draft202012Validator.META_SCHEMA["$id"], **msgspec.json.schema(record)}
    )
    theirs = shape({"$ref": "urn:generated"}, Registry().with_resource("urn:generated", generated).resolver())
    assert ours == theirs
    described = REGISTRY.resolver().lookup(identifier + part).contents
    assert described["required"] == list(described["properties"])  # msgspec writes every field, defaults too


def shape(schema: Any, resolver: Any) -> Any:
    """Names and types, without what only people read and without limits."""
    if "$ref" in schema:
        resolved = resolver.lookup(schema["$ref"])
        return shape(resolved.contents, resolved.resolver)
    if "anyOf" in schema:
        return frozenset().union(*(shape(each, resolver) for each in schema["anyOf"]))
    if "type" not in schema:  # msgspec's word for an enum
        assert all(isinstance(each, str) for each in schema["enum"])
        return frozenset(["string"])
    if schema["type"] == "object" and "properties" not in schema:
        return {"*": shape(schema["additionalProperties"], resolver)}
    if schema["type"] == "object":
        return {name: shape(each, resolver) for name, each in schema["properties"].items()}
    if schema["type"] == "array":
        return [shape(schema["items"], resolver)]
    return frozenset([schema["type"]] if isinstance(schema["type"], str) else schema["type"])


def test_limits_are_those_of_the_code() -> None:
    run, where = SCHEMAS["run.schema.json"]["properties"], SCHEMAS["where.schema.json"]
    assert run["untranslatable_jobs"]["maxItems"] == LISTED_JOBS
    statuses = {each.exit_status for each in all_errors()}
    assert set(run["exit_status"]["enum"]) == {0, *statuses}
    assert set(SCHEMAS["error.schema.json"]["properties"]["exit_status"]["enum"]) == statuses
    assert {*RowState, *Place} <= set(where["properties"]["state"]["enum"])
    assert set(Place) <= set(where["$defs"]["crossing"]["properties"]["state"]["enum"])
    plan, rehearse = SCHEMAS["plan.schema.json"], SCHEMAS["rehearse.schema.json"]
    assert set(plan["properties"]["exit_status"]["enum"]) == {0, *statuses} - {errors.Interrupted.exit_status}
    assert set(rehearse["properties"]["exit_status"]["enum"]) == {0, *statuses}
    for each in (plan, rehearse):
        assert each["properties"]["untranslatable_jobs"]["maxItems"] == LISTED_JOBS
    assert rehearse["$defs"]["source"]["properties"]["differences"]["maximum"] == LISTED_JOBS
    assert set(plan["$defs"]["check"]["properties"]["level"]["enum"]) == set(Level)
    assert set(plan["$defs"]["func"]["properties"]["serializer"]["enum"]) == set(Serializer)


@pytest.mark.parametrize("kind", [*all_errors()])
@pytest.mark.parametrize("advice", ["", "wait"])
def test_an_error(
    kind: type[errors.MigrateError], advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise kind("source main: gone", advice=advice)

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr(sys, "argv", ["qudo-migrate", "run", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    document = json.loads(capsys.readouterr().out)
    check(document, "error")
    assert document == {"error": "source main: gone", "advice": advice, "exit_status": ended.value.code}


# Payloads


def decision(dialect: Dialect, route: str = "") -> Decision:
    text = f"""
        [target]
        url = "redis://127.0.0.1:1/0"
        dialect = "{dialect}"
        [[source]]
        name = "main"
        url = "sqlite:///nowhere"
        [[route]]
        serializer = "json"
        {route}
    """
    return decide(parse(text, "qudo-migrate.toml", {}), "Worker::Mail", 0)


def a_job(**values: Any) -> QudoJob:
    row: dict[str, Any] = {
        "source": "main",
        "id": 123,
        "func_id": 1,
        "func": "Worker::Mail",
        "arg": '{"name":"鮎","n":9007199254740993}'.encode(),
        "uniqkey": None,
        "enqueue_time": NOW - 5,
        "grabbed_until": 0,
        "run_after": 0,
        "retry_cnt": 0,
        "priority": 0,
    }
    return QudoJob(**(row | values))


def payload_of(job: QudoJob, decided: Decision) -> Any:
    payload = json.loads(Translator("main", decided).translate(job, Identity(7, 0), NOW).job.payload)
    check(payload, "payload")
    return payload


_unsigned = st.integers(0, 2**32 - 1)
jobs = st.builds(
    a_job,
    id=st.none() | st.integers(0, 2**64 - 1),
    arg=st.none() | st.sampled_from([b"{}", b"[]", b"[1,[null]]", '{"鮎":"0123"}'.encode()]),
    uniqkey=st.none() | st.binary(max_size=20) | st.text(max_size=20).map(lambda text: text.encode()),
    enqueue_time=st.none() | _unsigned,
    run_after=st.sampled_from([0, NOW, NOW + 1]) | _unsigned,
    retry_cnt=st.integers(0, 3) | _unsigned,
    priority=st.integers(0, 3) | _unsigned,
)
identities = st.builds(Identity, st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1))


@given(job=jobs, identity=identities, dialect=st.sampled_from(Dialect), args=st.sampled_from(["single", "spread"]))
def test_every_payload(job: QudoJob, identity: Identity, dialect: Dialect, args: str) -> None:
    decided = decision(dialect, f'args = "{args}"\nmax_retry = 3')
    translated = Translator("main", decided).translate(job, identity, NOW).job
    check(json.loads(translated.payload), "payload")
    if translated.delayed is not None:
        check(json.loads(translated.delayed), "delayed")
        check(json.loads(translated.delayed), "delayed", f"#/$defs/{dialect}")


@pytest.mark.parametrize("delayed", Delayed)
def test_payloads_of_early_jobs(delayed: Delayed) -> None:
    payload = payload_of(a_job(run_after=NOW + 60), decision(Dialect.PERL, f'delayed = "{delayed}"'))
    assert payload.get("start_time") == (NOW + 60 if delayed is Delayed.START_TIME else None)


def test_a_payload_that_uses_every_key() -> None:
    job = a_job(uniqkey=b"welcome-1", priority=5, retry_cnt=2, run_after=NOW + 60)
    payload = payload_of(job, decision(Dialect.PERL, 'delayed = "start_time"\nmax_retry = 3'))
    schema = SCHEMAS["payload.schema.json"]
    assert set(payload) == set(schema["properties"])
    assert set(payload["qudo"]) == set(schema["$defs"]["qudo"]["properties"]) - {"exception_log"}


def test_a_requeued_failure_is_a_payload_too() -> None:
    for dialect in Dialect:
        for uniqkey in (None, b"welcome-1"):
            check(failure_entry(dialect, uniqkey=uniqkey)["payload"], "payload")


@pytest.mark.parametrize("dialect", Dialect)
def test_a_delayed_text_has_the_keys_of_its_dialect_in_their_order(dialect: Dialect) -> None:
    job = a_job(run_after=NOW + 60, retry_cnt=1)
    translated = Translator("main", decision(dialect, "max_retry = 3")).translate(job, Identity(7, 0), NOW).job
    assert translated.delayed is not None
    text = json.loads(translated.delayed)
    check(text, "delayed", f"#/$defs/{dialect}")
    described = SCHEMAS["delayed.schema.json"]["$defs"][dialect]
    assert list(text) == list(described["properties"])
    assert list(text)[:3] == list(FACTS[dialect].delayed_order)
    assert described["description"].startswith(", ".join(FACTS[dialect].delayed_order))


@pytest.mark.parametrize(
    "broken",
    [
        {"class": "A", "args": {}, "qudo": {"source": "main", "outbox": "0000000000000007-0"}},
        {"class": "A", "args": [], "qudo": {"source": "main"}},
        {"class": "A", "args": [], "qudo": {"source": "main", "outbox": "7-0"}},
        {"class": "A", "args": [], "qudo": {"source": "main", "outbox": "8000000000000000-0"}},
        {"class": "A", "args": [], "qudo": {"source": "main", "outbox": "0000000000000007-0", "uniqkey": None}},
        {"class": "A", "args": [], "qudo": {"source": "main", "outbox": "0000000000000007-0"}, "max_retry": 1},
        {"class": "A", "args": [], "qudo": {"source": "main", "outbox": "0000000000000007-0"}, "queue": "a"},
        {"class": "A", "args": [], "qudo": {"source": "main", "outbox": "0000000000000007-0", "exception_log": 1}},
        {"class": "A", "args": [], "qudo": {"source": "main", "id": 1, "exception_log": 1}},
        {"class": "A", "args": []},
    ],
)
def test_other_payloads_are_refused(broken: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(broken, "payload")


# Failures


def failure_entry(dialect: Dialect = Dialect.PERL, **values: Any) -> Any:
    row: dict[str, Any] = {
        "source": "main",
        "id": 5,
        "func_id": 1,
        "func": "Worker::Mail",
        "time": NOW,
        "message": b"died at Mail.pm line 3.\n",
        "uniqkey": None,
        "arg": b"{}",
    }
    translator = Translator("main", decision(dialect, "max_retry = 3"))
    text = translator.translate_failure(QudoFailure(**(row | values))).text
    assert text is not None
    return json.loads(text)


@given(
    dialect=st.sampled_from(Dialect),
    row_id=st.integers(0, 2**64 - 1),
    time=_unsigned,
    message=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode()),
    uniqkey=st.none() | st.binary(max_size=20),
    arg=st.none() | st.sampled_from([b"{}", b"[1,[null]]", '{"鮎":"0123"}'.encode()]),
)
def test_every_failure(
    dialect: Dialect, row_id: int, time: int, message: bytes, uniqkey: bytes | None, arg: bytes | None
) -> None:
    check(failure_entry(dialect, id=row_id, time=time, message=message, uniqkey=uniqkey, arg=arg), "failure")


def test_a_failure_that_uses_every_key() -> None:
    entry = failure_entry(uniqkey=b"welcome-1")
    schema = SCHEMAS["failure.schema.json"]
    assert set(entry) == set(schema["properties"])
    assert set(entry["payload"]) == set(schema["$defs"]["payload"]["properties"])
    assert set(entry["payload"]["qudo"]) == set(schema["$defs"]["qudo"]["properties"])


@pytest.mark.parametrize(
    "broken",
    [
        {"failed_at": "2027-01-15 08:00:00"},
        {"worker": "host:1:worker_mail"},
        {"backtrace": None},
        {"retried_at": "2027/01/15 08:00:00 UTC"},
        {"payload": {"class": "A", "args": []}},
        {"payload": {"class": "A", "args": [], "qudo": {"source": "main", "outbox": "0000000000000007-0"}}},
    ],
)
def test_other_failures_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(failure_entry() | broken, "failure")


# DDL


def statements(path: Path) -> list[str]:
    """The statements of a file without comments, in one spelling."""
    text = re.sub(r"--.*", "", path.read_text())
    return [one_spelling(each) for each in text.split(";") if each.strip()]


def one_spelling(statement: str) -> str:
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(statement.split()))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "schema").glob("*/*.sql")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_a_semicolon_ends_a_statement_and_stands_nowhere_else(path: Path) -> None:
    assert path.read_text().endswith((";\n", ".\n"))
    for line in path.read_text().splitlines():
        assert ";" not in line.partition("--")[2]
        assert line.count(";") == line.partition("--")[0].rstrip().endswith(";")


def test_our_tables_on_mysql_are_what_the_code_generates() -> None:
    generated = [one_spelling(each) for each in ddl.statements(None)]
    assert statements(ROOT / "schema/mysql/qudo_migrate.sql") == generated


def test_our_tables_on_sqlite_are_what_the_code_generates() -> None:
    generated = [one_spelling(each) for each in ddl.statements(Source("main", "sqlite:///nowhere"))]
    assert statements(ROOT / "schema/sqlite/qudo_migrate.sql") == generated


@pytest.mark.parametrize("name", ["mysql", "sqlite"])
def test_every_table_has_its_purpose_written_above_it(name: str) -> None:
    for file, metadata in (("qudo.sql", tables.qudo), ("qudo_migrate.sql", tables.ours)):
        text = (ROOT / "schema" / name / file).read_text()
        described = re.findall(r"^-- .+\nCREATE TABLE (?:IF NOT EXISTS )?(\w+)", text, re.MULTILINE)
        assert sorted(described) == sorted(metadata.tables)


def test_grants_are_those_of_the_code() -> None:
    written = [re.sub(r";.*", "", grant).format(database="qudo", account="'qudo_migrate'@'%'") for grant in ddl.GRANTS]
    assert statements(ROOT / "schema/mysql/grants.sql") == [one_spelling(each) for each in written]

"""A first configuration: looks at the sources, writes a commented file with a route for each func.

Reads the sources; writes the file, and our tables where they lack and the account may create them.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from migrate.config import Config, SourceConfig, TargetConfig, parse
from migrate.engine import init_text
from migrate.engine.init_text import FoundFunc
from migrate.engine.results import ErrorLine
from migrate.engine.routing import Routing
from migrate.errors import MigrateError, RightsError, UsageError
from migrate.qudo import ddl, reading
from migrate.qudo.serializers import detect_func
from migrate.qudo.source import Source
from migrate.resque.dialects import Dialect
from migrate.resque.target import Target, TargetFacts

#: Resque's usual namespace; on a Redis Cluster, where braces keep all keys on one node.
NAMESPACE, CLUSTER_NAMESPACE = "resque", "{resque}"
#: Rows of each func and source that are looked at.
SAMPLE_ROWS = 200


class InitializedSource(msgspec.Struct, frozen=True):
    """What `init` found and did in one source."""

    name: str
    server: str
    engine: str
    funcs: int
    tables_created: list[str]


class InitResult(msgspec.Struct, frozen=True):
    """What `init` prints with `--json`."""

    command: str
    exit_status: int
    file: str
    variables: list[str]  #: environment variables that the file expects
    sources: list[InitializedSource]
    ddl: str | None  #: what a DBA must run, when the account may not create our tables
    errors: list[ErrorLine]
    next: str


class Url(NamedTuple):
    """A url as the operator gave it, and as the file has it: its password in the environment."""

    given: str
    written: str
    variable: str | None  #: that holds the password
    password: str | None  #: what it must hold, when the url gave it


def hide_password(url: str, variable: str) -> Url:
    """Replace a literal password in a url by `${variable}`; one that is a `${VAR}` already stays."""
    parts = urllib.parse.urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    if not at or not colon or not password:
        return Url(url, url, None, None)
    known = re.fullmatch(r"\$\{(\w+)\}", password)
    if known:
        return Url(url, url, known[1], None)
    written = url.replace(f"{credentials}@{hosts}", f"{user}:${{{variable}}}@{hosts}", 1)
    return Url(url, written, variable, urllib.parse.unquote(password))


def init(
    source_options: Sequence[str],
    target_url: str,
    path: Path,
    *,
    namespace: str | None = None,
    dialect: Dialect = Dialect.PERL,
    force: bool = False,
    create: bool = True,
    environ: Mapping[str, str] | None = None,
) -> InitResult:
    """Write the configuration. `source_options`: NAME=URL each; `namespace`: None: the usual one.

    Raises UsageError, and the errors of sources and target: nothing is written unless all could be looked at.
    """
    if path.exists() and not force:
        raise UsageError(f"{path}: is there already", advice="write another with --config FILE, or replace it: --force")
    urls = {name: hide_password(url, _variable(name)) for name, url in map(_named, source_options)}
    if len(urls) < len(source_options):
        raise UsageError("--source: a name is there twice")
    target = hide_password(target_url, "REDIS_PASSWORD")
    given = {url.variable: url.password for url in (*urls.values(), target) if url.variable and url.password}
    known = {**(os.environ if environ is None else environ), **given}
    written = {name: url.written for name, url in urls.items()}

    def skeleton_with(namespace: str) -> str:
        return init_text.head(target.written, namespace, dialect, written)

    config = parse(skeleton_with(namespace or CLUSTER_NAMESPACE), "the new configuration", known)
    is_cluster = _meet(config.target).is_cluster
    skeleton = skeleton_with(namespace or (CLUSTER_NAMESPACE if is_cluster else NAMESPACE))
    found: dict[str, FoundFunc] = {}
    sources: list[InitializedSource] = []
    needed: list[str] = []
    errors: list[ErrorLine] = []
    for source_config in config.source:
        source = Source(source_config.name, source_config.url)
        try:
            _look(source, config, found)
            sources.append(_initialized(source, create=create, needed=needed, errors=errors))
        finally:
            source.close()
    path.write_text(skeleton + init_text.routes(found, dialect), encoding="utf-8")
    status = 1 if errors else 0
    return InitResult(
        command="init",
        exit_status=status,
        file=str(path),
        variables=sorted({url.variable for url in (*urls.values(), target) if url.variable}),
        sources=sources,
        ddl="\n\n".join(needed) or None,
        errors=errors,
        next="have a DBA run the DDL above, then: qudo-migrate plan" if errors else "qudo-migrate plan",
    )


def _named(option: str) -> tuple[str, str]:
    name, equals, url = option.partition("=")
    if not equals or not name or not url:
        raise UsageError(
            f"--source {option.partition('://')[0]}: write NAME=URL, e.g. main=mysql+pymysql://user@host/qudo"
        )
    return name, url


def given_sources(source_options: Sequence[str]) -> list[SourceConfig]:
    """The sources of NAME=URL options, as they are. Raises UsageError."""
    return [SourceConfig(name, url) for name, url in map(_named, source_options)]


def _variable(name: str) -> str:
    """QUDO_PASSWORD for a source named main, QUDO_<NAME>_PASSWORD for others."""
    return "QUDO_PASSWORD" if name == "main" else f"QUDO_{re.sub('[^A-Z0-9]', '_', name.upper())}_PASSWORD"


def _meet(target: TargetConfig) -> TargetFacts:
    opened = Target.open(target.url, target.namespace)
    try:
        return opened.check_usable()
    finally:
        opened.close()


def _look(source: Source, config: Config, found: dict[str, FoundFunc]) -> None:
    """Learn the funcs of one source and what their jobs are."""
    source.facts()
    routing = Routing(source, config)
    routing.refresh()
    for func_id, routed in sorted(routing.funcs.items(), key=lambda item: item[1].name):
        with source.reading() as connection:
            rows = reading.samples(source, connection, func_id, SAMPLE_ROWS)
        detection = detect_func(row.arg for row in rows if not row.is_large)
        known = found.setdefault(routed.name, FoundFunc(routed.name))
        known.sources.append(source.name)
        known.sampled += detection.looked_at
        for serializer, count in detection.counts.items():
            known.counts[serializer] += count
        known.priorities.update(row.priority for row in rows)
        known.delayed |= any(row.run_after > (row.enqueue_time or 0) for row in rows)
        known.retried |= any(row.retry_cnt > 0 for row in rows)


def _initialized(source: Source, *, create: bool, needed: list[str], errors: list[ErrorLine]) -> InitializedSource:
    absent = ddl.lacking(source)
    created = absent if create else []
    if create:
        try:
            ddl.create_tables(source)
        except RightsError as error:
            created = []
            needed.append(ddl.for_dba(source))
            errors.append(ErrorLine(source.name, error.message, error.advice))
    with source.reading() as connection:
        funcs = len(reading.func_names(connection))
    facts = source.facts()
    return InitializedSource(source.name, f"{facts.product} {facts.version}", facts.job_engine, funcs, created)


def printed_ddl(sources: Sequence[SourceConfig]) -> str:
    """The DDL and the grants for a DBA, for each source; MySQL's in general when there is none to look at."""
    if not sources:
        return ddl.for_dba(None)
    parts = []
    for source_config in sources:
        source = Source(source_config.name, source_config.url)
        try:
            parts.append(ddl.for_dba(source))
        except MigrateError as error:
            parts.append(f"-- source {source.name}: {error.message}\n{ddl.for_dba(None)}")
        finally:
            source.close()
    return "\n\n".join(parts)

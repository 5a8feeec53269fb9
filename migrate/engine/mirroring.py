"""Shadow copies against the rows of `job` that they were made of: what Resque would have run, was it the same?

Reads both sides. Where Qudo has finished a job, the arg that was kept beside its copy stands for the row; what was
missed is counted.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from migrate.config import Config
from migrate.decision import decide
from migrate.engine.routing import Routing
from migrate.errors import Unavailable, Untranslatable
from migrate.jobs import QudoJob
from migrate.qudo import outbox_pages
from migrate.qudo.outbox_pages import Twin
from migrate.qudo.serializers import Serializer
from migrate.qudo.source import Source
from migrate.resque import mirror
from migrate.resque.mirror import MirrorCount, Shadow
from migrate.resque.target import Target
from migrate.verify.expected import expected
from migrate.verify.mirror import MirrorReport
from migrate.verify.values import difference

#: Differences of a func that are told in words.
LISTED_DIFFERENCES = 20


class _Counts(msgspec.Struct):
    compared: int = 0
    gone: int = 0
    differences: list[str] = []
    different: int = 0


def compare(config: Config, sources: Sequence[Source], target: Target, func_glob: str = "*") -> list[MirrorReport]:
    """Compare all copies of the funcs that the glob matches. Raises the servers' errors."""
    counts: Mapping[str, MirrorCount] = mirror.counts(target)
    funcs = [func for func in counts if fnmatch.fnmatchcase(func, func_glob)]
    if not funcs:
        return []
    found: dict[str, _Counts] = {func: _Counts() for func in funcs}
    comparing = {source.name: _OneSource(source, config) for source in sources}
    for page in mirror.shadows(target):
        by_source: defaultdict[str, list[Shadow]] = defaultdict(list)
        for shadow in page:
            by_source[shadow.source].append(shadow)
        for name, shadows in by_source.items():
            if name in comparing:
                comparing[name].compare(shadows, found)
    return [
        MirrorReport(
            func,
            counts[func].copied,
            counts[func].missed,
            one.compared,
            one.different,
            one.gone,
            one.differences,
        )
        for func, one in found.items()
    ]


def of_all(config: Config, target: Target) -> list[MirrorReport]:
    """All copies, for a verification. Costs one question where nothing is mirrored."""
    if not mirror.counts(target):
        return []
    sources = [Source(each.name, each.url) for each in config.source]
    try:
        return compare(config, sources, target)
    finally:
        for source in sources:
            source.close()


class _OneSource:
    def __init__(self, source: Source, config: Config) -> None:
        self._source = source
        self._config = config
        self._routing = Routing(source, config)

    def compare(self, shadows: Sequence[Shadow], found: Mapping[str, _Counts]) -> None:
        try:
            self._compare(shadows, found)
        except Unavailable:
            return  # a source that is away is named by the verification itself; its copies are not compared

    def _compare(self, shadows: Sequence[Shadow], found: Mapping[str, _Counts]) -> None:
        self._routing.refresh()
        rows = {row.id: row for row in outbox_pages.twins(self._source, sorted(each.job_id for each in shadows))}
        for shadow in shadows:
            job = msgspec.json.decode(shadow.payload)
            counts = found.get(shadow.func)
            if counts is None:
                continue
            row = rows.get(shadow.job_id)
            counts.compared += 1
            counts.gone += row is None
            problem = self._problem(shadow, row, job)
            if problem is not None:
                counts.different += 1
                if len(counts.differences) < LISTED_DIFFERENCES:
                    counts.differences.append(f"{self._source.name}:{shadow.job_id}: {problem}")

    def _problem(self, shadow: Shadow, row: Twin | None, job: Any) -> str | None:
        func, arg = shadow.func, shadow.arg if row is None else row.arg
        func_id = self._routing.func_id(func) or 0
        if row is not None and row.func_id != func_id:
            return f"func: the row is {self._routing.name(row.func_id)}'s"
        route = self._config.route_for(func)
        usual = self._routing.detection(func_id).serializer if route.serializer is Serializer.AUTO else None
        record = QudoJob(self._source.name, shadow.job_id, func_id, func, arg, None, None, 0, 0, 0, 0)
        try:
            wanted = expected(record, decide(self._config, func, 0, usual))
        except Untranslatable as error:
            return error.message
        if job.get("class") != wanted.class_:
            return "class: another string"
        problem = difference(list(wanted.args), job.get("args"))
        return None if problem is None else f"args{problem}"

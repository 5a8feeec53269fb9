"""Jobs that were born in Resque, on their way into Qudo: which may go, and the rows that they become.

Judges and translates; makes a func's row where Qudo lacks it, and writes nothing else. A job whose row would not give
the same arguments again stays in Resque. So does one whose identity a scheduler has dropped (delayed, dialects ruby
and node): nothing tells it from any other job of Resque's.
"""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from migrate.config import Args, Config
from migrate.decision import decide
from migrate.engine.routing import Routing
from migrate.errors import Untranslatable
from migrate.identities import Identities, Told
from migrate.jobs import Identity, QudoJob
from migrate.qudo import returning_native
from migrate.qudo.enqueueing import NewJob, make_func
from migrate.qudo.returning_native import NativeRow
from migrate.qudo.serializers import Serializer
from migrate.qudo.serializers.encoding import encode
from migrate.qudo.source import Source
from migrate.resque import taking
from migrate.resque.taking import Entry, Place
from migrate.resque.target import Target
from migrate.translate import expected_args
from migrate.verify.values import difference

#: The highest value of Qudo's INT UNSIGNED columns.
_MOST = 2**32 - 1


class Native(NamedTuple):
    """What an entry says."""

    identity: Identity
    func: str
    args: list[Any]
    uniqkey: str | None
    priority: int
    enqueue_time: int
    due: int  #: Unix second
    tried: bool


class Natives:
    """The native jobs of one source, pass after pass."""

    def __init__(
        self, source: Source, target: Target, config: Config, routing: Routing, func_glob: str | None, *, wanted: bool
    ) -> None:
        """`wanted`: they are to be taken; else they are only counted."""
        self._source = source
        self._target = target
        self._config = config
        self._routing = routing
        self._func_glob = func_glob
        self._wanted = wanted
        self._begun = Identities()
        self._stays = Told()  #: what stays: `started`, `held`, `native` (can't be a row, or not wanted)

    def begin_pass(self) -> None:
        """Forget what was seen; then `begun` tells what workers have begun."""
        self._stays = Told()
        self._begun = Identities()

    def begun(self, payload: Any) -> None:
        """A worker has begun this job."""
        job = self._read(payload, None)
        if job is not None and self._chosen(job):
            self._begun.add(job.identity)
            if self._wanted:
                self._stays.tell(job.identity, "started")

    def of_page(self, place: Place, texts: Iterable[bytes]) -> list[Entry]:
        """The entries of a page that may be taken."""
        rows: list[tuple[NativeRow, bytes]] = []
        for text in texts:
            job = self._read(_decoded(text), place.second)
            if job is None or not self._chosen(job):
                continue
            if not self._wanted:
                self._stays.tell(job.identity, "native")
            elif job.identity in self._begun or job.tried:
                self._stays.tell(job.identity, "started")
            else:
                try:
                    rows.append((self._row(job, make_func=False), text))
                except Untranslatable:
                    self._stays.tell(job.identity, "native")
        held = returning_native.held(self._source, (row for row, _ in rows))
        for identity in held:
            self._stays.tell(identity, "held")
        return [Entry(row.identity, text, own=True, native=True) for row, text in rows if row.identity not in held]

    def on_their_way(self, identities: Sequence[Identity]) -> list[tuple[NativeRow, str]]:
        """The rows of jobs that were taken, each with its func. One whose route was edited meanwhile may lack."""
        found = []
        for _, second, text in taking.natives(self._target, self._source.name, identities):
            job = self._read(_decoded(text), second)
            if job is None:
                continue
            try:
                found.append((self._row(job, make_func=True), job.func))
            except Untranslatable:
                continue
        return found

    def counts(self) -> Counter[str]:
        """What stays in Resque, as the last pass saw it."""
        return self._stays.counts()

    def _chosen(self, job: Native) -> bool:
        return self._func_glob is None or fnmatch.fnmatchcase(job.func, self._func_glob)

    def _read(self, job: Any, second: int | None) -> Native | None:
        """A native job of this source; None for any other entry."""
        ours = job.get("qudo") if isinstance(job, dict) else None
        if not isinstance(ours, dict) or ours.get("source") != self._source.name:
            return None
        func, args, key = ours.get("func"), job.get("args"), ours.get("uniqkey")
        if not isinstance(func, str) or not isinstance(args, list) or not (key is None or isinstance(key, str)):
            return None
        try:
            identity = Identity.parse(ours["native"])
        except (KeyError, TypeError, ValueError):
            return None
        start, retries = job.get("start_time"), job.get("retry_count", 0)
        enqueued = _number(ours.get("enqueue_time"))
        due = second if second is not None else _number(start) or enqueued
        tried = isinstance(retries, int) and retries > 0
        return Native(identity, func, args, key, _number(ours.get("priority")), enqueued, due, tried)

    def _row(self, job: Native, *, make_func: bool) -> NativeRow:
        """Raises Untranslatable."""
        route = self._config.route_for(job.func)
        spreads = route.args is Args.SPREAD
        if len(job.args) == 1 and spreads:
            raise Untranslatable("one argument may have been an arg, or an array of one")
        if len(job.args) != 1 and not spreads:
            raise Untranslatable("one arg can't hold several arguments")
        value = job.args if spreads else job.args[0]
        func_id = self._func_id(job.func, make=make_func)
        serializer = route.serializer
        if serializer is Serializer.AUTO and func_id:
            serializer = self._routing.detection(func_id).serializer
        if serializer is Serializer.AUTO:
            serializer = Serializer.JSON if isinstance(value, (dict, list)) else Serializer.RAW
        arg = encode(value, serializer)
        key = None if job.uniqkey is None else job.uniqkey.encode()
        record = QudoJob(self._source.name, None, 0, job.func, arg, key, job.enqueue_time, 0, job.due, 0, job.priority)
        decision = msgspec.structs.replace(
            decide(self._config, job.func, job.priority), serializer=serializer, usual=None
        )
        if difference(list(expected_args(record, decision)), job.args) is not None:
            raise Untranslatable("its arg would give other arguments")
        new = NewJob(func_id, arg, key, job.enqueue_time, job.due, job.priority)
        return NativeRow(job.identity, new)

    def _func_id(self, func: str, *, make: bool) -> int:
        """0 where Qudo doesn't know it and it isn't to be made."""
        found = self._routing.func_id(func)
        if found is None and make:
            make_func(self._source, func)
            self._routing.refresh()
            found = self._routing.func_id(func)
        return found or 0


def _number(value: Any) -> int:
    """A value for one of Qudo's INT UNSIGNED columns; 0 for what isn't one."""
    return value if type(value) is int and 0 <= value <= _MOST else 0


def _decoded(text: bytes) -> Any:
    """The value of an entry, integers exact whatever their size; None for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

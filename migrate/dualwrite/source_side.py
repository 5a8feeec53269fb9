"""One source as an enqueue needs it: funcs, serializers, decisions, identities, and which Redis it belongs to.

Reads the source; writes `func` rows as Qudo does, and the decisions that its outbox rows name.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple, TypeAlias

import msgspec

from migrate.config import Config, Delayed, Route
from migrate.decision import Decision, decide
from migrate.engine import binding as pair
from migrate.engine.batches import Batches
from migrate.engine.routing import MOST_TRANSLATORS, Routing
from migrate.errors import Contention
from migrate.jobs import Identity, QudoJob, ResqueJob
from migrate.qudo import binding, ddl, outbox, reading
from migrate.qudo.binding import Binding
from migrate.qudo.enqueueing import NewJob, Writer, make_func
from migrate.qudo.serializers import Serializer
from migrate.qudo.serializers.encoding import encode
from migrate.qudo.source import Source
from migrate.resque.enqueueing import HandOffCalls
from migrate.resque.target import Target
from migrate.translate import Translator, readable

#: Seconds for which what the source remembers of its Redis counts. A target that was replaced is noticed at once, by
#: the INSERT itself; the beat only gets older.
BINDING_SECONDS = 30.0


#: Func, priority, and how the arg was written.
_Key: TypeAlias = tuple[str, int, Serializer]


class Crossing(NamedTuple):
    """A job as the outbox and Resque get it."""

    job: ResqueJob
    decision: Decision
    due: int  #: Unix second before which it isn't handed off; 0: at once


class SourceSide:
    """One source. Usable from several threads."""

    def __init__(self, source: Source, target: Target, config: Config) -> None:
        self.source = source
        self.writer = Writer(source)
        self.calls = HandOffCalls(target, source.name)
        self.routing = Routing(source, config)
        self._target = target
        self._config = config
        self._func_ids: dict[str, int] = {}
        self._serializers: dict[str, Serializer] = {}
        self._translators: dict[_Key, Translator] = {}
        self._natives: dict[_Key, Translator] = {}
        self._recorded: set[int] = set()
        self._bound: Binding | None = None
        self._bound_at = 0.0
        self.forget_inherited()

    def forget_inherited(self) -> None:
        """In a forked child: connections are the parent's; identities come from a batch of its own."""
        self._lock = threading.Lock()
        self._batches = Batches()
        self.source.forget_inherited()
        self.writer.forget_inherited()

    # --- funcs ---

    def func_id(self, func: str) -> int:
        """The func's id; its row is made when it lacks, as Qudo does."""
        known = self._func_ids.get(func)
        if known is None:
            known = self._find_func(func)
            if known is None:
                known = self._make_func(func)
            self._func_ids[func] = known
        return known

    def _find_func(self, func: str) -> int | None:
        with self.source.reading() as connection:
            names = reading.func_names(connection)
        return next((func_id for func_id, name in names.items() if readable(name) == func), None)

    def _make_func(self, func: str) -> int:
        make_func(self.source, func)
        found = self._find_func(func)
        if found is None:
            raise Contention(f"source {self.source.name}: the row of func {func} is gone")
        return found

    def arg(self, func: str, value: object) -> tuple[bytes | None, Serializer]:
        """The arg as the func's Perl workers read it, and by which serializer. Raises Untranslatable."""
        serializer = self._serializers.get(func)
        if serializer is None:
            route = self._config.route_for(func)
            serializer = route.serializer
            if serializer is Serializer.AUTO:
                serializer = self.routing.detection(self.func_id(func)).serializer
            self._serializers[func] = serializer
        return _encoded(value, serializer)

    def native_arg(self, func: str, value: object) -> tuple[bytes | None, Serializer]:
        """The same without asking the source: it may be switched off."""
        return _encoded(value, self._config.route_for(func).serializer)

    # --- crossing ---

    def crossing(self, func: str, new: NewJob, serializer: Serializer) -> Crossing:
        """The job under a fresh identity. Raises Untranslatable for what Resque can't be given."""
        translator = self._translator(func, new.priority, serializer)
        identity = self.take()
        record = self._record(func, new)
        job = translator.translate(record, identity, new.enqueue_time).job
        held = translator.decision.delayed is Delayed.HOLD and new.run_after > new.enqueue_time
        return Crossing(job, translator.decision, new.run_after if held else 0)

    def native(self, func: str, new: NewJob, serializer: Serializer) -> ResqueJob:
        """The job as one that is born in Resque. Raises Untranslatable."""
        key = (func, new.priority, serializer)
        translator = self._natives.get(key)
        if translator is None:
            decision = self._decide(func, new.priority, serializer)
            if decision.delayed is Delayed.HOLD:  # there is no row that could be held
                decision = _replaced(decision, delayed=Delayed.SCHEDULER)
            translator = Translator(self.source.name, decision, native=True)
            _keep(self._natives, key, translator)
        return translator.translate(self._record(func, new), self.take(), new.enqueue_time).job

    def shadow(self, func: str, new: NewJob, job_id: int, serializer: Serializer) -> bytes:
        """The payload that Resque would get of a row of `job`. Raises Untranslatable."""
        record = msgspec.structs.replace(self._record(func, new), id=job_id)
        translator = self._translator(func, new.priority, serializer)
        return translator.translate(record, Identity(0, 0), new.run_after).job.payload

    def take(self) -> Identity:
        """The next identity of this process."""
        with self._lock:
            return self._batches.take()

    def _record(self, func: str, new: NewJob) -> QudoJob:
        return QudoJob(
            self.source.name,
            None,
            new.func_id,
            func,
            new.arg,
            new.uniqkey,
            new.enqueue_time,
            0,
            new.run_after,
            0,
            new.priority,
        )

    def _translator(self, func: str, priority: int, serializer: Serializer) -> Translator:
        key = (func, priority, serializer)
        translator = self._translators.get(key)
        if translator is None:
            translator = Translator(self.source.name, self._decide(func, priority, serializer))
            _keep(self._translators, key, translator)
        return translator

    def _decide(self, func: str, priority: int, serializer: Serializer) -> Decision:
        """What the route says; but how the arg was written is known here, so nothing is left to be detected."""
        return _replaced(decide(self._config, func, priority), serializer=serializer, usual=None)

    def route(self, func: str) -> Route:
        """The func's route."""
        return self._config.route_for(func)

    def record_decision(self, decision: Decision) -> None:
        """Have the decision stand in the source before a row names it."""
        if decision.id in self._recorded:
            return
        try:
            with self.source.writing() as connection:
                outbox.record_decisions(connection, {decision.id: decision.text})
        except Contention:  # another process was faster with this very one
            with self.source.writing() as connection:
                outbox.record_decisions(connection, {decision.id: decision.text})
        self._recorded.add(decision.id)

    def prepare(self, func: str, priority: int) -> None:
        """What a row of the outbox needs to stand in the source before it: binding and decision."""
        self.binding()
        serializer = self._config.route_for(func).serializer
        if serializer is Serializer.AUTO:
            serializer = self.routing.detection(self.func_id(func)).serializer
        ways = (Serializer.JSON, Serializer.RAW) if serializer is Serializer.AUTO else (serializer,)  # by the value
        for way in ways:
            self.record_decision(self._decide(func, priority, way))

    # --- the target that this source belongs to ---

    def binding(self) -> Binding:
        """What the source remembers of its Redis. Binds it at the first use. Raises TargetMismatch, Unavailable."""
        bound = self._bound
        if bound is None or time.monotonic() - self._bound_at > BINDING_SECONDS:
            bound = self.read_binding()
        return bound

    def read_binding(self) -> Binding:
        """The same, read anew."""
        if self._bound is None and ddl.lacking(self.source):
            pair.bind(self.source, self._target)
        with self.source.reading() as connection:
            bound = binding.read(connection)
        if bound.target_id is None:
            pair.bind(self.source, self._target)
            with self.source.reading() as connection:
                bound = binding.read(connection)
        self._bound, self._bound_at = bound, time.monotonic()
        return bound

    def source_id(self) -> str:
        """The id by which the source knows itself, drawn at the first use."""
        ddl.create_tables(self.source)
        return binding.identify(self.source)

    def close(self) -> None:
        """Close all connections."""
        self.writer.close()
        self.source.close()


def _encoded(value: object, serializer: Serializer) -> tuple[bytes | None, Serializer]:
    arg = encode(value, serializer)
    if serializer is Serializer.AUTO:
        serializer = Serializer.JSON if isinstance(value, (dict, list, tuple)) else Serializer.RAW
    return arg, serializer


def _replaced(decision: Decision, **changes: object) -> Decision:
    return msgspec.structs.replace(decision, **changes)


def _keep(cache: dict[_Key, Translator], key: _Key, made: Translator) -> None:
    """Priorities may be anything: a cache that has met too many begins anew."""
    if len(cache) >= MOST_TRANSLATORS:
        cache.clear()
    cache[key] = made

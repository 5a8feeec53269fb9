"""Which rows of one source move, and how: funcs, routes, decisions, translators.

Reads `func` and samples of `job`.
"""

from __future__ import annotations

import fnmatch
from enum import StrEnum
from typing import NamedTuple

from migrate.config import Config, Delayed, Route, Unique
from migrate.decision import Decision, decide
from migrate.engine.step_watch import StepWatch
from migrate.errors import Untranslatable
from migrate.jobs import Identity, QudoJob
from migrate.qudo import reading
from migrate.qudo.reading import Row, Selection, Shape
from migrate.qudo.serializers import Detection, Serializer, detect_func
from migrate.qudo.source import Source
from migrate.translate import Form, Translation, Translator, readable

#: Rows of a func that are looked at to learn its serializer.
SAMPLE_ROWS = 100
#: Translators that are kept, one for each func and priority met.
MOST_TRANSLATORS = 10_000


class RowState(StrEnum):
    """What a row of `job` is to a migration; design.md's words."""

    IN_FLIGHT = "in_flight"  #: a Qudo worker holds it, or did until less than `lease_grace` ago
    KEPT = "kept"  #: stays by route or option, or until due
    UNTRANSLATABLE = "untranslatable"
    WAITING = "waiting"  #: its uniqkey is pending
    NOT_MOVED = "not_moved"  #: free: would move now


class Routed(NamedTuple):
    """A func of one source and its route."""

    name: str
    route: Route
    moves: bool  #: false: kept by route, by `--func`, or by the step it stands on


class Routing:
    """What configuration and steps say of one source's rows. Names are read anew by `refresh`, steps by themselves."""

    def __init__(
        self, source: Source, config: Config, func_glob: str | None = None, steps: StepWatch | None = None
    ) -> None:
        """`steps`: of the target; None: no func stands on one."""
        self._source = source
        self._steps = steps
        self._step_version = -1
        self._config = config
        self._func_glob = func_glob
        self._routed: dict[int, Routed] = {}
        self._translators: dict[tuple[int, int], Translator] = {}  #: by func id and priority
        self._by_decision: dict[int, Translator] = {}
        self._detected: dict[int, Detection] = {}

    def refresh(self) -> None:
        """Read the funcs: apps and workers create them at any time."""
        with self._source.reading() as connection:
            names = reading.func_names(connection)
        for func_id, stored in names.items():
            if func_id not in self._routed:
                name = readable(stored)
                self._routed[func_id] = self._route(name)

    def _route(self, name: str) -> Routed:
        route = self._config.route_for(name)
        chosen = self._func_glob is None or fnmatch.fnmatchcase(name, self._func_glob)
        kept = self._steps is not None and self._steps.now().keeps(name)
        return Routed(name, route, route.move and chosen and not kept)

    def _follow_steps(self) -> dict[int, Routed]:
        """The funcs, by the steps as they were half a second ago at most."""
        if self._steps is not None and (version := self._steps.now().version) != self._step_version:
            self._step_version = version
            self._routed = {func_id: self._route(routed.name) for func_id, routed in self._routed.items()}
        return self._routed

    @property
    def funcs(self) -> dict[int, Routed]:
        """Func id -> what is known of it."""
        return self._follow_steps()

    @property
    def names(self) -> dict[int, str]:
        """Func id -> name."""
        return {func_id: routed.name for func_id, routed in self._routed.items()}

    @property
    def selection(self) -> Selection:
        """What a walk through the free rows leaves out."""
        return Selection(
            kept={func_id for func_id, routed in self._follow_steps().items() if not routed.moves},
            held={func_id for func_id, routed in self._routed.items() if routed.route.delayed is Delayed.HOLD},
        )

    def known(self, func_id: int) -> Routed | None:
        """The func, looking once more for one that appeared meanwhile; None: no such func."""
        if func_id not in self._routed:
            self.refresh()
        return self._follow_steps().get(func_id)

    def name(self, func_id: int) -> str:
        """The func's name for messages."""
        routed = self._routed.get(func_id)
        return routed.name if routed else f"(unknown func id {func_id})"

    def func_id(self, name: str) -> int | None:
        """The id of the func of this name; None: Qudo doesn't know it, or not yet."""
        return next((func_id for func_id, routed in self._routed.items() if routed.name == name), None)

    def held_state(self, row: Row, now: int) -> RowState | None:
        """IN_FLIGHT or KEPT for a row that doesn't move whatever it holds, else None."""
        routed = self.known(row.func_id)
        grace = routed.route.lease_grace if routed else 0
        if routed is not None and not routed.moves:
            return RowState.KEPT
        if row.grabbed_until and row.grabbed_until > now - grace:
            return RowState.IN_FLIGHT
        if routed is not None and routed.route.delayed is Delayed.HOLD and row.run_after > now:
            return RowState.KEPT
        return None

    def translator(self, row: Row) -> Translator:
        """The translator of a row's func and band. Raises Untranslatable for a func id that `func` doesn't have."""
        return self._translator(row.func_id, row.priority)

    def _translator(self, func_id: int, priority: int) -> Translator:
        key = (func_id, priority)
        translator = self._translators.get(key)
        if translator is None:
            routed = self.known(func_id)
            if routed is None:
                raise Untranslatable(f"unknown func id {func_id}")
            if not routed.name:
                raise Untranslatable(f"the func with id {func_id} has an empty name")
            if len(self._translators) >= MOST_TRANSLATORS:  # priorities may be anything
                self._translators.clear()
            decision = decide(self._config, routed.name, priority, self._usual(func_id, routed.route))
            translator = self._translators[key] = Translator(self._source.name, decision)
        return translator

    def failure_translator(self, func_id: int) -> Translator:
        """The translator of a func's failures: they tell no priority. Raises Untranslatable for an unknown func id."""
        return self._translator(func_id, 0)

    def translate(self, row: Row, arg: bytes | None, identity: Identity, now: int) -> tuple[Translator, Translation]:
        """Translate a row. Raises Untranslatable."""
        translator = self.translator(row)
        return translator, form_of(translator, row.shape, now).fill(row.id, row.enqueue_time, arg, identity)

    def translate_moved(self, job: QudoJob, decision_text: str, identity: Identity, now: int) -> Translation:
        """Translate a row of the outbox by the decision under which it moved."""
        decision = Decision.parse(decision_text)
        translator = self._by_decision.get(decision.id)
        if translator is None:
            translator = self._by_decision[decision.id] = Translator(self._source.name, decision)
        return translator.translate(job, identity, now)

    def keeps_unique(self, row: Row) -> bool:
        """Whether the row's uniqkey is to stay unique across the crossing."""
        routed = self._routed.get(row.func_id)
        return row.uniqkey is not None and routed is not None and routed.route.unique is Unique.KEEP

    def _usual(self, func_id: int, route: Route) -> Serializer | None:
        return self.detection(func_id).serializer if route.serializer is Serializer.AUTO else None

    def detection(self, func_id: int) -> Detection:
        """What a sample of the func's rows looks like; asked once."""
        if func_id not in self._detected:
            with self._source.reading() as connection:
                rows = reading.samples(self._source, connection, func_id, SAMPLE_ROWS)
            self._detected[func_id] = detect_func(row.arg for row in rows if not row.is_large)
        return self._detected[func_id]


def form_of(translator: Translator, shape: Shape, now: int) -> Form:
    """The form of rows of this shape."""
    return translator.form(shape.uniqkey, shape.run_after, shape.retry_cnt, shape.priority, now)

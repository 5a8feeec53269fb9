"""Choosing what moves: reads free rows in Qudo's order, translates them, cuts them into chunks. Writes nothing.

A drain moves the chunks; a dry run and a rehearsal look at the very same ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec

from migrate.decision import Decision
from migrate.engine.batches import Batches
from migrate.engine.pacing import CHUNK_BYTES, ChunkSize
from migrate.engine.pausing import PauseWatch
from migrate.engine.remaining import Remaining
from migrate.engine.results import Tally, UntranslatableJob
from migrate.engine.routing import Routing, RowState, form_of
from migrate.engine.stopping import Stop
from migrate.errors import Untranslatable
from migrate.jobs import ResqueJob
from migrate.qudo import reading
from migrate.qudo.moving import Candidate
from migrate.qudo.reading import FreeRows, Row, Shape
from migrate.qudo.serializers import Finding
from migrate.qudo.source import Source
from migrate.translate import Form

#: Seconds between two looks at which funcs apps still enqueue.
LIVE_FUNCS_SECONDS = 5.0


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A row that would move, and what Resque would get."""

    candidate: Candidate
    job: ResqueJob
    func: str
    findings: tuple[Finding, ...]
    arg: bytes | None


class _Moves(NamedTuple):
    """How rows of one shape move."""

    form: Form
    decision: Decision
    unique: bool  #: their uniqkey is kept


class Walk(Protocol):
    """Goes through rows of `job`, a page at a time, the rows of a page in Qudo's order."""

    #: The server's Unix second at the last page.
    now: int

    def page(self, limit: int) -> list[Row]:
        """The next rows, about `limit`; empty at the end."""


class Chooser:
    """Chooses the rows of one source, pass after pass."""

    def __init__(
        self,
        source: Source,
        routing: Routing,
        batches: Batches,
        size: ChunkSize,
        tally: Tally,
        stop: Stop,
        *,
        together: bool = False,
        watch: PauseWatch | None = None,
        remaining: Remaining | None = None,
    ) -> None:
        """`together`: rows with a uniqkey need no chunk of their own, since nothing is moved.

        `remaining`: rows that it knows are left out, and it is told of those that stay.
        """
        self._source = source
        self._routing = routing
        self._batches = batches
        self._size = size
        self._tally = tally
        self._stop = stop
        self._together = together
        self._watch = watch
        self._remaining = remaining
        self.paused: set[int] = set()  #: func ids that were paused at any time of this pass
        self._manners: dict[Shape, _Moves | RowState] = {}  # of this page's rows
        self._live_funcs: set[int] = set()
        self._look_again = 0.0
        self.decisions: dict[int, str] = {}  #: the texts of all decisions met, by id
        self.limit_reached = False
        self.alone: set[int] = set()  #: ids of rows that go one by one: one of them is locked by somebody

    def chunks(self, limit: int | None, walk: Walk | None = None) -> Iterator[list[Prepared]]:
        """One pass: translated rows in Qudo's order, in chunks bounded in rows and bytes, each within one batch.

        At most `limit` rows; of `walk`, or of all that are free. Rows that can't be translated go into the tally. Ends
        early when a stop is requested.
        """
        self.paused = set()
        chunk: list[Prepared] = []
        chunk_bytes = 0  # of args
        left = limit
        for row, now in self._rows(walk or FreeRows(self._source, self._routing.selection)):
            if left is not None and left <= 0:
                self.limit_reached = True
                break
            prepared = self._prepare(row, now)
            if prepared is None:
                continue
            alone = not self._together and (
                row.id in self.alone or (prepared.candidate.unique and self._goes_alone(row))
            )
            other_batch = bool(chunk) and chunk[0].job.identity.batch != prepared.job.identity.batch
            if chunk and (alone or other_batch or chunk_bytes + row.arg_bytes > CHUNK_BYTES):
                yield chunk
                chunk, chunk_bytes = [], 0
            chunk.append(prepared)
            chunk_bytes += row.arg_bytes
            left = None if left is None else left - 1
            if alone or len(chunk) >= self._size.rows:
                yield chunk
                chunk, chunk_bytes = [], 0
        if chunk:
            yield chunk

    def _rows(self, walk: Walk) -> Iterator[tuple[Row, int]]:
        """The rows of a walk, each with the server's second at which it was read."""
        while rows := walk.page(self._size.rows):
            self._look_at_pauses()
            self._manners.clear()
            for row in rows:
                if self._stop.requested:
                    return
                yield row, walk.now

    def _look_at_pauses(self) -> None:
        """A func that is resumed in mid-pass waits for the next one: its rows must not overtake each other."""
        if self._watch is not None and (known := self._watch.now()).notes:
            names = self._routing.names
            self.paused |= {func_id for func_id, name in names.items() if known.covering(name) is not None}

    def _goes_alone(self, row: Row) -> bool:
        """A row with a uniqkey whose func apps still enqueue: a larger move makes an app a deadlock's victim (seen)."""
        if time.monotonic() >= self._look_again:
            self._look_again = time.monotonic() + LIVE_FUNCS_SECONDS
            with self._source.reading() as connection:
                self._live_funcs = reading.recent_funcs(connection, self._source.now(connection))
        return row.func_id in self._live_funcs

    def _prepare(self, row: Row, now: int) -> Prepared | None:
        """Translate one row; None when it stays. Nothing of it reaches the outbox unless it translates."""
        shape = row.shape
        if shape.func_id in self.paused or (self._remaining is not None and self._remaining.knows(row, now)):
            return None
        try:
            moves = self._manners.get(shape)
            if moves is None:
                moves = self._manners[shape] = self._manner(row, now)
            if isinstance(moves, RowState):
                self._stays(row, moves)
                return None
            arg = reading.whole_arg(self._source, row)
            identity = self._batches.take()
            translation = moves.form.fill(row.id, row.enqueue_time, arg, identity)
        except Untranslatable as error:
            name = self._routing.name(shape.func_id)
            self._tally.list_untranslatable(UntranslatableJob(self._source.name, row.id, name, error.message))
            self._stays(row, RowState.UNTRANSLATABLE)
            return None
        candidate = Candidate(row, identity.seq, moves.decision.id, moves.unique)
        return Prepared(candidate, translation.job, moves.decision.func, translation.findings, arg)

    def _manner(self, row: Row, now: int) -> _Moves | RowState:
        """How rows of this row's shape move, or the state in which they stay. Raises Untranslatable."""
        state = self._routing.held_state(row, now)
        if state is not None:
            return state
        translator = self._routing.translator(row)
        self.decisions.setdefault(translator.decision.id, translator.decision.text)
        unique = self._routing.keeps_unique(row)
        return _Moves(form_of(translator, row.shape, now), translator.decision, unique)

    def _stays(self, row: Row, state: RowState) -> None:
        if self._remaining is not None:
            remember(self._remaining, self._routing, row, state)


def remember(remaining: Remaining, routing: Routing, row: Row, state: RowState) -> None:
    """Have it remembered that a row stays, and when it is next of interest; rows of funcs that don't move never are."""
    routed = routing.funcs.get(row.func_id)
    if routed is not None and not routed.moves:
        return
    until = None
    if state is RowState.IN_FLIGHT:
        until = row.grabbed_until + (routed.route.lease_grace if routed else 0)
    elif state is RowState.KEPT:
        until = row.run_after  # held until it is due
    remaining.stays(row, state, until)

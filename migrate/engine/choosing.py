"""Choosing what moves: reads free rows in Qudo's order, translates them, cuts them into chunks. Writes nothing.

A drain moves the chunks; a dry run and a rehearsal look at the very same ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from migrate.engine.batches import Batches
from migrate.engine.pacing import CHUNK_BYTES, ChunkSize
from migrate.engine.pausing import PauseWatch
from migrate.engine.results import Tally, UntranslatableJob
from migrate.engine.routing import Routing
from migrate.engine.stopping import Stop
from migrate.errors import Untranslatable
from migrate.jobs import ResqueJob
from migrate.qudo import reading
from migrate.qudo.moving import Candidate
from migrate.qudo.reading import FreeRows, Row
from migrate.qudo.serializers import Finding
from migrate.qudo.source import Source

#: Seconds between two looks at which funcs apps still enqueue.
LIVE_FUNCS_SECONDS = 5.0


class Prepared(NamedTuple):
    """A row that would move, and what Resque would get."""

    candidate: Candidate
    job: ResqueJob
    func: str
    findings: tuple[Finding, ...]
    arg: bytes | None


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
    ) -> None:
        """`together`: rows with a uniqkey need no chunk of their own, since nothing is moved."""
        self._source = source
        self._routing = routing
        self._batches = batches
        self._size = size
        self._tally = tally
        self._stop = stop
        self._together = together
        self._watch = watch
        self.paused: set[int] = set()  #: func ids that were paused at any time of this pass
        self._live_funcs: set[int] = set()
        self._look_again = 0.0
        self.decisions: dict[int, str] = {}  #: the texts of all decisions met, by id
        self.limit_reached = False

    def chunks(self, limit: int | None) -> Iterator[list[Prepared]]:
        """One pass: translated rows in Qudo's order, in chunks bounded in rows and bytes, each within one batch.

        At most `limit` rows. Rows that can't be translated go into the tally. Ends early when a stop is requested.
        """
        self.paused = set()
        chunk: list[Prepared] = []
        chunk_bytes = 0  # of args
        left = limit
        for row, now in self._rows():
            if left is not None and left <= 0:
                self.limit_reached = True
                break
            prepared = self._prepare(row, now)
            if prepared is None:
                continue
            alone = not self._together and self._goes_alone(row)
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

    def _rows(self) -> Iterator[tuple[Row, int]]:
        """Free rows in Qudo's order, each with the server's second at which it was read."""
        walk = FreeRows(self._source, self._routing.selection)
        while rows := walk.page(self._size.rows):
            self._look_at_pauses()
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
        if not self._routing.keeps_unique(row):
            return False
        if time.monotonic() >= self._look_again:
            self._look_again = time.monotonic() + LIVE_FUNCS_SECONDS
            with self._source.reading() as connection:
                self._live_funcs = reading.recent_funcs(connection, self._source.now(connection))
        return row.func_id in self._live_funcs

    def _prepare(self, row: Row, now: int) -> Prepared | None:
        """Translate one row; None when it stays. Nothing of it reaches the outbox unless it translates."""
        if row.func_id in self.paused or self._routing.held_state(row, now) is not None:
            return None
        arg = reading.whole_arg(self._source, row)
        identity = self._batches.take()
        try:
            translator, translation = self._routing.translate(row, arg, identity, now)
        except Untranslatable as error:
            name = self._routing.name(row.func_id)
            self._tally.list_untranslatable(UntranslatableJob(self._source.name, row.id, name, error.message))
            return None
        decision = translator.decision
        self.decisions.setdefault(decision.id, decision.text)
        candidate = Candidate(row, identity.seq, decision.id, self._routing.keeps_unique(row))
        return Prepared(candidate, translation.job, decision.func, translation.findings, arg)

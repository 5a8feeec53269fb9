"""Rows of `job` that are a handed-off job in all but the id: the job put back by hand, or another one enqueued alike.

Nothing can tell the two apart, so this is worth saying and no difference. Jobs enqueued alike, in the same second, move
together; so only a row is told whose like moved a while ago, and only where few rows are free in `job`. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from migrate.qudo import outbox_pages, reading
from migrate.qudo.outbox_pages import MovedRow
from migrate.qudo.reading import Row
from migrate.qudo.source import Source

#: Free rows of `job` above which a migration is under way, and none is told.
MOST_ROWS = 1000
#: Seconds since the newest move of a job that is alike.
SETTLED_SECONDS = 10
#: Bytes of an arg that both sides' pages bring along; of longer ones only the length is known at first.
_SHORT_ARG_BYTES = 1024


class _Likeness(NamedTuple):
    func_id: int
    enqueue_time: int
    priority: int
    uniqkey: bytes | None
    arg_bytes: int
    arg: bytes | None  #: None for a longer one


class LookAlikes:
    """Of one source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rows: dict[_Likeness, Row] = {}
        self._newest: dict[_Likeness, MovedRow] = {}
        self._met = 0

    def remember(self, row: Row) -> None:
        """A row of `job` that is free there."""
        self._met += 1
        if self._met > MOST_ROWS:
            self._rows.clear()
        elif row.enqueue_time is not None:
            likeness = _likeness(row)
            self._rows.setdefault(likeness, msgspec.structs.replace(row, arg=likeness.arg))

    def __bool__(self) -> bool:
        return bool(self._rows)

    def meet(self, moved: MovedRow) -> None:
        """A job that was handed off."""
        likeness = _likeness(moved)
        if likeness in self._rows:
            newest = self._newest.get(likeness)
            if newest is None or newest.moved_at <= moved.moved_at:
                self._newest[likeness] = moved._replace(arg=likeness.arg)

    def told(self) -> Iterator[tuple[Row, MovedRow]]:
        """All rows of the outbox were met: free rows of `job`, each with the job that it looks like."""
        if not self._newest:
            return
        with self._source.reading() as connection:
            now = self._source.now(connection)
        for likeness, moved in self._newest.items():
            row = self._rows[likeness]
            if row.id == moved.job_id or moved.moved_at > now - SETTLED_SECONDS:
                continue
            if likeness.arg is None and likeness.arg_bytes:
                one, other = reading.whole_arg(self._source, row), outbox_pages.whole_arg(self._source, moved)
                if one != other:
                    continue
            yield row, moved


def _likeness(row: Row | MovedRow) -> _Likeness:
    arg = row.arg if row.arg_bytes <= _SHORT_ARG_BYTES else None
    return _Likeness(row.func_id, row.enqueue_time or 0, row.priority, row.uniqkey, row.arg_bytes, arg)

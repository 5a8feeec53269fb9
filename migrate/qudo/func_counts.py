"""What a source still has of one func: its rows of `job`, rows of apps that are due, keys that are held. Reads only."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func as sql
from sqlalchemy import select

from migrate.jobs import Identity
from migrate.qudo import reading, tables
from migrate.qudo.source import Source


class FuncCounts(NamedTuple):
    """One func in one source."""

    in_job: int
    due: tuple[Identity, ...]  #: in the outbox, not known to be durable in Redis
    holders: tuple[Identity, ...]  #: of its uniqkeys outside of `job`


def of(source: Source, func: str, *, has_our_tables: bool) -> FuncCounts:
    """Look. A func that the source doesn't know has nothing."""
    outbox, pending, job = tables.outbox.c, tables.pending.c, tables.job.c
    with source.reading() as connection:
        wanted = (func.encode(), func.encode("latin-1", "replace"))
        ids = [key for key, name in reading.func_names(connection).items() if name in wanted]
        if not ids:
            return FuncCounts(0, (), ())
        in_job = connection.execute(
            select(sql.count()).select_from(tables.job).where(job.func_id.in_(ids))
        ).scalar_one()
        if not has_our_tables:
            return FuncCounts(int(in_job), (), ())
        due = select(outbox.batch, outbox.seq).where(outbox.due.is_not(None), outbox.func_id.in_(ids))
        held = select(pending.batch, pending.seq).where(pending.func_id.in_(ids))
        return FuncCounts(
            int(in_job),
            tuple(Identity(int(row[0]), int(row[1])) for row in connection.execute(due)),
            tuple(Identity(int(row[0]), int(row[1])) for row in connection.execute(held)),
        )

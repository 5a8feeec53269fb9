"""The way back: outbox rows become rows of `job` again, each under a new id, in one short transaction.

Reads and writes `job` and our own tables. For InnoDB and SQLite; where `job` knows no transactions, `returning_leased`.

What a transaction returned is noted in `qudo_migrate_returned` by that very transaction. So an outbox row that is gone
without such a note was purged, and its job must not be taken for returned. A note goes when Redis is known, behind a
durable fence, to have forgotten that the job is on its way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    String,
    and_,
    cast,
    delete,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError

from migrate.failpoints import reach
from migrate.identities import Identities
from migrate.jobs import Identity
from migrate.parts import in_parts
from migrate.qudo import tables
from migrate.qudo.outbox import Chunk
from migrate.qudo.picking import UNCACHED, among, id_lists
from migrate.qudo.source import Source

job = tables.job.c
outbox = tables.outbox.c
returned = tables.returned.c

#: Notes of returned jobs that one page reads.
PAGE_ROWS = 5000

#: Columns of `job` that come back as they were; its id is new and its lease free.
_KEPT = ("func_id", "arg", "enqueue_time", "run_after", "retry_cnt", "priority")


class Crossed(NamedTuple):
    """An outbox row as far as a rollback asks. Times are Unix seconds of the source's server."""

    identity: Identity
    func_id: int
    retry_cnt: int
    run_after: int
    has_uniqkey: bool


class GivenBack(NamedTuple):
    """What became of some jobs; seqs of one batch."""

    returned: frozenset[int]  #: in `job`, now or since an earlier pass
    orphans: frozenset[int]  #: no outbox row, and never returned: it was purged
    collided: bool = False  #: a uniqkey of theirs is held in `job`: nothing of this call was returned


def _header() -> Select[Any]:
    has_key = outbox.uniqkey.is_not(None)
    return select(outbox.batch, outbox.seq, outbox.func_id, outbox.retry_cnt, outbox.run_after, cast(has_key, Integer))


def _crossed(row: Any) -> Crossed:
    return Crossed(Identity(int(row[0]), int(row[1])), int(row[2]), int(row[3]), int(row[4]), bool(row[5]))


def by_batch(identities: Iterable[Identity]) -> dict[int, list[int]]:
    """The seqs of each batch, sorted."""
    found: dict[int, list[int]] = defaultdict(list)
    for identity in sorted(set(identities)):
        found[identity.batch].append(identity.seq)
    return found


def _in_lists(source: Source, identities: Iterable[Identity]) -> Iterator[tuple[int, Sequence[int]]]:
    for batch, seqs in by_batch(identities).items():
        for part in id_lists(source, seqs):
            yield batch, part


def _these(batch: int, seqs: Sequence[int], table: str = tables.outbox.name) -> ColumnElement[bool]:
    return and_(text(f"{table}.batch = {int(batch)}"), among(seqs, f"{table}.seq"))


def crossed(source: Source, connection: Connection, identities: Collection[Identity]) -> dict[Identity, Crossed]:
    """The rows of these jobs, those that are there."""
    found: dict[Identity, Crossed] = {}
    for batch, seqs in _in_lists(source, identities):
        query = _header().where(_these(batch, seqs))
        rows = map(_crossed, connection.execute(query, execution_options=UNCACHED))
        found.update((row.identity, row) for row in rows)
    return found


def crossed_in(connection: Connection, record: Chunk) -> list[Crossed]:
    """The rows of a chunk by seq."""
    within = and_(outbox.batch == record.batch, outbox.seq.between(record.first_seq, record.last_seq))
    return [_crossed(row) for row in connection.execute(_header().where(within).order_by(outbox.seq))]


def delayed(connection: Connection, func_ids: Collection[int]) -> list[Crossed]:
    """The rows of jobs that weren't due when they moved. Reads the whole outbox: no index serves it."""
    query = _header().where(outbox.run_after > outbox.moved_at, outbox.func_id.in_(sorted(func_ids)))
    return [_crossed(row) for row in connection.execute(query.order_by(outbox.batch, outbox.seq))]


def decisions(connection: Connection) -> list[str]:
    """The texts of all decisions under which rows have ever moved."""
    return [str(each) for each in connection.execute(select(tables.decision.c.decision)).scalars()]


def count(connection: Connection, func_ids: Collection[int]) -> int:
    """The outbox rows of these funcs."""
    query = select(func.count()).select_from(tables.outbox).where(outbox.func_id.in_(sorted(func_ids)))
    return int(connection.execute(query).scalar_one())


def with_held_keys(source: Source, connection: Connection, identities: Collection[Identity]) -> set[Identity]:
    """Those of the jobs whose uniqkey is held in `job` by now: they couldn't go back there."""
    key = _stored_key(source, connection)
    found: set[Identity] = set()
    for batch, seqs in _in_lists(source, identities):
        same = and_(job.func_id == outbox.func_id, job.uniqkey == key)
        query = select(outbox.batch, outbox.seq).select_from(tables.outbox.join(tables.job, same))
        rows = connection.execute(query.where(_these(batch, seqs)), execution_options=UNCACHED)
        found.update(Identity(int(row[0]), int(row[1])) for row in rows)
    return found


def _stored_key(source: Source, connection: Connection) -> ColumnElement[Any]:
    """SQL for an outbox row's uniqkey as `job.uniqkey` has it, so that its unique index serves the comparison."""
    if source.is_sqlite:
        return cast(outbox.uniqkey, String)
    row = connection.execute(
        text(
            "SELECT character_set_name, collation_name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = 'job' AND column_name = 'uniqkey'"
        )
    ).one()
    if not row[0]:
        return outbox.uniqkey  # a shop may have made the column VARBINARY
    return literal_column(f"CONVERT({tables.outbox.name}.uniqkey USING {row[0]}) COLLATE {row[1]}")


def insert_again(source: Source, connection: Connection, batch: int, seqs: Sequence[int], lease: int) -> int:
    """Copy outbox rows into `job` in their order, under new ids; how many. Raises IntegrityError for a held uniqkey.

    The bytes never leave the server: what comes back is what Qudo had.
    """
    key = cast(outbox.uniqkey, String) if source.is_sqlite else outbox.uniqkey
    rows = select(*(outbox[name] for name in _KEPT), key, literal(lease)).where(_these(batch, seqs))
    statement = insert(tables.job).from_select([*_KEPT, "uniqkey", "grabbed_until"], rows.order_by(outbox.seq))
    return connection.execute(statement, execution_options=UNCACHED).rowcount


def drop_rows(source: Source, connection: Connection, batch: int, seqs: Sequence[int]) -> None:
    """Delete outbox rows of returned jobs, and free their uniqkeys: from now on `job` guards them."""
    for table, index in ((tables.outbox, "PRIMARY"), (tables.pending, "batch")):
        these = _these(batch, seqs, table.name)
        if source.is_sqlite:
            connection.execute(delete(table).where(these), execution_options=UNCACHED)
            continue
        # A list of many rows of a small table is deleted by a scan of it, which waits for rows that open moves have
        # written (seen). Only this form of DELETE takes a hint.
        hinted = f"DELETE {table.name} FROM {table.name} FORCE INDEX ({index}) WHERE {these}"
        connection.execute(text(hinted), execution_options=UNCACHED)


def noted(source: Source, connection: Connection, batch: int, seqs: Sequence[int]) -> dict[int, int | None]:
    """Those of the jobs that are noted as returned, and their new ids where those were noted."""
    found: dict[int, int | None] = {}
    for part in id_lists(source, seqs):
        query = select(returned.seq, returned.job_id).where(_these(batch, part, tables.returned.name))
        found.update((int(row[0]), row[1]) for row in connection.execute(query, execution_options=UNCACHED))
    return found


def locked(source: Source, connection: Connection, batch: int, seqs: Sequence[int]) -> list[int]:
    """Lock the outbox rows of these jobs; the seqs of those that are there, sorted."""
    here: list[int] = []
    for part in id_lists(source, seqs):
        query = select(outbox.seq).where(_these(batch, part)).order_by(outbox.seq).with_for_update()
        for dialect in ("mysql", "mariadb"):  # as in `drop_rows`: no row but these may be locked or waited for
            query = query.with_hint(tables.outbox, "FORCE INDEX (PRIMARY)", dialect)
        here += [int(seq) for seq in connection.execute(query, execution_options=UNCACHED).scalars()]
    return here


def give_back(source: Source, batch: int, seqs: Sequence[int]) -> GivenBack:
    """Return jobs of one batch (seqs sorted) to `job` in one transaction. Safe to repeat and side by side.

    A crash leaves all or nothing. Raises Contention (nothing was done, try again) and Unavailable (unknown: repeat).
    """
    with source.writing() as connection:
        here = locked(source, connection, batch, seqs)
        gone = sorted(set(seqs).difference(here))
        before = noted(source, connection, batch, gone)
        orphans = frozenset(gone).difference(before)
        try:
            with connection.begin_nested():
                for part in id_lists(source, here):
                    insert_again(source, connection, batch, part, 0)
        except IntegrityError:
            return GivenBack(frozenset(before), orphans, collided=True)
        reach("rollback.inserted")
        for part in id_lists(source, here):
            note = select(outbox.batch, outbox.seq, null()).where(_these(batch, part))
            connection.execute(
                insert(tables.returned).from_select(["batch", "seq", "job_id"], note), execution_options=UNCACHED
            )
            drop_rows(source, connection, batch, part)
    reach("rollback.committed")
    return GivenBack(frozenset(here).union(before), orphans)


def notes(connection: Connection) -> Identities:
    """All jobs that are noted as returned."""
    found, after = Identities(), Identity(-1, -1)
    while True:
        query = _behind(after).order_by(returned.batch, returned.seq).limit(PAGE_ROWS)
        page = [Identity(int(row[0]), int(row[1])) for row in connection.execute(query)]
        found.update(page)
        if len(page) < PAGE_ROWS:
            return found
        after = page[-1]


def _behind(after: Identity) -> Select[Any]:
    later = and_(returned.batch == after.batch, returned.seq > after.seq)
    return select(returned.batch, returned.seq).where(or_(returned.batch > after.batch, later))


def drop_notes(source: Source, identities: Iterable[Identity]) -> None:
    """Delete notes of jobs that Redis has durably forgotten to be on their way. Safe to repeat."""
    for page in in_parts(identities, PAGE_ROWS):
        with source.writing() as connection:
            forget_notes(source, connection, page)


def forget_notes(source: Source, connection: Connection, identities: Collection[Identity]) -> None:
    """Delete notes, part of the caller's transaction."""
    for batch, seqs in _in_lists(source, identities):
        these = _these(batch, seqs, tables.returned.name)
        connection.execute(delete(tables.returned).where(these), execution_options=UNCACHED)


def new_ids(known: Mapping[int, int | None]) -> list[int]:
    """The ids in `job` among notes, sorted."""
    return sorted(int(job_id) for job_id in known.values() if job_id is not None)

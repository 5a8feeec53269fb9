"""What is in Qudo's tables, counted by the server in one scan; and what the account may do. Read-only."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, func, select, text

from migrate.qudo import tables
from migrate.qudo.source import Source

job = tables.job.c

#: Rights that the migration needs on the source's database; CREATE only until our tables exist.
NEEDED_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")


class Group(NamedTuple):
    """Jobs of one func at one priority."""

    func_id: int
    priority: int
    jobs: int
    in_flight: int  #: a lease that isn't over by the server's clock
    expired: int  #: a lease that is over: its worker died, or takes too long
    delayed: int  #: free, and not due yet
    retried: int  #: failed before
    with_uniqkey: int


def groups(connection: Connection, now: int) -> list[Group]:
    """Jobs by func and priority. Scans the table once."""
    held = job.grabbed_until > now

    def count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    columns: list[ColumnElement[Any]] = [
        job.func_id,
        job.priority,
        func.count(),
        count(held),
        count(and_(job.grabbed_until > 0, job.grabbed_until <= now)),
        count(and_(job.run_after > now, job.grabbed_until <= now)),
        count(job.retry_cnt > 0),
        func.count(job.uniqkey),
    ]
    query = select(*columns).group_by(job.func_id, job.priority).order_by(job.func_id, job.priority.desc())
    return [Group(*(int(value) for value in row)) for row in connection.execute(query)]


def exceptions(connection: Connection) -> tuple[int, int]:
    """Rows in `exception_log`, and those that nobody has retried."""
    log = tables.exception_log.c
    query = select(func.count(), func.coalesce(func.sum(case((log.retried == 0, 1), else_=0)), 0))
    row = connection.execute(query.select_from(tables.exception_log)).one()
    return int(row[0]), int(row[1])


def missing_rights(source: Source, connection: Connection, *, create: bool) -> list[str]:
    """Rights that the account seems to lack on the database; empty for SQLite.

    Read from the catalogue: rights that come through a role are not seen there.
    """
    if source.is_sqlite:
        return []
    query = text(
        "SELECT privilege_type FROM information_schema.user_privileges WHERE grantee = :me"
        " UNION SELECT privilege_type FROM information_schema.schema_privileges"
        " WHERE grantee = :me AND DATABASE() LIKE table_schema"
    )
    account = str(connection.execute(text("SELECT CURRENT_USER()")).scalar_one())
    user, _, host = account.rpartition("@")
    held = {str(value).upper() for value in connection.execute(query, {"me": f"'{user}'@'{host}'"}).scalars()}
    if _has_role(connection):
        return []
    return [right for right in (*NEEDED_RIGHTS, *(("CREATE",) if create else ())) if right not in held]


def _has_role(connection: Connection) -> bool:
    """Whether the account acts under a role, whose rights the catalogue doesn't list as its own."""
    row = connection.execute(text("SHOW GRANTS")).scalars().all()
    return any(
        str(grant).upper().startswith("GRANT `") or (" TO `" in str(grant) and " ON " not in str(grant))
        for grant in row
    )

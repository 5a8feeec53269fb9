"""Qudo's rows as typed records, texts as the bytes that the database holds."""

from __future__ import annotations

from typing import NamedTuple

from tests.servers.databases import Database, Session


class JobRow(NamedTuple):
    """One row of `job`; `func` is the name."""

    id: int
    func: str
    arg: bytes | None
    uniqkey: bytes | None
    enqueue_time: int
    grabbed_until: int
    run_after: int
    retry_cnt: int
    priority: int


def job_rows(db: Database | Session, where: str = "1 = 1") -> list[JobRow]:
    """The rows of `job`, by id."""
    name, arg, uniqkey = (db.as_bytes(column) for column in ("func.name", "job.arg", "job.uniqkey"))
    rows = db.rows(
        f"SELECT job.id, {name}, {arg}, {uniqkey}, job.enqueue_time, job.grabbed_until,"
        " job.run_after, job.retry_cnt, job.priority"
        f" FROM job LEFT JOIN func ON func.id = job.func_id WHERE {where} ORDER BY job.id"
    )
    return [JobRow(job_id, (func or b"").decode(), *rest) for job_id, func, *rest in rows]


def job_ids(db: Database | Session, where: str = "1 = 1") -> list[int]:
    """The ids in `job`, in order."""
    return [int(job_id) for (job_id,) in db.rows(f"SELECT id FROM job WHERE {where} ORDER BY id")]

"""Enqueueing as Qudo does it, and in bulk."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator

import pymysql

from tests.servers.databases import Database, Session

#: The columns that Qudo reads of a job.
FOUND_COLUMNS = "id, arg, uniqkey, func_id, grabbed_until, retry_cnt, priority"

#: In the templates of `fill`: the number of the job, from 1 on.
NUMBER = "{n}"

#: Rows in one INSERT of `fill`: more would hold locks and undo for long.
_CHUNK = 100_000


def func_id(db: Database | Session, func: str | bytes) -> int:
    """The id of a func; its row is made when it lacks. (Qudo dies when another makes it meanwhile; this doesn't.)"""
    query = f"SELECT id FROM func WHERE name = {db.text(func)} LIMIT 1"
    found = db.rows(query)
    if found:
        return int(found[0][0])
    try:
        return db.insert(f"INSERT INTO func (name) VALUES ({db.text(func)})")
    except (sqlite3.IntegrityError, pymysql.IntegrityError):
        return int(db.value(query))


def enqueue(
    db: Database | Session,
    func: str | bytes,
    arg: bytes | None,
    uniqkey: str | bytes | None = None,
    priority: int = 0,
    run_after: int = 0,
) -> int:
    """Put one job in, as `Qudo::Manager::enqueue` does. `run_after` is a delay in seconds. The job's id.

    Raises the driver's IntegrityError when such a (func, uniqkey) waits already.
    """
    now = int(time.time())
    job_id = db.insert(
        "INSERT INTO job (func_id, arg, uniqkey, run_after, priority, enqueue_time, grabbed_until, retry_cnt)"
        f" VALUES (%s, {db.arg(arg)}, {db.text(uniqkey)}, %s, %s, %s, 0, 0)",
        [func_id(db, func), now + run_after, priority, now],
    )
    db.rows(f"SELECT {FOUND_COLUMNS} FROM job WHERE id = {job_id} LIMIT 1")
    return job_id


def fill(
    db: Database,
    n: int,
    func: str = "Worker::Mail",
    arg: str | bytes = '{"n":{n}}',
    uniqkey: str | None = None,
    priorities: int = 1,
    run_after: int = 0,
) -> None:
    """Put `n` jobs in quickly. `{n}` in `arg` and `uniqkey` becomes the job's number; priorities go round from 0."""
    assert n <= 10_000_000
    template = arg.encode() if isinstance(arg, str) else arg
    now = int(time.time())
    with contextlib.closing(db.session()) as session:
        func_number = func_id(session, func)
        arg_sql = _numbered(db, [session.arg(part) for part in template.split(NUMBER.encode())])
        key_sql = _numbered(db, [session.text(part) for part in uniqkey.split(NUMBER)]) if uniqkey else "NULL"
        for first, last in _chunks(n):
            session.execute(
                "INSERT INTO job (func_id, arg, uniqkey, run_after, priority, enqueue_time, grabbed_until, retry_cnt)"
                f" SELECT {func_number}, {arg_sql}, {key_sql}, {now + run_after}, n % {priorities}, {now}, 0, 0"
                f" FROM {_numbers(db, first, last)} AS numbers"
            )


def _chunks(n: int) -> Iterator[tuple[int, int]]:
    for first in range(1, n + 1, _CHUNK):
        yield first, min(first + _CHUNK - 1, n)


def _numbered(db: Database, parts: list[str]) -> str:
    """SQL that puts the number between the parts."""
    if db.engine == "SQLite":
        return f"({' || n || '.join(parts)})"
    return f"CONCAT({', n, '.join(parts)})" if len(parts) > 1 else parts[0]


def _numbers(db: Database, first: int, last: int) -> str:
    """SQL for a table of the numbers from `first` to `last`, on any MySQL."""
    if db.engine == "SQLite":
        return (
            f"(WITH RECURSIVE counting(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM counting WHERE n < {last})"
            " SELECT n FROM counting)"
        )
    digits = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
    places = len(str(last - first))
    value = " + ".join(f"d{place}.d * {10**place}" for place in range(places))
    tables = " CROSS JOIN ".join(f"({digits}) AS d{place}" for place in range(places))
    return f"(SELECT {first} + {value} AS n FROM {tables} HAVING n <= {last})"

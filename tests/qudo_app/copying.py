"""Bringing Qudo's rows from one database to another, whatever the engines and character sets."""

from __future__ import annotations

import contextlib

from tests.servers.databases import Database, Session

#: Each table's numbers, texts (VARCHAR) and bytes (blobs).
_COLUMNS = {
    "func": (("id",), ("name",), ()),
    "job": (
        ("id", "func_id", "enqueue_time", "grabbed_until", "run_after", "retry_cnt", "priority"),
        ("uniqkey",),
        ("arg",),
    ),
    "exception_log": (("id", "func_id", "exception_time", "retried"), ("uniqkey",), ("message", "arg")),
    "job_status": (("id", "func_id", "job_start_time", "job_end_time"), ("uniqkey", "status"), ("arg",)),
}


def copy_tables(source: Database, target: Database) -> None:
    """Replace the rows of `target`'s four tables by those of `source`, ids and bytes kept."""
    with contextlib.closing(target.session()) as session, session.transaction():
        for table in _COLUMNS:
            _copy(source, session, table)


def _copy(source: Database, target: Session, table: str) -> None:
    numbers, texts, blobs = _COLUMNS[table]
    selected = [*numbers, *(source.as_bytes(column) for column in (*texts, *blobs))]
    target.execute(f"DELETE FROM {table}")
    for row in source.rows(f"SELECT {', '.join(selected)} FROM {table}"):
        number_values = ["NULL" if value is None else str(int(value)) for value in row[: len(numbers)]]
        text_values = [target.text(value) for value in row[len(numbers) : len(numbers) + len(texts)]]
        blob_values = [target.arg(value) for value in row[len(numbers) + len(texts) :]]
        target.execute(
            f"INSERT INTO {table} ({', '.join((*numbers, *texts, *blobs))})"
            f" VALUES ({', '.join([*number_values, *text_values, *blob_values])})"
        )

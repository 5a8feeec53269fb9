"""The dumps that the real Qudo wrote, and what its apps had enqueued."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.servers.databases import Database

FOLDER = Path(__file__).parent.parent / "data" / "qudo"

Which = Literal["a", "b"]

#: Columns that hold absolute times.
_TIMES = {
    "job": ("enqueue_time", "run_after"),
    "exception_log": ("exception_time",),
    "job_status": ("job_start_time", "job_end_time"),
}


class ExpectedJob(NamedTuple):
    """One job as an app enqueued it. Workers may have finished it before the dump."""

    db: str
    id: int
    func: str
    serializer: str
    uniqkey: str | None
    priority: int
    run_after: int
    #: The value passed; of a raw job its bytes, or None.
    arg: Any


def load_fixture(db: Database, which: Which) -> None:
    """Load dump `a` or `b` in place of the database's tables, its times moved to now. MariaDB databases only.

    The tables come with the engine and the character set of the dump: a: InnoDB, utf8mb4; b: MyISAM, latin1.
    """
    db.load_dump(FOLDER / f"qudo_{which}.sql")
    db.engine, db.charset = ("InnoDB", "utf8mb4") if which == "a" else ("MyISAM", "latin1")
    db.close()
    shift = db.now() - int(db.value("SELECT MAX(enqueue_time) FROM job"))
    for table, columns in _TIMES.items():
        db.execute(f"UPDATE {table} SET {', '.join(f'{column} = {column} + {shift}' for column in columns)}")
    db.execute(f"UPDATE job SET grabbed_until = grabbed_until + {shift} WHERE grabbed_until > 0")


def expected_jobs(which: Which | None = None) -> list[ExpectedJob]:
    """All jobs that the apps enqueued, or those of one database."""
    return [job for job in _expected() if which in (None, job.db)]


@cache
def _expected() -> tuple[ExpectedJob, ...]:
    lines = (FOLDER / "expected.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_expected_job(json.loads(line)) for line in lines)


def _expected_job(line: dict[str, Any]) -> ExpectedJob:
    raw = line.get("arg_hex")
    return ExpectedJob(
        line["db"],
        int(line["id"]),
        line["func"],
        line["serializer"],
        line["uniqkey"],
        int(line["priority"]),
        int(line["run_after"]),
        line.get("arg") if raw is None else bytes.fromhex(raw),
    )

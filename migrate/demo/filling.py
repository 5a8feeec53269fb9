"""Writes the shop into a Qudo database of its own: an SQLite file with Qudo's tables."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine

from migrate.demo.shop import Shop
from migrate.qudo import tables


def fill(path: Path, shop: Shop) -> None:
    """Make the file. A job's id is its place in the shop, from 1 on."""
    names = sorted({job.func for job in shop.jobs} | {failure.func for failure in shop.failures})
    func_ids = {name: number for number, name in enumerate(names, 1)}
    jobs = [
        {
            "id": number,
            "func_id": func_ids[job.func],
            "arg": job.arg,
            "uniqkey": job.uniqkey,
            "enqueue_time": job.enqueue_time,
            "grabbed_until": job.grabbed_until,
            "run_after": job.run_after,
            "retry_cnt": job.retry_cnt,
            "priority": job.priority,
        }
        for number, job in enumerate(shop.jobs, 1)
    ]
    failures = [
        {
            "func_id": func_ids[failure.func],
            "exception_time": failure.exception_time,
            "message": failure.message.encode(),
            "uniqkey": failure.uniqkey,
            "arg": failure.arg,
        }
        for failure in shop.failures
    ]
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True)
    try:
        tables.qudo.create_all(engine)
        with engine.begin() as connection:
            connection.execute(
                tables.func.insert(), [{"id": number, "name": name} for name, number in func_ids.items()]
            )
            connection.execute(tables.job.insert(), jobs)
            connection.execute(tables.exception_log.insert(), failures)
    finally:
        engine.dispose()

"""What Resque must hold for a row of the outbox, as decoded values. Pure; shares nothing with the payload's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from migrate.decision import Decision
from migrate.jobs import QudoJob
from migrate.translate import expected_args, readable
from migrate.verify.values import difference


class Expected(NamedTuple):
    """A job as a worker must see it."""

    class_: str
    args: Sequence[object]
    origin: dict[str, object]  #: what must stand in its key `qudo`, but for the identity
    queue: str


def expected(job: QudoJob, decision: Decision) -> Expected:
    """What must be there. Raises Untranslatable for a row that can't be read (any more)."""
    origin: dict[str, object] = {"source": job.source}
    if job.id is not None:
        origin["id"] = job.id
    if job.uniqkey is not None:
        origin["uniqkey"] = readable(job.uniqkey)
    if job.priority:
        origin["priority"] = job.priority
    if job.retry_cnt:
        origin["retry_cnt"] = job.retry_cnt
    if job.enqueue_time:
        origin["enqueue_time"] = job.enqueue_time
    return Expected(decision.class_, expected_args(job, decision), origin, decision.queue)


def differs(wanted: Expected, found: dict[str, Any], queue: object) -> str | None:
    """Where a job in Resque differs, as a path; None when it doesn't. Names keys, never values."""
    left: dict[str, object] = {"class": wanted.class_, "args": list(wanted.args), "queue": wanted.queue}
    right: dict[str, object] = {"class": found.get("class"), "args": found.get("args"), "queue": queue}
    for key in ("class", "queue", "args"):
        problem = difference(left[key], right[key])
        if problem is not None:
            return f"{key}{'' if problem.startswith(('.', '[')) else ': '}{problem}"
    ours = found.get("qudo")
    origin = {key: ours.get(key) for key in wanted.origin} if isinstance(ours, dict) else {}
    if isinstance(ours, dict):
        from_content = {
            key: ours[key] for key in ("id", "uniqkey", "priority", "retry_cnt", "enqueue_time") if key in ours
        }
        origin = {"source": ours.get("source"), **from_content}
        problem = difference(wanted.origin, origin)
        if problem is not None:
            return f"qudo{'' if problem.startswith(('.', '[')) else ': '}{problem}"
    return None

"""What Resque must hold for a row of the outbox, as decoded values. Pure; shares nothing with the payload's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from migrate.decision import Decision
from migrate.jobs import QudoJob
from migrate.translate import expected_args, readable
from migrate.verify import content
from migrate.verify.content import ORIGIN_KEYS
from migrate.verify.values import difference

#: Letters of each side's args that a finding shows, if asked to.
SHOWN_LETTERS = 1000


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


def differs(wanted: Expected, found: dict[str, Any], queue: object, *, numbers_reread: bool = False) -> str | None:
    """Where a job in Resque differs, as a path; None when it doesn't. Names keys, never values.

    `numbers_reread`: a worker has decoded the job and encoded it again, as for its failures: Perl's and Node's have one
    kind of number, so 1.0 may have become 1, and a large integer may be rounded.
    """
    ours = found.get("qudo")
    pairs: list[tuple[str, object, object]] = [
        ("class", wanted.class_, found.get("class")),
        ("queue", wanted.queue, queue),
        ("args", list(wanted.args), found.get("args")),
    ]
    if isinstance(ours, dict):
        pairs.append(("qudo", wanted.origin, {key: ours[key] for key in ORIGIN_KEYS if key in ours}))
    for name, left, right in pairs:
        problem = difference(_doubles(left), _doubles(right)) if numbers_reread else difference(left, right)
        if problem is not None:
            within = problem.startswith((".", "["))
            return f"{name}{problem}" if within else f"{name}{problem.removeprefix('the value')}"
    return None


def _doubles(value: object) -> object:
    """The value as a reader sees it for whom all numbers are doubles."""
    if isinstance(value, dict):
        return {key: _doubles(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_doubles(inner) for inner in value]
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return value
    return value


def shown(wanted: Expected, found: dict[str, Any]) -> str:
    """Both sides' args, for who asked to see them."""
    left, right = (content.spelling(args).decode() for args in (list(wanted.args), found.get("args")))
    return f"; Qudo has {left[:SHOWN_LETTERS]}, Resque has {right[:SHOWN_LETTERS]}"

"""What Resque must hold for a row of the outbox, as decoded values. Pure; shares nothing with the payload's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from migrate.decision import Decision
from migrate.jobs import QudoJob
from migrate.translate import expected_args, readable
from migrate.verify import content
from migrate.verify.content import Origin
from migrate.verify.values import difference

#: Letters of each side's args that a finding shows, if asked to.
SHOWN_LETTERS = 1000


class Expected(NamedTuple):
    """A job as a worker must see it."""

    class_: str
    args: Sequence[object]
    origin: Origin  #: what must stand in its key `qudo`, but for the identity
    queue: str


def expected(job: QudoJob, decision: Decision) -> Expected:
    """What must be there. Raises Untranslatable for a row that can't be read (any more)."""
    origin = Origin(
        job.source,
        job.id,
        None if job.uniqkey is None else readable(job.uniqkey),
        job.priority or None,
        job.retry_cnt or None,
        job.enqueue_time or None,
    )
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
        pairs.append(("qudo", wanted.origin.told, {key: ours[key] for key in Origin.__struct_fields__ if key in ours}))
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

"""What becomes of a job whose attempt has ended: done, tried again, or failed for good. Pure."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from migrate.resque import moments
from migrate.resque.dialects import Dialect
from migrate.resque.workers import DONE, Settlement, Taken, shown_name
from migrate.worker.payloads import NotAJob, Payload, decode, next_try
from migrate.worker.performing import Outcome, plain
from migrate.worker.retries import Policy

#: Characters of a message that a failure keeps.
MOST_ERROR_CHARACTERS = 10_000

_encode = msgspec.json.encode


def settle(
    taken: Taken,
    payload: Payload | None,
    outcome: Outcome,
    policy: Policy,
    dialect: Dialect,
    worker_id: str,
    now: float,
) -> Settlement:
    """Decide by the outcome and the policy. `now`: Unix time, for the failure's record.

    Every failure is recorded, as in Qudo. One whose job is tried again carries `retried_at`, which tools show as
    requeued and `verify` takes for history; without it, the failure is final.
    """
    if outcome.done:
        return DONE
    again = payload is not None and outcome.retriable and policy.allows_retry(payload.retries)
    failure = _failure(taken, outcome, dialect, worker_id, now, retried=again)
    if not again or payload is None:
        return Settlement("failed", failure)
    delay = outcome.retry_delay
    if delay is None:
        delay = 0.0 if callable(policy.retry_delay) else max(0.0, policy.retry_delay)
    texts = next_try(payload, taken.queue, policy.max_retries, dialect)
    if delay <= 0:
        return Settlement("queue", failure, taken.queue, texts.queued)
    return Settlement("delay", failure, taken.queue, texts.delayed, delay, texts.left_behind, texts.content)


def _failure(taken: Taken, outcome: Outcome, dialect: Dialect, worker_id: str, now: float, *, retried: bool) -> bytes:
    """An entry of Resque's list of failures, the payload's text as it was."""
    record: dict[str, Any] = {
        "failed_at": moments.failed_at(dialect, now),
        "payload": _payload(taken.text),
        "exception": outcome.exception,
        "error": outcome.error[:MOST_ERROR_CHARACTERS],
        "backtrace": outcome.backtrace,
        "worker": plain(shown_name(worker_id, dialect)),
        "queue": plain(taken.queue),
    }
    if retried:
        record["retried_at"] = time.strftime("%Y/%m/%d %H:%M:%S", time.gmtime(now))
    return _encode(record)


def _payload(text: bytes) -> object:
    """What the failure shows as the job: its very text, or a stand-in for what is no job."""
    try:
        decode(text)
        return msgspec.Raw(text)
    except NotAJob:
        return {"class": "", "args": [text.decode("utf-8", "replace")]}

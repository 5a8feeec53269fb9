"""Jobs that are due later, in resque-scheduler's layout: moving those that have fallen due. Writes to Resque's keys.

The Perl world has no process for this. The texts are pushed as they are, so nothing that a payload carries is lost;
resque-scheduler and node-resque re-encode them from class, queue and args.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from redis.exceptions import LockError
from redis.lock import Lock

from migrate.errors import ServerError
from migrate.resque import lua
from migrate.resque.handoff import wrong_type
from migrate.resque.target import Target

#: Jobs that one call of the script moves.
CALL_JOBS = 500
#: Seconds after which a leader that has died is replaced.
LEADER_SECONDS = 10.0


class Moved(NamedTuple):
    """What one call did."""

    jobs: int
    aside: int  #: texts that name no usable queue: now in `qudo_migrate:unscheduled`
    next_in: float | None  #: seconds until the next job falls due, 0 or less when one is due; None: there is none


def move_due(target: Target) -> Moved:
    """Move jobs that have fallen due by Redis's own clock, at most `CALL_JOBS`. Safe side by side and to repeat.

    Raises Unavailable (full, read-only, away): then nothing was moved, or all that was is counted by the next call.
    Raises UsageError when something else uses Resque's keys.
    """
    keys = target.keys
    arguments = [f"{target.namespace}:", CALL_JOBS]
    script = lua.source("guard", "schedule")
    match target.run(script, [keys.schedule, keys.queues, keys.unscheduled], arguments):
        case [b"type", key, kind]:
            raise wrong_type(target, key, kind)
        case [_, jobs, aside, score, now_us]:
            next_in = float(score) - int(now_us) / 1_000_000 if score else None
            return Moved(int(jobs), int(aside), next_in)
        case reply:
            raise ServerError(f"target {target.label}: an answer that makes no sense: {str(reply)[:80]}")


class Leadership:
    """One leader among the schedulers of a namespace: for less work, not for safety, which the script alone gives."""

    def __init__(self, target: Target) -> None:
        self._target = target
        with target.commands() as client:
            self._lock: Lock = client.lock(target.keys.scheduler.decode(), timeout=LEADER_SECONDS, thread_local=False)

    def hold(self) -> bool:
        """Become or stay the leader; call it more often than `LEADER_SECONDS`. Raises Unavailable."""
        with self._target.commands():
            if self._lock.owned():
                with contextlib.suppress(LockError):  # it ended between the two commands
                    return bool(self._lock.reacquire())
            return bool(self._lock.acquire(blocking=False))

    def release(self) -> None:
        """Let another lead at once."""
        with self._target.commands():
            if self._lock.owned():
                with contextlib.suppress(LockError):
                    self._lock.release()

"""Workers of ours that died with a job in hand: the job is tried again or failed on record. Reads and writes Redis.

Workers of other languages are left to their own kind: their job is in no note of ours, and it is theirs to prune.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from migrate.resque.target import Target
from migrate.resque.workers import Member, bury, members
from migrate.worker import lineage
from migrate.worker.assigning import Assigner
from migrate.worker.performing import Outcome


def bury_dead(target: Target, assigner: Assigner, own_id: str, dead_after_seconds: float) -> Iterator[str]:
    """Settle what the dead had in hand; yields a line on each. Safe side by side. Raises Unavailable.

    On this machine the kernel knows who lives; a worker elsewhere is dead when it has not beaten for so long, by
    Redis's clock. `own_id` with another process behind it is a dead one whose pid this worker has got.
    """
    now = target.now()
    for member in members(target):
        if member.id == own_id:
            gone: bool | None = not lineage.is_this(member.process)
        else:
            gone = lineage.is_gone(member.process)
        by_heartbeat = gone is None
        if by_heartbeat:
            gone = _silent_seconds(member, now) > dead_after_seconds
        if gone and (line := _bury(target, assigner, member, by_heartbeat=by_heartbeat)):
            yield line


def _bury(target: Target, assigner: Assigner, member: Member, *, by_heartbeat: bool) -> str:
    if member.job is None:
        answer = bury(target, member, None, assigner.dialect, by_heartbeat=by_heartbeat)
        return f"worker {member.id} was gone: taken off the list" if answer == "buried" else ""
    # The keys that this job may have left behind were recalled when it was taken, or are found when it is next.
    assignment = assigner.assign(member.job, lambda _taken, _content: b"")
    outcome = Outcome(False, True, "DirtyExit", f"worker {member.id} died while the job ran")
    settlement = assigner.settle(assignment, outcome, member.id, time.time())
    if bury(target, member, settlement, assigner.dialect, by_heartbeat=by_heartbeat) != "buried":
        return ""
    return f"worker {member.id} had died: {assigner.story(assignment, outcome, settlement)}"


def _silent_seconds(member: Member, now: float) -> float:
    if member.heartbeat is None:
        return 0.0
    try:
        beaten = datetime.fromisoformat(member.heartbeat.decode())
    except ValueError:
        return 0.0
    return now - beaten.replace(tzinfo=beaten.tzinfo or UTC).timestamp()

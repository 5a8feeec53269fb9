"""Where a job goes: to which source, and on which side of a ramp. Pure, and the same in every process.

Keys that the database takes for equal must go the same way, so they are folded first.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from migrate.resque.steps import Step, StepNote
from migrate.resque.unique_keys import folded


def _hash(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return int.from_bytes(digest.digest(), "big")


def source_for(names: Sequence[str], func: str, uniqkey: str | None) -> str:
    """The source of a job: by its key (the same as long as that source is there), else any."""
    if len(names) == 1:
        return names[0]
    if uniqkey is None:
        return random.choice(names)  # noqa: S311  as Qudo spreads its jobs
    key = folded(uniqkey).encode()
    return max(names, key=lambda name: _hash(name.encode(), func.encode(), key))


def taken_step(note: StepNote | None, func: str, uniqkey: str | None, arg: bytes | None) -> Step:
    """The step by which a job is written: a ramp leaves the others in Qudo, stable by uniqkey, else by arg."""
    if note is None:
        return Step.QUDO
    if note.step is not Step.SWITCHED or note.percent >= 100:
        return note.step
    by = folded(uniqkey).encode() if uniqkey is not None else (arg or b"")
    return Step.SWITCHED if _hash(func.encode(), by) % 100 < note.percent else Step.QUDO

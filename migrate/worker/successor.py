"""What a pool leaves to the code that takes its place by exec: its workers, and what it has counted."""

from __future__ import annotations

import os

import msgspec

from migrate.worker.telling import Heard

#: In the environment over the exec.
VARIABLE = "QUDO_MIGRATE_POOL"
#: In the environment of a trial: load all, reach Redis, start nothing.
TRIAL = "QUDO_MIGRATE_TRIAL"


class OldWorker(msgspec.Struct, frozen=True, array_like=True):
    """A worker with the code of before."""

    pid: int
    fd: int  #: where it tells what it has done; -1: nowhere


class Legacy(msgspec.Struct, frozen=True):
    """All of it. The processes are children of the same pid, so they stay the pool's own."""

    workers: tuple[OldWorker, ...] = ()
    others: tuple[int, ...] = ()  #: pids that were told to end and are only waited for
    paused: bool = False
    done: int = 0
    failed: int = 0


def leave(legacy: Legacy) -> None:
    """Put it where `take` of the next program finds it; descriptors stay open over the exec."""
    for worker in legacy.workers:
        if worker.fd >= 0:
            os.set_inheritable(worker.fd, True)
    os.environ[VARIABLE] = msgspec.json.encode(legacy).decode()


def take() -> Legacy:
    """What was left, once; nothing at a pool's first start."""
    text = os.environ.pop(VARIABLE, "")
    return msgspec.json.decode(text, type=Legacy) if text else Legacy()


def hear(worker: OldWorker) -> Heard | None:
    """The pool's end of the pipe again."""
    if worker.fd < 0:
        return None
    os.set_inheritable(worker.fd, False)
    return Heard(worker.fd)

"""The records that flow through everything, one way: a QudoJob is read, a ResqueJob is pushed; so with failures.

Pure data: no I/O, no knowledge of either server.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

#: One spelling for each identity: int() would also take "0x", "_", signs, spaces and capitals.
_IDENTITY = re.compile(r"[0-7][0-9a-f]{15}-(?:0|[1-9][0-9]{0,9})")


class Identity(NamedTuple):
    """What names one crossing job for ever: never used twice, its ledger bit never cleared.

    It is not Qudo's job id, which a restored backup, a restart of an old InnoDB or TRUNCATE can hand out again.
    """

    batch: int  #: random, 63 bits, drawn by one process for at most 65,536 jobs
    seq: int  #: position within the batch, in Qudo's order; the bit's place in the batch's ledger bitmap

    @property
    def text(self) -> str:
        """The form that payloads carry and reports show: sixteen hex digits, a dash, the seq."""
        return f"{self.batch:016x}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read what `text` wrote. Raises ValueError for anything else."""
        if not _IDENTITY.fullmatch(text):
            raise ValueError(f"not an identity: {text!r}")
        batch, _, seq = text.partition("-")
        return cls(int(batch, 16), int(seq))


class QudoJob(msgspec.Struct, frozen=True, gc=False):
    """One row of Qudo's `job` table, or the copy of it in the outbox. Times are Unix seconds."""

    source: str  #: the name of the source in the configuration
    id: int | None  #: Qudo's job id; None for a job that never was in `job`
    func_id: int
    func: str  #: the Perl worker class
    arg: bytes | None  #: as stored; None is SQL's NULL
    uniqkey: bytes | None  #: as stored, whatever the column's character set
    enqueue_time: int | None  #: rewritten by each grab and retry, by a client's clock
    grabbed_until: int  #: end of the lease; 0 when nobody holds the row
    run_after: int
    retry_cnt: int
    priority: int  #: higher runs first


class QudoFailure(msgspec.Struct, frozen=True, gc=False):
    """One row of Qudo's `exception_log`: a job failed; its row in `job` may be gone or wait for a retry."""

    source: str
    id: int  #: of the row in `exception_log`; the job's own id isn't known there
    func_id: int
    func: str
    time: int  #: Unix second
    message: bytes  #: as the Perl worker died
    uniqkey: bytes | None
    arg: bytes | None


class ResqueFailure(msgspec.Struct, frozen=True, gc=False):
    """One failure as Redis gets it."""

    id: int  #: of the row in `exception_log`
    time: int  #: of that row
    fingerprint: str  #: of that row's content, 16 hex digits: ids come back
    text: (
        bytes | None
    )  #: the entry of Resque's list of failures, UTF-8 JSON; None: only note that the row is dealt with


class ResqueJob(msgspec.Struct, frozen=True, gc=False):
    """One job as Redis gets it. Texts are UTF-8 JSON."""

    identity: Identity
    queue: str
    payload: bytes  #: what is pushed onto the queue when the job is due
    due: int = 0  #: Unix second before which it waits in the delayed layout; 0: never waits there
    delayed: bytes | None = None  #: the text for the delayed layout, None when `due` is 0
    func: str = ""  #: Qudo's func, by which migrators are paused
